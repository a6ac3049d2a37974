# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Perceptual distances between images: VGG16 with LPIPS heads, and a substitute without weights."""
