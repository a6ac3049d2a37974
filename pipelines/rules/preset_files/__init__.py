# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Presets of `parti clean`: published filters by name. Copy one, change it, give it as --preset."""
