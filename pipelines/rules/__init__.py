# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Filter rules for pairs: each with its threshold, and presets that name a set of thresholds."""
