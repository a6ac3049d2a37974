# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gin files: parsing, one-line errors, and the data that a configuration names."""
