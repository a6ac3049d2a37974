# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""JSON values of all kinds, NaN and texts that cannot be written among them, for hypothesis."""

from hypothesis import strategies

JSON = strategies.recursive(
    strategies.none() | strategies.floats() | strategies.text(strategies.characters(), max_size=9),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
