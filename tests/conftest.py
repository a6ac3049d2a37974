# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shared test set-up: CPU only, eight fake devices, quiet TensorFlow."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()

import hypothesis  # noqa: E402

# A busy machine is slow, and a run tests what the last one did.
hypothesis.settings.register_profile("parti", deadline=None, derandomize=True)
hypothesis.settings.load_profile("parti")
