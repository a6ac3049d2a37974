# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Adversarial training, shared by image tokenizer and upsampler: StyleGAN2's discriminator."""
