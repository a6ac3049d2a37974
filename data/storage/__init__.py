# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""TFRecord files and what is in them: the schema of every record, framing, names of shards."""
