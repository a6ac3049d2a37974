# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Stage two of Parti: an encoder-decoder that writes image tokens from a caption."""
