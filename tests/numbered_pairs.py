# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pairs made of their numbers, their fingerprint rows, and a filter of them."""

import hashlib

from parti.data.storage import records
from parti.pipelines import readers
from parti.pipelines.clean import filter_pair, statistics
from parti.pipelines.deduplicate import fingerprints

NUM_SHARDS = {"train": 3, "validation": 1}


def pair(number):
    return records.ImageTextPair(f"key{number:03d}", bytes([number]) * 50, f"caption {number}")


def fingerprint(of):
    """Returns the row of a pair; every fifth goes to validation."""
    digest = hashlib.sha256(of.key.encode()).digest()
    split = "train" if int(of.key[3:]) % 5 else "validation"
    return fingerprints.Fingerprint(
        *("", of.key, split, digest[:16], digest[16:], 2**63 + 5, bytes(192), digest[:16]),
        words=(1, 2**40),
        area=100,
        num_bytes=len(of.image),
    )


def filter_key(of):
    """Rejects keys that end in 7; the others pass."""
    if of.key.endswith("7"):
        result = readers.Rejected(of.key, "seven", "7", of.text)
    else:
        result = filter_pair.Passed(of, fingerprint(of))
    return filter_pair.Filtered(result, [statistics.Count("before", "length", len(of.text))])


def make_filter():
    return filter_key
