# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The metrics that a seqio task names (`metric_fns`, `metric_objs`), computed by `seqio.Evaluator`.

`eval_step` averages the model's own metrics over batches; these are of the whole split, and count
each example once.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import jax
import numpy as np

from parti.engine.input import datasets
from parti.engine.step import split_batches, train_step
from parti.engine.step.train_state import TrainState

Outputs = list[tuple[int, Any]]


def have_metrics(source: datasets.Source) -> TypeGuard[datasets.SeqioSource]:
    """Returns whether the validation split of a data source has such metrics."""
    if not isinstance(source, datasets.SeqioSource):
        return False
    import seqio

    tasks = seqio.get_subtasks(seqio.get_mixture_or_task(source.mixture_or_task_name))
    return any(source.validation_split in task.splits and task.metric_objs for task in tasks)


class TaskMetrics:
    """Runs a model over the validation split for the metrics of its tasks."""

    def __init__(
        self,
        source: datasets.SeqioSource,
        model: Any,
        program: train_step.Program,
        num_examples: int,
    ) -> None:
        """Opens nothing yet; `num_examples` of the split are to be taken, from its beginning.

        `predict_batch`, `predict_batch_with_aux` and `score_batch` of the model are called if a
        metric asks for them.
        """
        self._sources = {
            name: of_set
            for name, of_set in source.validation_sources().items()
            if have_metrics(of_set)
        }
        self._model, self._program, self._num_examples = model, program, num_examples
        self._jitted: dict[str, Callable] = {}

    @functools.cached_property
    def _evaluators(self) -> dict[str, Any]:
        """seqio's evaluators, by data set; each goes through the split once to measure lengths."""
        import seqio

        return {
            name: seqio.Evaluator(
                source.mixture_or_task_name,
                self._model.FEATURE_CONVERTER_CLS(pack=False),
                source.validation_split,
                sequence_length=dict(source.task_feature_lengths),
                num_examples=self._num_examples,
                use_memory_cache=False,  # images of a split may not fit
                async_compute_metrics=False,
            )
            for name, source in self._sources.items()
        }

    def evaluate(
        self, step: int, state: TrainState, heartbeat: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Returns {metric: value}; with several data sets {set/metric: value}.

        `heartbeat` is called after each batch.
        """
        import seqio

        kinds = seqio.metrics.ModelOutputType
        methods = {
            kinds.PREDICTION: "predict_batch",
            kinds.PREDICTION_WITH_AUX: "predict_batch_with_aux",
            kinds.SCORE: "score_batch",
        }
        found: dict[str, Any] = {}
        for name, evaluator in self._evaluators.items():
            # The evaluator's own data set would be read whole by every process.
            model_fns = {
                kind: lambda _, method=method, source=self._sources[name]: self._run(
                    method, state, source, heartbeat
                )
                for kind, method in methods.items()
            }
            future, _ = evaluator.evaluate(compute_metrics=True, step=step, model_fns=model_fns)
            (values,) = future.result().values()
            prefix = f"{name}/" if len(self._evaluators) > 1 else ""
            found |= {f"{prefix}{k}": getattr(v, "value", v) for k, v in values.items()}
        return {name: float(value) for name, value in found.items() if np.ndim(value) == 0}

    def _run(
        self,
        method: str,
        state: TrainState,
        source: datasets.SeqioSource,
        heartbeat: Callable[[], None],
    ) -> Outputs | tuple[Outputs, Mapping[str, list]]:
        """Returns (index, output) of each example, and the auxiliary outputs if there are any."""
        rows: list[Any] = []
        given = self._program, source, 0, self._model.FEATURE_CONVERTER_CLS, self._num_examples
        for count, batch in split_batches.each_once(*given):
            found = jax.device_get(self._outputs(method, state, batch))
            rows += [jax.tree.map(lambda x, i=i: x[i], found) for i in range(count)]
            heartbeat()
        if method != "predict_batch_with_aux":
            return list(enumerate(rows))
        outputs, auxiliary = zip(*rows, strict=True)
        columns = {name: [row[name] for row in auxiliary] for name in auxiliary[0]}
        return list(enumerate(outputs)), columns

    def _outputs(self, method: str, state: TrainState, batch: Any) -> Any:
        if method not in self._jitted:
            everywhere = jax.sharding.NamedSharding(self._program.mesh, jax.P())

            def call(constants: Any, state: TrainState, batch: Any) -> Any:
                model = self._model.with_constants(constants)
                mutables = {"flax_mutables": state.mutables} if state.mutables else {}
                return getattr(model, method)(state.params, batch, **mutables)

            self._jitted[method] = jax.jit(call, out_shardings=everywhere)
        with self._program.context():
            return self._jitted[method](*self._program.step.args, state, batch)
