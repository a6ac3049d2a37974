# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: written whole, kept by a policy, checked for corruption, read by T5X too."""
