# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs a gin experiment on devices: mesh, optimizer, checkpoints, the loop, prediction."""
