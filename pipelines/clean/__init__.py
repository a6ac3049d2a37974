# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The job behind `parti clean`: examine sources, decide about duplicates, merge shards, report."""
