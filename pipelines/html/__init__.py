# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pages that stand alone: one set of Jinja templates, galleries, contact sheets."""
