# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Cores and memory, also where Linux's own calls are absent."""

import os
import sys
import types

import pytest

from parti.stages import machine


@pytest.fixture
def without_linux(monkeypatch):
    for name in ("process_cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)


def test_cores_without_the_calls_of_linux(monkeypatch, without_linux):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.num_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # "undetermined"
    assert machine.num_cores() == 1


def test_cores_of_a_process_that_is_bound_to_some(monkeypatch, without_linux):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3}, raising=False)
    assert machine.num_cores() == 2
    monkeypatch.setattr(os, "process_cpu_count", lambda: 5, raising=False)
    assert machine.num_cores() == 5


@pytest.mark.parametrize(("platform", "num_bytes"), [("linux", 3 * 1024), ("darwin", 3)])
def test_memory_is_in_bytes(monkeypatch, platform, num_bytes):
    usage = types.SimpleNamespace(ru_maxrss=3)
    monkeypatch.setattr(machine.resource, "getrusage", lambda _: usage)
    monkeypatch.setattr(sys, "platform", platform)
    assert machine.peak_memory() == num_bytes


def test_memory_of_this_process():
    assert 2**20 < machine.peak_memory() < 2**50
