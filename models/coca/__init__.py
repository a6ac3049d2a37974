# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The reranker: the contrastive part of CoCa, images and texts in one embedding space."""
