# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run tells of itself: metrics, TensorBoard, profiles, telemetry, and a watchdog."""
