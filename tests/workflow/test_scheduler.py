# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""How a run of Snakemake is stopped."""

import signal
import subprocess
import sys
import time

from parti.workflow import scheduler

# A stage that is still deaf to signals when the first one comes, as one that has just begun under
# nohup, and what started it, which waits for it.
STAGE = """
import signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
print("begun", flush=True)
time.sleep(2)
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
time.sleep(60)
"""
SNAKEMAKE = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.exit(subprocess.call([sys.executable, "-c", sys.argv[1], "parti.workflow.stage"]))
"""


def test_a_stage_that_missed_the_signal_gets_it_again() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SNAKEMAKE, STAGE], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout and process.stdout.readline() == b"begun\n"
    before = time.monotonic()
    scheduler.stop(process, patience=30)
    assert process.returncode == 143
    assert time.monotonic() - before < 25
    process.stdout.close()


def test_what_never_ends_is_killed_when_the_time_is_over() -> None:
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('begun', "
    command = [sys.executable, "-c", f"{deaf}flush=True); time.sleep(60)"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout and process.stdout.readline() == b"begun\n"
    scheduler.stop(process, patience=1.5)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()
