# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tasks over several data sets: a task for each and, in training, a seqio mixture by rate.

A rate is of examples: with {'laion': 3, 'own': 1} one example in four comes from `own`, however
large it is. The sets take turns evenly where rows are read each by itself
(`data/storage/row_order`); of packed texts a set is drawn for each example. Each set goes through
its own epochs.
"""

import hashlib
import json
import re
from collections.abc import Callable

import seqio

from parti.data.storage import data_sets

_MEMBER = re.compile(r"parti_[a-z_]+\.\d{3}\.(.+)_[0-9a-f]{12}")


def add(
    kind: str, folders: data_sets.Folders, macro: str, add_task: Callable[[str, str], str]
) -> str:
    """Registers what reads one folder or several, once, and returns its name.

    Args:
      kind: of the tasks.
      folders, macro: the folders, and the macro that names them.
      add_task: registers the task of a kind and a folder, and returns its name. The kinds of
        several data sets hold their numbers and names: seqio takes the order of tasks, on which
        positions depend, from their names, and a hash in them would change it with the paths.

    Returns:
      A task's name, or a mixture's, `parti_<kind>_mixture_<hash of its tasks and rates>`.

    Raises:
      ValueError: `data_sets.named` does, or `add_task`.
    """
    sets = data_sets.named(folders, macro)
    if len(sets) == 1:
        return add_task(kind, sets[""].folder)
    tasks = [
        (add_task(f"{kind}.{number:03d}.{name}", of.folder), of.rate)
        for number, (name, of) in enumerate(sets.items())
    ]
    digest = hashlib.sha256(json.dumps(tasks).encode("utf-8")).hexdigest()
    mixture = f"parti_{kind}_mixture_{digest[:12]}"
    if mixture not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(mixture, tasks)
    return mixture


def set_name(task_name: str) -> str:
    """Returns the data set's name of a task in a mixture that `add` made, else the task's."""
    found = _MEMBER.fullmatch(task_name)
    return found[1] if found else task_name
