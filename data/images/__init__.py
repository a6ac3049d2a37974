# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Decoding and resizing of images, training crops, and hashes that survive a re-encoding."""
