# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The reranker, CoCa: images and texts in one embedding space, and captions of images."""
