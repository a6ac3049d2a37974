# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What an example is: records, pictures, captions, vocabularies, and the scenes data set."""
