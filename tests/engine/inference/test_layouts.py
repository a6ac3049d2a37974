# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A generator on eight devices draws what one draws, and no device, nor the host, has all of it."""

import math
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quick_jit
import tiny_models
from flax import traverse_util

from parti.engine.experiment import experiments
from parti.engine.hardware import accelerators
from parti.engine.inference import bundles, layouts, loaded_models, sharded_reading
from parti.engine.pod_estimates import compile_step, device_memory
from parti.models.layers import quantization, transformer
from parti.models.text_to_image import sampling
from parti.stages import files

TEXTS = ("a red circle", "a blue square")
NUM_SAMPLES = 4
SETTINGS = sampling.SamplingSettings()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bundles.Bundle:
    """A bundle whose generator has 8 heads and a decoder of two scanned layers."""
    folder = tmp_path_factory.mktemp("bundle")
    generator = tiny_models.part("generator", num_heads=8, num_decoder_layers=2)
    parts = {**tiny_models.parts("tokenizer"), "generator": generator}
    vocabulary = tiny_models.write_vocabulary(folder / "v.model")
    bundles.write_bundle(folder / "bundle", parts, vocabulary)
    return bundles.Bundle.open(folder / "bundle")


def draw(
    generator: loaded_models.LoadedModel, settings: sampling.SamplingSettings = SETTINGS
) -> np.ndarray:
    """Returns [prompts, samples, length] tokens."""
    arrays = generator.encode_texts(TEXTS), sampling.image_keys(0, TEXTS, NUM_SAMPLES)
    return generator.call("sample", *arrays, batch_size=len(TEXTS), settings=settings)


@pytest.fixture(scope="module")
def one_device(bundle: bundles.Bundle) -> np.ndarray:
    drawn = draw(bundle.load("generator"))
    assert len(np.unique(drawn.reshape(-1, drawn.shape[-1]), axis=0)) == drawn[..., 0].size
    return drawn


def bytes_on_each(tree: Any) -> list[int]:
    """Returns what a tree of arrays takes on each of the eight devices."""
    taken = [0] * jax.device_count()
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            taken[shard.device.id] += shard.data.nbytes
    return taken


@pytest.mark.parametrize(
    ("layout", "mesh_shape", "share"),
    [
        (None, "(8, 1)", 1.0),
        (None, "(1, 8)", 0.15),  # LayerNorms and positions are not divided
        (None, "(4, 2)", 0.52),
        pytest.param("two_dimensional", "(2, 4)", 0.13, marks=pytest.mark.slow),
        pytest.param("fully_sharded", None, 0.13, marks=pytest.mark.slow),
    ],
)
def test_a_mesh_draws_what_one_device_draws(
    bundle: bundles.Bundle, one_device: np.ndarray, layout: str, mesh_shape: str, share: float
) -> None:
    found = layouts.read(layout, mesh_shape, None)
    before = {id(array) for array in jax.live_arrays()}
    generator = bundle.load("generator", found)
    made = [array for array in jax.live_arrays() if id(array) not in before]
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(generator.variables))
    assert max(bytes_on_each(made)) <= share * whole, "nothing else is left on a device"
    assert generator.fingerprint == bundle.fingerprints["generator"]
    np.testing.assert_array_equal(draw(generator), one_device)


@pytest.mark.slow
@pytest.mark.parametrize("num_prompts, num_samples", [(1, 8), (4, 2), (3, 8)])
def test_rows_are_divided_whatever_the_number_of_prompts(
    bundle: bundles.Bundle, num_prompts: int, num_samples: int
) -> None:
    """Of one prompt the samples are divided; three have borders between prompts on a device."""
    texts = [f"a red circle {i}" for i in range(num_prompts)]
    found = layouts.Layout((8, 1))
    tokens = []
    for generator in (bundle.load("generator"), bundle.load("generator", found)):
        arrays = generator.encode_texts(texts), sampling.image_keys(0, texts, num_samples)
        given = {"batch_size": num_prompts, "settings": SETTINGS}
        tokens.append(generator.call("sample", *arrays, **given))
    np.testing.assert_array_equal(*tokens)


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape, queue", [((8, 1), 1), ((4, 2), 2), ((1, 8), 4)])
def test_a_wavefront_on_a_mesh_draws_what_raster_order_draws(
    tmp_path: pathlib.Path, mesh_shape: tuple[int, int], queue: int
) -> None:
    local = {"num_heads": 8, "num_decoder_layers": 2, "local_window": 3, "shift": "'row'"}
    parts = {**tiny_models.parts("tokenizer"), "generator": tiny_models.part("generator", **local)}
    bundles.write_bundle(tmp_path / "b", parts, tiny_models.write_vocabulary(tmp_path / "v.model"))
    bundle = bundles.Bundle.open(tmp_path / "b")
    wave = sampling.SamplingSettings(decode_order="wavefront", queue=queue)
    divided = draw(bundle.load("generator", layouts.Layout(mesh_shape)), wave)
    np.testing.assert_array_equal(divided, draw(bundle.load("generator")))


