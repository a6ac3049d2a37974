# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What accelerators offer (memory, FLOPs a second) and what a model asks of them."""
