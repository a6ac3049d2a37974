# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The job behind `parti clean`: filter sources, decide about duplicates, merge shards, report.

job.py             the Beam graph; read this first
settings.py        the settings that decide the bytes of the output
filter_sources.py  a source to its intermediate shard, its rejected rows and its counts
filter_pair.py     one pair: rules, fingerprint, the new image
intermediate.py    filtered pairs on disk, grouped by the final shard that they go to
merge_shards.py    the final shards
incremental.py     --extend: what of an earlier run is taken over, what is read again
statistics.py      what is counted and sampled for the report
summary.py         counts and samples to the content of the report; report*.py write it
last_lines.py      what is said at the end, or why there is nothing to publish
reasons.py         every reason to drop a pair in words; rule_docs.py writes docs/clean_rules.md
"""
