# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every layout: what lies where, and that eight devices train as one does."""

import functools
import re
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import traverse_util
from jax.sharding import AbstractMesh, PartitionSpec

from parti.engine.distributed import partitioning
from parti.engine.experiment import experiments
from parti.engine.input import datasets
from parti.engine.pod_estimates import collectives, compile_step, device_memory
from parti.engine.step import optimizers, train_state, train_step

NUM_PAIRS, BATCH, TEXT_LENGTH, IMAGE_LENGTH = 64, 16, 6, 16
GIN = """
from __gin__ import dynamic_registration
from parti.models.text_to_image import network
from tests.engine import test_layouts
include 't5x_configs/models/parti.gin'
TEXT_VOCAB_SIZE = 32
TEXT_LENGTH = 6
CODEBOOK_SIZE = 100
GRID_SIZE = 4
LOCAL_WINDOW = [3, 3, 0, 3, 3, 3, 0, 3]
DROPOUT_RATE = 0.0
DTYPE = 'float32'
network.TextToImageConfig:
  emb_dim = 16
  num_heads = 4
  head_dim = 8
  mlp_dim = 32
  num_encoder_layers = 4
  num_decoder_layers = 8
TASK_FEATURE_LENGTHS = {'inputs': %TEXT_LENGTH, 'targets': 16}
DATA_SOURCE = @test_layouts.pairs()
OPTIMIZER = @test_layouts.optimizer()
TRAIN_STEPS = 2
BATCH_SIZE = 16
MODEL_DIR = 'not written'
"""
# The decoder's layers make two rounds through the stages, the encoder's one.
PIPELINE = ("pipeline", "NUM_STAGES=4", "PIPELINE_MICROBATCHES=4")
LAYOUTS = [
    ("data_parallel",),
    ("two_dimensional", "MESH_SHAPE=(-1, 4)"),
    ("fully_sharded",),
    (*PIPELINE, "MESH_SHAPE=(2, 4, 1)"),
    (*PIPELINE, "MESH_SHAPE=(2, 2, 2)"),
]


def pairs() -> datasets.ArraySource:
    """Returns captions and images of random numbers."""
    rng = np.random.default_rng(0)
    text = rng.integers(1, 32, (NUM_PAIRS, TEXT_LENGTH))
    text *= np.arange(TEXT_LENGTH) < rng.integers(1, TEXT_LENGTH + 1, (NUM_PAIRS, 1))
    targets = rng.integers(1, 101, (NUM_PAIRS, IMAGE_LENGTH))
    arrays = {
        "encoder_input_tokens": text.astype(np.int32),
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1].astype(np.int32),
        "decoder_target_tokens": targets.astype(np.int32),
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }
    return datasets.ArraySource(arrays, arrays)


def optimizer() -> optax.GradientTransformation:
    """Returns Muon, and AdamW with it, for the encoder and Adafactor for the decoder."""
    muon = optimizers.muon(0.01, eps=1e-4)  # not a matter of sign where a gradient is all but 0
    both = {"encoder": muon, "decoder": optimizers.adafactor(0.01)}
    return optax.multi_transform(both, {name: name for name in both})


@pytest.fixture(scope="module")
def gin_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("gin") / "experiment.gin"
    path.write_text(GIN)
    return str(path)


def load(gin_file: str, layout: str, *bindings: str) -> experiments.Experiment:
    return experiments.load_experiment([gin_file, f"t5x_configs/layouts/{layout}.gin"], bindings)


class Training:
    """Two steps, and the program that took them."""

    def __init__(self, experiment: experiments.Experiment, num_devices: int) -> None:
        data = experiment.data_source.open(datasets.TRAIN, BATCH, 0, experiment.model)
        program = train_step.make_program(
            experiment, data.element_spec, jax.devices()[:num_devices]
        )
        init_rng, step_rng = train_step.initial_rngs(0)
        with program.context():
            # The partitioner does the same, the generated code is slower.
            quickly = {"xla_backend_optimization_level": 0}
            init: Any = program.init
            self.state = init.lower(init_rng, {}).compile(quickly)(init_rng, {})
            jitted, constants = program.step.func, program.step.args
            batch = program.place(next(data))
            step = jitted.lower(*constants, self.state, batch, step_rng).compile(quickly)
            self.hlo, self.losses, self.grad_norms = step.as_text(), [], []
            for _ in range(experiment.train_steps):
                self.state, metrics = step(*constants, self.state, batch, step_rng)
                self.losses.append(metrics["loss"].compute())
                self.grad_norms.append(metrics["grad_norm"].compute())


