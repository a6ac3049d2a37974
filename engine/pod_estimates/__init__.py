# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a pod that is not there would need: memory, FLOPs, traffic; by ahead-of-time compilation."""
