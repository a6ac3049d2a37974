# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The metrics that a seqio task names (`metric_fns`, `metric_objs`), of a whole split.

`eval_step` averages the model's own metrics over batches; these count each example once. They are
called as `seqio.Evaluator` does, which itself would read and decode the split in every process.
Here a process reads its rows of each batch, and the outputs of all rows go to all processes. Only
metrics that look at the task's examples, such as those of classes, have each process read these.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

import jax
import numpy as np

from parti.engine.input import datasets
from parti.engine.step import split_batches, train_step
from parti.engine.step.train_state import TrainState


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
        self._targets: dict[str, Any] = {}  # of the examples, by data set; some metrics keep them

    def evaluate(
        self, state: TrainState, heartbeat: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Returns {metric: value}; with several data sets {set/metric: value}.

        `heartbeat` is called after each batch.

        Raises:
          ValueError: two metrics of a task have one name.
        """
        found: dict[str, Any] = {}
        for name in self._sources:
            prefix = f"{name}/" if len(self._sources) > 1 else ""
            values = self._measure(name, state, heartbeat)
            found |= {f"{prefix}{k}": getattr(v, "value", v) for k, v in values.items()}
        return {name: float(value) for name, value in found.items() if np.ndim(value) == 0}

    def _measure(
        self, name: str, state: TrainState, heartbeat: Callable[[], None]
    ) -> dict[str, Any]:
        """Returns what the metrics of a data set give."""
        import seqio

        kinds = seqio.metrics.ModelOutputType
        methods = {
            kinds.PREDICTION: "predict_batch",
            kinds.PREDICTION_WITH_AUX: "predict_batch_with_aux",
            kinds.SCORE: "score_batch",
        }
        task = seqio.TaskRegistry.get(self._sources[name].mixture_or_task_name)
        examples = _Examples(self._sources[name], self._num_examples)
        outputs: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for metric in task.metric_objs:
            method = methods[metric.model_output_type]
            if method not in outputs:
                outputs[method] = self._run(method, state, self._sources[name], heartbeat)
            given = metric.from_model_output(examples, outputs[method], task.output_features)
            if isinstance(given, seqio.metrics.CollectingMetric):
                values, inferred = given.actual_compute(
                    examples, task.output_features, cached_targets=self._targets.get(name)
                )
                self._targets[name] = inferred["targets"]
            else:
                values = given.compute()
            if twice := sorted(found.keys() & values.keys()):
                raise ValueError(f"two metrics of {task.name} are called {twice[0]}; rename one")
            found |= values
        return found

    def _run(
        self,
        method: str,
        state: TrainState,
        source: datasets.SeqioSource,
        heartbeat: Callable[[], None],
    ) -> Any:
        """Returns the outputs of all examples, in order, as the method gives those of a batch."""
        found: list[Any] = []
        given = self._program, source, 0, self._model.FEATURE_CONVERTER_CLS, self._num_examples
        for count, batch in split_batches.each_once(*given):
            outputs = jax.device_get(self._outputs(method, state, batch))
            found.append(jax.tree.map(lambda x, count=count: x[:count], outputs))
            heartbeat()
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)

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


class _Examples:
    """The first examples of a split, as the task gives them; read whenever they are looked at."""

    def __init__(self, source: datasets.SeqioSource, count: int) -> None:
        self._source, self._count = source, count

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return itertools.islice(self._source.task_examples(), self._count)