@functools.cache
def training(gin_file: str, layout: tuple[str, ...], num_devices: int = 8) -> Training:
    return Training(load(gin_file, *layout), num_devices)


# Eight devices, and one.


@pytest.mark.parametrize("layout", LAYOUTS, ids=" ".join)
def test_eight_devices_train_as_one(gin_file: str, layout: tuple[str, ...]) -> None:
    one, eight = training(gin_file, LAYOUTS[0], 1), training(gin_file, layout)
    np.testing.assert_allclose(eight.losses, one.losses, rtol=1e-5)
    # The optimizers all but forget a factor that gradients are wrong by.
    np.testing.assert_allclose(eight.grad_norms, one.grad_norms, rtol=1e-4)
    assert one.losses[1] < one.losses[0] - 0.01

    def check(a: jax.Array, b: jax.Array) -> None:
        np.testing.assert_allclose(a, b, atol=1e-4)

    jax.tree.map(check, eight.state.params, one.state.params)


def test_what_each_layout_sends(gin_file: str) -> None:
    sent = [collectives.summarize(training(gin_file, layout).hlo).kinds for layout in LAYOUTS]
    data_parallel, two_dimensional, fully_sharded, pipeline, _ = map(set, sent)
    assert data_parallel == {"all-reduce"}
    # A CPU has no reduce-scatter: it sums everywhere, and takes a part.
    assert {"all-gather", "all-reduce"} <= two_dimensional
    assert {"all-gather", "all-reduce"} <= fully_sharded
    assert "all-gather" not in pipeline


def test_a_pipeline_sends_activations_to_neighbours_only(gin_file: str) -> None:
    """In its loops; weights and gradients are sent before and after them."""
    hlo = training(gin_file, LAYOUTS[3]).hlo
    lines = [line for line in hlo.splitlines() if "_pipelined/while/body" in line]
    kinds = {kind for kind in collectives.KINDS for line in lines if f" {kind}(" in line}
    assert kinds == {"collective-permute"}
    forward = "{{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}"
    pairs_of = [sorted(re.findall(r"\{(\d,\d)\}", line)) for line in lines if "permute(" in line]
    assert sorted(re.findall(r"\{(\d,\d)\}", forward)) in pairs_of


# What is advised where memory does not suffice.


@pytest.mark.parametrize("room", [0.2, 0.6], ids=str)
@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[3]], ids=" ".join)
def test_advised_numbers_of_parts_can_be_taken(
    gin_file: str, layout: tuple[str, ...], room: float
) -> None:
    settings = (*layout, "BATCH_SIZE=64")
    experiment = load(gin_file, *settings)
    spec = experiment.data_source.open(datasets.TRAIN, 64, 0, experiment.model).element_spec
    program = train_step.make_program(experiment, spec)
    kinds = device_memory.with_gradients(
        {**device_memory.state(program), device_memory.ACTIVATIONS: 10**9}
    )
    advised = [
        flag.removeprefix("--gin.")
        for advice in device_memory.advice(kinds, int(room * 10**9), experiment, program)
        for flag in advice.flags
        if "MICROBATCHES" in flag
    ]
    assert len(advised) == (2 if "NUM_STAGES=4" in layout else 1)
    for binding in advised:
        train_step.make_program(load(gin_file, *settings, binding), spec)


# Sizes of the paper, on its meshes; only shapes.

PAPER = {
    ("parti_350m", 128): {"data": 128},
    ("parti_750m", 128): {"data": 128},
    ("parti_3b", 512): {"data": 128, "model": 4},
    ("parti_20b", 1024): {"data": 128, "model": 8},
    ("parti_20b_pipeline", 1024): {"data": 64, "stage": 16, "model": 1},
}
# Of parameters and optimizer state; the tables of a pipeline are whole on each of its devices.
PARTS = {
    "parti_350m": 1,
    "parti_750m": 1,
    "parti_3b": 512,
    "parti_20b": 1024,
    "parti_20b_pipeline": 16,
}
WI, QUERY = "mlp/wi/kernel", "self_attention/query/kernel"
DIVIDED = {
    "parti_350m": {WI: (None, None, None), QUERY: (None, None, None, None)},
    # GSPMD: [M, H] -> (X, Y), [M, N, D] -> (X, Y, -).
    "parti_3b": {WI: (None, "data", "model"), QUERY: (None, "data", "model", None)},
    "parti_20b_pipeline": {WI: ("stage", None, "model"), QUERY: ("stage", None, "model", None)},
}


