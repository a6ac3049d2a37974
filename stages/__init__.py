# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What every command shares: its flags, progress line, manifest and output directory.

`files` is the one storage layer, local and remote; `publishing` makes a directory appear
whole or not at all. The leftmost folder: it imports nothing of Parti.
"""
