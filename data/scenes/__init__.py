# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images of simple shapes with captions.

`sampling` chooses a scene, `drawing` paints it, `captions` describes it, `reader` reads an image
back, and `probe` measures how well an image agrees with a scene.
"""