@pytest.mark.parametrize(("name", "num_devices"), PAPER, ids=str)
def test_paper_sizes_divide_evenly(name: str, num_devices: int) -> None:
    bindings = ["MODEL_DIR='none'", "TOKENS_DIR='none'", "VOCABULARY='none'", "INITIAL=None"]
    experiment, lengths = experiments.load_without_data(
        [f"t5x_configs/experiments/{name}.gin"], bindings
    )
    sizes = partitioning.mesh_sizes(experiment.mesh_shape, experiment.mesh_axes, num_devices)
    assert dict(zip(experiment.mesh_axes, sizes)) == PAPER[name, num_devices]
    mesh = AbstractMesh(sizes, tuple(experiment.mesh_axes))
    rules = partitioning.axis_rules(experiment.logical_axis_rules, mesh)
    model, spec = experiment.model, compile_step.element_spec(experiment, lengths)
    rng = jax.random.PRNGKey(0)
    with jax.sharding.use_abstract_mesh(mesh), nn.logical_axis_rules(rules):
        init = functools.partial(train_state.create, model, experiment.optimizer)
        state = jax.eval_shape(lambda: init(rng, spec))
        loss = jax.eval_shape(lambda p, b: model.loss_fn(p, b, rng)[0], state.params, spec)
    assert loss.shape == ()
    specs = train_state.partition(model, state, spec, rules)
    shardings = train_state.shardings(specs, mesh)
    mine = device_memory.per_device(state, shardings)  # raises for what does not divide
    everything = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert mine == pytest.approx(everything / PARTS[name], rel=0.2)
    layers = traverse_util.flatten_dict(specs.params["decoder"]["stack"]["layers"], sep="/")
    for parameter, want in DIVIDED.get(name, {}).items():
        assert tuple(layers[parameter]) == want
    moments = jax.tree.leaves(specs.opt_state, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))
    assert all(tuple(want) in map(tuple, moments) for want in DIVIDED.get(name, {}).values())


@pytest.mark.parametrize(
    ("names", "want"),
    [
        (("batch", "length", "embed"), ("data", None, "model")),
        (("batch", "length", "mlp"), ("data", None, "model")),
        (("batch", "length", "heads", "kv"), ("data", None, "model", None)),
        (("embed", "mlp"), ("data", "model")),
        (("mlp", "embed"), ("model", "data")),
        (("heads", "kv", "embed"), ("model", None, "data")),
        (("vocab", "embed"), ("model", "data")),
        (("embed",), ("model",)),
    ],
)
def test_two_dimensional_scheme(gin_file: str, names: tuple[str, ...], want: tuple) -> None:
    """GSPMD (arXiv 2105.04663), its finalised scheme: X is `data`, Y is `model`."""
    experiment = load(gin_file, "two_dimensional")
    mesh = AbstractMesh((2, 4), tuple(experiment.mesh_axes))
    rules = partitioning.axis_rules(experiment.logical_axis_rules, mesh)
    assert tuple(partitioning.spec(names, rules)) == want


# What does not fit.


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (("two_dimensional", "MESH_SHAPE=(1, 8)"), "4 does not divide by 8"),
        ((*PIPELINE, "MESH_SHAPE=(1, 8, 1)"), "4 does not divide by 8"),
        ((*PIPELINE, "MESH_SHAPE=(8, 1, 1)"), "a microbatch of 4 .* over the 8 devices"),
        ((*PIPELINE, "MESH_SHAPE=(2, 4, 1)", "BATCH_SIZE=8", "PIPELINE_MICROBATCHES=8"), "of 1 "),
        ((*PIPELINE, "MESH_SHAPE=(2, 4, 1)", "NUM_STAGES=2"), "num_stages 2 .* over the 4 devices"),
    ],
    ids=str,
)
def test_misfits_are_refused_before_anything_runs(
    gin_file: str, layout: tuple[str, ...], message: str
) -> None:
    experiment = load(gin_file, *layout)
    spec = experiment.data_source.open(
        datasets.TRAIN, experiment.batch_size, 0, experiment.model
    ).element_spec
    with pytest.raises(ValueError, match=message):
        train_step.make_program(experiment, spec)
