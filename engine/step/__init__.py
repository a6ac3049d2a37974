# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""One training step: gradients, optimizers, state, and the step that evaluates."""
