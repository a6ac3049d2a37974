# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training loop and what it sequences: set-up, evaluation, samples, recovery, directory."""
