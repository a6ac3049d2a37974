# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shared test set-up: CPU only, eight fake devices, quiet TensorFlow; a bucket."""

import os
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()

import emulated_bucket  # noqa: E402
import hypothesis  # noqa: E402
import pytest  # noqa: E402

# A busy machine is slow, and a run tests what the last one did.
hypothesis.settings.register_profile("parti", deadline=None, derandomize=True)
hypothesis.settings.load_profile("parti")


@pytest.fixture(scope="session")
def gs_bucket() -> Iterator[emulated_bucket.Bucket]:
    """A `gs://` bucket, which only a process with its variables finds."""
    with emulated_bucket.serve() as served:
        yield served


@pytest.fixture(scope="module")
def bucket(gs_bucket: emulated_bucket.Bucket) -> Iterator[emulated_bucket.Bucket]:
    """A bucket that this process, and those it starts, find."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in gs_bucket.environment.items():
            patch.setenv(name, value)
        yield gs_bucket
