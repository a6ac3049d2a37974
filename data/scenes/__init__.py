# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The built-in data set: images of simple shapes with captions, and a reader that checks them.

`sampling` chooses a scene, `drawing` paints it, `captions` describes it, `reader` reads an image
back, and `probe` measures how well an image agrees with its caption.
"""
