# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The commands that make and use data, one file a command; most run on Apache Beam.

Rooms, each importing only those before it: beam, deduplicate, rules, readers, html, clean, tokens,
evaluation, vocabulary.
"""
