# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Training, ahead-of-time compilation and loading of any `models.base.Model`, with JAX.

The commands are `train` and `compile`; `t5x_bridge` is for T5X. Rooms, each importing only those
before it: input, distributed, hardware, monitoring, checkpoints, config, inference, experiment,
step, pod_estimates, loop.
"""
