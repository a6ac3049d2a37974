# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures of generated and reconstructed images, with intervals, and their reports."""