def test_the_host_reads_a_layer_at_a_time(
    bundle: bundles.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value once, in parts of a layer; none is more than a quarter of the file."""
    opened, reads = files.open, []

    class Counting:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __enter__(self) -> "Counting":
            return self

        def __exit__(self, *args: Any) -> None:
            self._file.close()

        def seek(self, offset: int) -> None:
            self._file.seek(offset)

        def read(self, size: int) -> bytes:
            reads.append(size)
            return self._file.read(size)

    model = bundle.model("generator")
    leaves = layouts.leaves(model)
    path = f"{bundle.path}/generator/params.safetensors"
    monkeypatch.setattr(files, "open", lambda path: Counting(opened(path)))
    placement = layouts.Layout((1, 8)).placement()
    sharded_reading.load(path, leaves, placement, "")
    size = files.size(path)
    values, header = reads[2:], reads[1]
    assert sum(values) == size - 8 - header, "every value is read once"
    assert max(values) == max(4 * math.prod(leaf.shape) for leaf in leaves.values()) < size / 4


def test_a_remote_bundle_in_another_order_of_files(bundle: bundles.Bundle) -> None:
    """The fingerprint is that of all values, in the order of names, not of the file."""
    path = f"{bundle.path}/generator/params.safetensors"
    placement = layouts.Layout((8, 1)).placement()
    leaves, config = layouts.leaves(bundle.model("generator")), bundle._config("generator")
    variables, fingerprint = sharded_reading.load(f"file://{path}", leaves, placement, config)
    assert fingerprint == bundle.fingerprints["generator"]
    whole = transformer.unrolled(bundle.load("generator").variables)
    jax.tree.map(np.testing.assert_array_equal, variables, whole)


def test_damage_is_found(bundle: bundles.Bundle, tmp_path: pathlib.Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "b")
    params = tmp_path / "b/generator/params.safetensors"
    data = bytearray(params.read_bytes())
    data[-1] ^= 1
    params.write_bytes(data)
    with pytest.raises(ValueError, match="generator is not what was exported"):
        bundles.Bundle.open(tmp_path / "b").load("generator", layouts.Layout((1, 8)))
    params.write_bytes(data.replace(b"final_norm", b"final_form"))
    with pytest.raises(ValueError, match=r"final_\w+/bias is .*; export the bundle again"):
        bundles.Bundle.open(tmp_path / "b").load("generator", layouts.Layout((1, 8)))


def headed(content: bytes) -> bytes:
    return len(content).to_bytes(8, "little") + content


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: b"", "0 bytes, and its header would end at 8"),
        (lambda data: data[:5], "5 bytes, and its header would end at"),
        (lambda data: data[:100], "100 bytes, and its header would end at"),
        (lambda data: b"\xff" * 8 + data[8:], "its header would end at 18446744073709551623"),
        (lambda data: data[:-1], r"\d+ bytes, and by its header \d+"),
        (lambda data: data + b"\0", r"\d+ bytes, and by its header \d+"),
        (lambda data: data[:8] + b"\xff" + data[9:], "its header: "),
        (lambda data: headed(b"[1, 2]"), "its header: "),
        (lambda data: headed(b"[" * 100_000), "its header: RecursionError"),
        (lambda data: headed(b'{"a": 1}'), "its header: "),
        (lambda data: headed(b'{"a": {"dtype": "F32", "shape": [1]}}'), "KeyError.'data_offsets'"),
        (
            lambda data: headed(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}'),
            "a from byte -4 to 0",
        ),
        (
            lambda data: headed(b'{"a": {"dtype": "F32", "shape": [Infinity]}}'),
            "its header: OverflowError",
        ),
    ],
)
def test_a_damaged_file_is_named(
    bundle: bundles.Bundle,
    tmp_path: pathlib.Path,
    damage: Callable[[bytes], bytes],
    why: str,
) -> None:
    path = tmp_path / "params.safetensors"
    path.write_bytes(damage(files.read_bytes(f"{bundle.path}/generator/params.safetensors")))
    placement, leaves = (
        layouts.Layout((1, 8)).placement(),
        layouts.leaves(bundle.model("generator")),
    )
    message = rf"{path} is damaged \(.*{why}.*\); export the bundle again"
    with pytest.raises(ValueError, match=message):
        sharded_reading.load(path, leaves, placement, "")


def dequantized(params: Any) -> dict[str, Any]:
    """Returns the float32 parameters that int8 kernels stand for, by numpy alone."""
    found = {}
    for key, value in traverse_util.flatten_dict(params).items():
        value = np.asarray(value, np.float32)
        if "kernel" in key[-1]:
            stacked = "layers" in key
            inputs = 2 if key[-2] == "out" else 1
            axes = tuple(range(stacked, stacked + inputs))
            scale = np.abs(value).max(axes, keepdims=True) / 127
            value = (np.round(value / scale) * scale).astype(np.float32)
        found[key] = value
    return traverse_util.unflatten_dict(found)


def test_int8_is_the_dequantized_model(bundle: bundles.Bundle) -> None:
    """Logits to 1e-4 of their deviation; of float32 to 0.03 of it, root mean square."""
    plain = transformer.unrolled(bundle.load("generator").variables)
    generator = bundle.load("generator", layouts.read(None, "(4, 2)", layouts.INT8))
    scales = generator.variables[quantization.SCALES]
    kernels = [
        leaf for key, leaf in traverse_util.flatten_dict(generator.variables["params"]).items()
        if "kernel" in key[-1]
    ]  # fmt: skip
    named = [key for key in traverse_util.flatten_dict(plain["params"]) if "kernel" in key[-1]]
    assert len(kernels) == len(jax.tree.leaves(scales)) == len(named)
    assert {leaf.dtype for leaf in kernels} == {jnp.dtype("int8")}
    wanted = dequantized(plain["params"])
    tokens = np.random.default_rng(0).integers(0, 32, (2, 16)).astype(np.int32) + 1
    text = generator.encode_texts(TEXTS)
    apply = quick_jit.once(generator.model.network.apply)
    host = jax.device_get(generator.variables)
    int8, exact, float32 = (
        np.asarray(apply(variables, text, tokens))
        for variables in (host, {"params": wanted}, plain)
    )
    deviation = np.std(float32)
    np.testing.assert_allclose(int8, exact, atol=1e-4 * deviation)
    assert 1e-3 < np.sqrt(np.mean((int8 - float32) ** 2)) / deviation < 0.03


@pytest.mark.slow
def test_int8_on_a_mesh_draws_as_the_dequantized_model(bundle: bundles.Bundle) -> None:
    plain = bundle.load("generator")
    wanted = {"params": dequantized(plain.variables["params"])}
    alone = loaded_models.LoadedModel(plain.model, wanted, vocabulary=plain.vocabulary)
    generator = bundle.load("generator", layouts.Layout((4, 2), int8=True))
    np.testing.assert_array_equal(draw(generator), draw(alone))


def test_kernels_of_the_compute_dtype_are_what_a_step_casts_them_to() -> None:
    """bfloat16 kernels and tables take half the memory, and give the same logits."""
    part = tiny_models.part("generator", dtype="'bfloat16'")
    found, params = layouts.leaves(part.model), transformer.unrolled(part.variables)["params"]
    cast = {
        key: np.asarray(leaf).astype(found["params", *key].dtype)
        for key, leaf in traverse_util.flatten_dict(params).items()
    }
    kept = {key[-1] for key, leaf in cast.items() if leaf.dtype == np.float32}
    assert kept == {"scale", "bias", "row_embedding", "column_embedding"}
    batch = {
        "encoder_input_tokens": np.array([[5, 6, 7, 1, 0, 0, 0, 0]] * 2, np.int32),
        "decoder_input_tokens": np.random.default_rng(0).integers(0, 33, (2, 16)).astype(np.int32),
    }
    logits = quick_jit.once(part.model.unrolled.logits)
    variants = params, traverse_util.unflatten_dict(cast)
    np.testing.assert_array_equal(*(logits(params, batch) for params in variants))


@pytest.mark.parametrize(
    ("flags", "num_images", "message"),
    [
        ((None, "(3, 2)", None), 8, r"MESH_SHAPE \(3, 2\) asks for 6 devices, but there are 8"),
        ((None, "8", None), 8, r"--mesh_shape=8: give a size for each of \('data', 'model'\)"),
        ((None, "(8, 1", None), 8, r"^--mesh_shape=\(8, 1: give a size for each of"),
        (("two_dimensionl", None, None), 8, "did you mean two_dimensional.gin"),
        ((None, "(8, 1)", None), 12, "12 images at a time .* do not divide by the 8 parts"),
        ((None, "(8,)", None), 8, "one size for each of MESH_AXES"),
        (("pipeline", "(1, 2, 4)", None), 8, "divides 'layers', as a pipeline does"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded(
    flags: tuple[Any, ...], num_images: int, message: str
) -> None:
    model = tiny_models.part("generator", num_heads=8).model
    with pytest.raises((ValueError, OSError), match=message):
        layouts.read(*flags).check(model, num_images, 8)


def test_a_model_that_does_not_divide_is_refused() -> None:
    model = tiny_models.part("generator").model
    with pytest.raises(ValueError, match="kernel .* 2 does not divide by 8; change its size"):
        layouts.Layout((1, 8)).check(model, 8, 8)


def test_no_flag_is_no_layout_and_weights_alone_take_all_devices() -> None:
    assert layouts.read(None, None, None) is None
    model = tiny_models.part("generator").model
    described = layouts.read(None, None, layouts.INT8).describe(model, 8)
    assert described["mesh"] == {"data": 8, "model": 1} and described["weights"] == "int8"
    assert layouts.Layout().describe(model, 8)["weights"] == "float32"


def test_other_models_are_whole_on_each_device(bundle: bundles.Bundle) -> None:
    """A batch of 3 images takes as many rows as there are devices; the result is the same."""
    one, eight = bundle.load("tokenizer"), bundle.load("tokenizer", layouts.Layout((1, 8)))
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(one.variables))
    assert bytes_on_each(eight.variables) == [whole] * 8
    tokens = np.random.default_rng(0).integers(0, 32, (5, 16)).astype(np.int32)
    pixels = [part.call("decode", tokens, batch_size=3) for part in (one, eight)]
    np.testing.assert_allclose(*pixels, atol=1e-5)


def test_compile_compiles_the_program_that_generate_runs(
    bundle: bundles.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same text before compilation, and the memory of the parameters that are loaded."""
    lowered: list[str] = []

    def keep(program: jax.stages.Lowered) -> int:
        lowered.append(program.as_text())
        return 2**20  # as of a program that is too large, which is not compiled

    monkeypatch.setattr(compile_step, "_compile", keep)
    layout, target = layouts.Layout((2, 4), int8=True), accelerators.target("cpu-8")
    settings = {"data_source": None, "optimizer": None, "train_steps": 1, "batch_size": 1}
    model = bundle.model("generator")
    experiment = experiments.Experiment(model=model, model_dir="unused", eval_period=0, **settings)
    drawn = len(TEXTS), NUM_SAMPLES
    report = compile_step.compile_generation(experiment, target, *drawn, layout)

    generator = bundle.load("generator", layout)
    jitted, variables = generator._function("sample", {}).args
    own = sampling.PromptSettings.of([SETTINGS] * len(TEXTS), model.grid_size)
    arrays = generator.encode_texts(TEXTS), sampling.image_keys(0, TEXTS, NUM_SAMPLES), own
    with generator._placement.context():
        arrays = jax.tree.map(generator._placement.put, arrays)
        run = jitted.lower(variables, *arrays).as_text()
    assert lowered == [run]
    assert set(bytes_on_each(generator.variables)) == {report.memory[device_memory.PARAMETERS]}
