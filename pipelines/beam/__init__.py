# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What Beam jobs share: options, runners, model handlers, sharded writers, a shuffle on disk."""
