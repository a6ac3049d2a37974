# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What this machine gives a process: cores, and the memory it took; on Linux and macOS."""

import os
import resource
import sys


def num_cores() -> int:
    """Returns the number of cores that this process may use.

    Only Linux knows of processes that are bound to some of the cores; elsewhere these are all.
    """
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> int:
    """Returns the most memory, in bytes, that this process or one child of it held at a time."""
    processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    largest = max(resource.getrusage(who).ru_maxrss for who in processes)
    return largest if sys.platform == "darwin" else 1024 * largest  # Linux counts in KiB
