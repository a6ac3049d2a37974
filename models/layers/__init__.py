# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers shared by the families: attention, Transformer stacks, positions, masks, patches."""
