# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The built-in data set: pictures of simple shapes with captions, and a reader that checks them.

`sampling` chooses a scene, `drawing` paints it, `captions` describes it, `reader` reads a picture
back, and `probe` measures how well a picture agrees with its caption.
"""
