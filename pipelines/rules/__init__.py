# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Filter rules for pairs, and presets that name a set of thresholds.

table.py       every rule with its name, words, threshold and function; read this first
preset_files/  the thresholds of published filters, and of the default
rule.py        the form of a rule, of its settings, and of the captions and images it reads
presets.py     a preset and flags to a value for every setting
evaluate.py    the rules applied to one pair
"""
