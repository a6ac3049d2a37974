# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks (arrays to arrays) and models (a batch to a loss, metrics or predictions)."""
