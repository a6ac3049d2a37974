# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ahead-of-time compilation for a pod that is not there: memory, FLOPs, collectives."""
