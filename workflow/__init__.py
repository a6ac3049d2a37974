# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the stages of a workflow file with Snakemake, and only those that are stale."""
