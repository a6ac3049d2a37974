# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches of images to tokenize, and shards that are written batch by batch."""
