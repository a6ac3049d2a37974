# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Workflow files: the numbers of each stage."""
