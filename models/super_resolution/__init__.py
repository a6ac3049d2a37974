# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The upsampler: a WDSR network from the tokenizer's reconstruction to a larger image."""
