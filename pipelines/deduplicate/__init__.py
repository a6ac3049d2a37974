# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Groups of near duplicates: fingerprints, locality-sensitive hashing, connected components."""
