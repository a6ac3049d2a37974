# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches for a training: data sets with an exact position, read ahead in a thread."""
