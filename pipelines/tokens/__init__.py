# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches of images to tokenize, shards of tokens, and shards that can be resumed."""
