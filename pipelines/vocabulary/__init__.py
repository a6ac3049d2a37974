# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The sample of captions that a vocabulary is trained on, and statistics of the vocabulary."""
