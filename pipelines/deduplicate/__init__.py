# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Duplicates among pairs, by rows of hashes.

duplicate_rules.py  the rules of duplicates in their order, and which copy stays
near_duplicates.py  where near duplicates are grouped: by locality-sensitive hashing, not all pairs
similarity.py       when two rows are near: by their images, or by their captions
fingerprints.py     the row of a pair
changed_copies.py   when one row's image is another's, mirrored, bordered, cropped or captioned
"""
