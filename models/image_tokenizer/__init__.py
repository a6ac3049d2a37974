# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The image tokenizer: a ViT-VQGAN between images and grids of codebook indices."""
