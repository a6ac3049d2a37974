# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables: delimited text, JSON lines and Parquet to rows, rows to pairs."""
