# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parti's text encoder: pretrained with BERT and with contrast, or fine-tuned to tell classes."""
