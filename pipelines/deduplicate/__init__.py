# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Duplicates among pairs, by rows of hashes.

fingerprints.py      the row of a pair
connected_groups.py  the rules in their order, and which copy of a group stays
lsh.py               near rows without comparing all with all: locality-sensitive hashing
changed_copies.py    when one row's picture is another's, mirrored, bordered, cropped or captioned
similarity.py        when two rows are near: by their images, or by their captions
"""
