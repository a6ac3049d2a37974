# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What to train, on what, from what: the settings of a training and their checks."""
