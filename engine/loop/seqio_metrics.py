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
from parti.engine.step import train_step
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
        batch_size: int,
        num_examples: int,
    ) -> None:
        """Opens nothing yet; `num_examples` of the split are to be taken, from its beginning.

        `predict_batch`, `predict_batch_with_aux` and `score_batch` of the model are called if a
        metric asks for them.
        """
        self._source, self._model, self._program = source, model, program
        self._batch_size, self._num_examples = batch_size, num_examples
        self._jitted: dict[str, Callable] = {}

    @functools.cached_property
    def _evaluator(self) -> Any:
        """seqio's evaluator; it goes through the split once to measure lengths."""
        import seqio

        return seqio.Evaluator(
            self._source.mixture_or_task_name,
            self._model.FEATURE_CONVERTER_CLS(pack=False),
            self._source.validation_split,
            sequence_length=dict(self._source.task_feature_lengths),
            num_examples=self._num_examples,
            use_memory_cache=False,  # images of a split may not fit
            async_compute_metrics=False,
        )

    def evaluate(
        self, step: int, state: TrainState, heartbeat: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Returns {metric: value}; with several tasks {set/metric: value}, by data set.

        `heartbeat` is called after each batch.
        """
        import seqio

        from parti.tasks import mixtures

        def runner(method: str) -> Callable[[Any], Any]:
            return lambda dataset: self._run(method, state, dataset, heartbeat)

        kinds = seqio.metrics.ModelOutputType
        model_fns = {
            kinds.PREDICTION: runner("predict_batch"),
            kinds.PREDICTION_WITH_AUX: runner("predict_batch_with_aux"),
            kinds.SCORE: runner("score_batch"),
        }
        future, _ = self._evaluator.evaluate(compute_metrics=True, step=step, model_fns=model_fns)
        results = future.result()
        of_one = len(results) == 1
        found = {
            name if of_one else f"{mixtures.set_name(task)}/{name}": getattr(value, "value", value)
            for task, values in results.items()
            for name, value in values.items()
        }
        return {name: float(value) for name, value in found.items() if np.ndim(value) == 0}

    def _run(
        self, method: str, state: TrainState, dataset: Any, heartbeat: Callable[[], None]
    ) -> Outputs | tuple[Outputs, Mapping[str, list]]:
        """Returns (index, output) of each example, and the auxiliary outputs if there are any."""
        indices: list[int] = []
        rows: list[Any] = []
        for numbers, batch in dataset.batch(self._batch_size).as_numpy_iterator():
            missing = self._batch_size - len(numbers)
            # Copies of the first row fill the last batch up.
            full = {k: np.concatenate([x, x[:1].repeat(missing, 0)]) for k, x in batch.items()}
            found = jax.device_get(self._outputs(method, state, self._program.place_whole(full)))
            indices += numbers.tolist()
            rows += [jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(numbers))]
            heartbeat()
        if method != "predict_batch_with_aux":
            return list(zip(indices, rows, strict=True))
        outputs, auxiliary = zip(*rows, strict=True)
        columns = {name: [row[name] for row in auxiliary] for name in auxiliary[0]}
        return list(zip(indices, outputs, strict=True)), columns

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
