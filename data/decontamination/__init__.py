# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Finds training pairs that an evaluation set holds too, by text and by image hash."""
