# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Captions, prompts and vocabularies: cleaning, languages, word lists, hashes, SentencePiece."""
