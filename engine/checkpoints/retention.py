# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The preservation policy: which checkpoints stay; others are deleted once a newer one is whole.

CHECKPOINTS_TO_KEEP, KEEP_CHECKPOINT_PERIOD, BEST_METRIC and BEST_MODE decide, each by itself: a
checkpoint goes only if none of them wants it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

MODES = ("min", "max")

Metrics = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Retention:
    """An Orbax preservation policy.

    Orbax's own `LatestN` would count a checkpoint that a signal made among the last k, so that
    NAN_POLICY 'rollback' could go back to another step than in a run that nothing interrupted.
    """

    keep: int | None = None  # the newest and, before it, multiples of `period`; None: all
    period: int = 1  # steps between two regular checkpoints
    keep_period: int = 0  # those at multiples of it stay for good; 0: none does
    best_metric: str = ""  # a validation metric; the best checkpoint stays. '': none
    best_mode: str = "min"  # or 'max'

    def __post_init__(self) -> None:
        """Raises ValueError for settings that contradict one another."""
        if self.best_mode not in MODES:
            raise ValueError(f"BEST_MODE must be 'min' or 'max', got {self.best_mode!r}")
        if not isinstance(self.best_metric, str):
            raise ValueError(
                f"BEST_METRIC must be the name of a validation metric in quotes, or '' for none; "
                f"got {self.best_metric!r}"
            )
        if self.keep_period and self.keep_period % self.period:
            raise ValueError(
                f"KEEP_CHECKPOINT_PERIOD {self.keep_period} is no multiple of CHECKPOINT_PERIOD "
                f"{self.period}, so there may be no checkpoint to keep; set it to a multiple"
            )

    def kept(self, saved: Mapping[int, Metrics | None]) -> set[int]:
        """Returns the steps to keep of {step: validation metrics at that step, if any}."""
        steps = sorted(saved)
        if self.keep is None or not steps:
            return set(steps)
        regular = [step for step in steps[:-1] if step % self.period == 0]
        stay = {steps[-1], *regular[max(len(regular) - self.keep + 1, 0) :]}
        if self.keep_period:
            stay |= {step for step in steps if step % self.keep_period == 0}
        values = {step: (saved[step] or {}).get(self.best_metric, math.nan) for step in steps}
        finite = [step for step in steps if math.isfinite(values[step])]
        if finite:  # The first of equals is the best.
            stay.add((min if self.best_mode == "min" else max)(finite, key=values.__getitem__))
        return stay

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns, for each of Orbax's checkpoint infos in order, whether it stays."""
        del context  # Orbax has nothing in it yet.
        stay = self.kept({info.step: info.metrics for info in checkpoints})
        return [info.step in stay for info in checkpoints]
