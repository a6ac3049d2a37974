# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The version of the package; `setup.py` reads it without importing anything."""

VERSION = "0.1.0"
