# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pretraining of Parti's text encoder: BERT on texts, contrast with images; layers and losses."""
