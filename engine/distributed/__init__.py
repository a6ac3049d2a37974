# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meshes, logical axis rules, several processes, and the signals that stop them together."""
