# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Beam jobs, one per verb."""
