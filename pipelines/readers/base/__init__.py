# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What all readers share: the rows they give, the files of a pair, and decompression."""
