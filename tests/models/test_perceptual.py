# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Perceptual distances: against numpy and the published packages, and what they should find."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from scipy import ndimage

from parti.engine.config import gin_config
from parti.models.perceptual import filters, network, perceptual, weights

# Of `made_up_weights` and `pictures`, from torch 2.14.1 and lpips 0.1.4: `lpips.LPIPS(net="vgg",
# pretrained=False, pnet_rand=True)`, also with lpips=False, loaded with those weights; the second
# row of each for the left 27 columns. Then the sum of |gradient| of the first sum of distances.
LPIPS = [[0.0829715356, 0.0062254323], [0.0834897012, 0.0064236522]]
WITHOUT_HEADS = [[1.4401301146, 0.1134179235], [1.4479756355, 0.1167015433]]
LPIPS_GRADIENT, WITHOUT_HEADS_GRADIENT = 0.1948603392, 3.5823073387


def made_up_weights() -> dict[str, np.ndarray]:
    """VGG16 under torchvision's names and heads under those of lpips, with random values."""
    rng = np.random.RandomState(7)
    published, index, channels = {}, 0, 3
    for width, count in network.BLOCKS:
        for _ in range(count):
            kernel = rng.uniform(-1, 1, (width, channels, 3, 3)) * np.sqrt(6 / (9 * channels))
            published[f"features.{index}.weight"] = kernel.astype(np.float32)
            bias = rng.uniform(-0.2, 0.2, width)
            published[f"features.{index}.bias"] = bias.astype(np.float32)
            index, channels = index + 2, width
        index += 1
    for i, (width, _) in enumerate(network.BLOCKS):
        head = rng.uniform(0, 0.1, (1, width, 1, 1))
        published[f"lin{i}.model.1.weight"] = head.astype(np.float32)
    return published


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Two pairs of noise, 32 px: one moved by a pixel, one of another contrast."""
    images = np.random.RandomState(8).uniform(-1, 1, (2, 32, 32, 3))
    others = np.stack([np.roll(images[0], 1, axis=1), 0.8 * images[1] + 0.1])
    return images.astype(np.float32), others.astype(np.float32)


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    return made_up_weights()


@pytest.fixture(scope="module")
def variables(published: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The made-up weights in our layout, put there by hand."""
    indices = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    names = [f"conv{i}_{j + 1}" for i, (_, n) in enumerate(network.BLOCKS, 1) for j in range(n)]
    result = {
        name: {
            "kernel": published[f"features.{index}.weight"].transpose(2, 3, 1, 0),
            "bias": published[f"features.{index}.bias"],
        }
        for name, index in zip(names, indices, strict=True)
    }
    for i in range(5):
        result[f"head{i + 1}"] = {"weight": published[f"lin{i}.model.1.weight"].reshape(-1)}
    return result


def without_heads(variables: dict) -> dict:
    return {
        name: {"weight": np.ones_like(layer["weight"])} if name.startswith("head") else layer
        for name, layer in variables.items()
    }


def numpy_distance(variables: dict, image: np.ndarray, other: np.ndarray) -> float:
    """LPIPS of one pair [height, width, 3], written out in float64."""

    def taps(x: np.ndarray) -> list[np.ndarray]:
        x = (x - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        result = []
        for i, (_, count) in enumerate(network.BLOCKS, 1):
            if i > 1:
                height, width = x.shape[0] // 2, x.shape[1] // 2
                x = x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).max((1, 3))
            for j in range(1, count + 1):
                layer = variables[f"conv{i}_{j}"]
                padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
                windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
                x = np.einsum("hwcij,ijco->hwo", windows, layer["kernel"], optimize=True)
                x = np.maximum(x + layer["bias"], 0)
            result.append(x / (np.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10))
        return result

    return sum(
        ((a - b) ** 2 @ variables[f"head{i}"]["weight"]).mean()
        for i, (a, b) in enumerate(zip(taps(image), taps(other)), 1)
    )


def test_vgg16_has_its_published_size() -> None:
    sizes = {
        f"{name}/{key}": np.prod(shape)
        for name, layer in network.shapes().items()
        for key, shape in layer.items()
    }
    assert sum(n for name, n in sizes.items() if name.startswith("conv")) == 14_714_688
    assert sum(n for name, n in sizes.items() if name.startswith("head")) == 1_472


def test_lpips_is_that_of_numpy(variables: dict) -> None:
    images, others = pictures()
    got = network.distance(variables, images, others)
    expected = [numpy_distance(variables, a, b) for a, b in zip(images, others)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("heads", [True, False])
def test_lpips_is_that_of_the_published_package(variables: dict, heads: bool) -> None:
    expected, gradient = (
        (LPIPS, LPIPS_GRADIENT) if heads else (WITHOUT_HEADS, WITHOUT_HEADS_GRADIENT)
    )
    variables = variables if heads else without_heads(variables)
    images, others = pictures()

    def total(images: jax.Array, variables: dict) -> tuple[jax.Array, jax.Array]:
        distances = network.distance(variables, images, others)
        return jnp.sum(distances), distances

    (_, distances), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(images, variables)
    np.testing.assert_allclose(distances, expected[0], rtol=1e-5)
    np.testing.assert_allclose(jnp.sum(jnp.abs(grads)), gradient, rtol=1e-4)
    narrow = jax.jit(network.distance)(variables, images[:, :, :27], others[:, :, :27])
    np.testing.assert_allclose(narrow, expected[1], rtol=1e-5)


def test_gradient_reaches_both_images_and_no_weight(variables: dict) -> None:
    images, others = (x[:1, :16, :16] for x in pictures())

    def total(variables: dict, images: jax.Array, others: jax.Array) -> jax.Array:
        return jnp.sum(network.distance(variables, images, others))

    grads = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    weights, one, other = grads(variables, images, others)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(weights))
    assert np.any(one) and np.any(other)


def test_equal_images_have_distance_and_gradient_zero(variables: dict) -> None:
    black = jnp.full((1, 16, 16, 3), -1.0)

    def total(images: jax.Array, others: jax.Array, variables: dict) -> jax.Array:
        return jnp.sum(network.distance(variables, images, others))

    value, grad = jax.jit(jax.value_and_grad(total))(black, black, variables)
    assert 0 <= value < 1e-12, "rounding may differ between the two"
    np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_unit_norm_of_nothing_is_nothing() -> None:
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(network.unit_norm(x), [[0, 0], [0.6, 0.8]], rtol=1e-6)
    grad = jax.grad(lambda x: jnp.sum(network.unit_norm(x) * jnp.array([1.0, 0.0])))(x)
    np.testing.assert_allclose(grad, [[0, 0], [0.128, -0.096]], rtol=1e-5)


@pytest.mark.parametrize(
    ("images", "others", "message"),
    [
        ((1, 15, 32, 3), (1, 15, 32, 3), r"15 x 32 px.* at least 16 px"),
        ((1, 32, 32, 3), (2, 32, 32, 3), "pairs of one shape"),
        ((1, 32, 32, 1), (1, 32, 32, 1), r"\[batch, height, width, 3\]"),
    ],
)
def test_images_that_do_not_fit(variables: dict, images, others, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network.distance(variables, jnp.zeros(images), jnp.zeros(others))


def as_published(tensors: dict[str, np.ndarray], path: str = "a.npz") -> weights.Published:
    return weights.Published(path, tensors, "")


def under_other_names(published: dict[str, np.ndarray], layout: str) -> dict[str, np.ndarray]:
    """Names of a whole LPIPS of the lpips package, or of `vgg.features` alone."""
    slices = {0: 1, 2: 1, 5: 2, 7: 2, 10: 3, 12: 3, 14: 3, 17: 4, 19: 4, 21: 4}
    result = {}
    for name, array in published.items():
        if not name.startswith("features."):
            result[name] = array
            result[name.replace("lin", "lins.")] = array  # the package names them twice
            continue
        _, index, kind = name.split(".")
        part = f"net.slice{slices.get(int(index), 5)}."
        result[f"{part if layout == 'lpips' else ''}{index}.{kind}"] = array
    return result


def assert_same(got: dict, expected: dict) -> None:
    assert {name: set(layer) for name, layer in got.items()} == {
        name: set(layer) for name, layer in expected.items()
    }
    for name, layer in got.items():
        for key, array in layer.items():
            np.testing.assert_array_equal(array, expected[name][key])
            assert array.dtype == np.float32


def test_published_layouts_become_ours(published: dict, variables: dict) -> None:
    assert_same(weights.convert([as_published(published)]), variables)
    for layout in ("lpips", "features"):
        renamed = under_other_names(published, layout)
        assert_same(weights.convert([as_published(renamed)]), variables)
    prefixed = {f"module.{name}": array for name, array in published.items()}
    vgg = {name: array for name, array in prefixed.items() if "lin" not in name}
    heads = {name: array for name, array in prefixed.items() if "lin" in name}
    assert_same(weights.convert([as_published(vgg), as_published(heads, "b.npz")]), variables)
    conv = {name: layer for name, layer in variables.items() if name.startswith("conv")}
    assert_same(weights.convert([as_published(vgg)]), conv)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_weights_file_is_read_as_written(
    variables: dict, tmp_path: pathlib.Path, suffix: str
) -> None:
    path = tmp_path / f"w{suffix}"
    digest = weights.write(path, variables)
    got = weights.read(path)
    assert got.sha256 == digest and got.has_heads
    assert_same(got.layers, variables)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features.28.bias": None}, r"features.28.bias is missing \(conv5_3.bias\)"),
        ({"lin2.model.1.weight": None}, r"lin2.model.1.weight is missing \(head3.weight\)"),
        ({"features.0.weight": (64, 3, 7, 7)}, r"\(64, 3, 7, 7\), not \(64, 3, 3, 3\)"),
        ({"lin0.model.1.weight": (1, 96, 1, 1)}, r"\(1, 96, 1, 1\), not \(1, 64, 1, 1\)"),
        ({"features.1.running_mean": (64,), "features.1.weight": (64,)}, "batch normalisation"),
        ({"lin5.model.1.weight": (1, 512, 1, 1)}, "has 5 heads"),
        ({"x.features.0.bias": (64,)}, "x.features.0.bias of a.npz differs from features.0.bias"),
    ],
)
def test_published_files_that_do_not_fit(published: dict, changes: dict, message: str) -> None:
    tensors = dict(published)
    for name, shape in changes.items():
        if shape is None:
            del tensors[name]
        else:
            tensors[name] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=message):
        weights.convert([as_published(tensors)])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full(64, -1, np.float32), "head1.weight has negative weights"),
        (np.full(64, np.nan, np.float32), "head1.weight .* is not all finite floats"),
        (np.ones(64, np.int32), "head1.weight .int32. is not all finite floats"),
        (np.ones(63, np.float32), r"head1.weight has shape \(63,\), not \(64,\)"),
    ],
)
def test_weights_that_are_refused(
    variables: dict, value: np.ndarray, message: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match=message):
        weights.write(tmp_path / "w.npz", {**variables, "head1": {"weight": value}})
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_weights_file(published: dict, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="no perceptual weights file .*PERCEPTUAL_WEIGHTS"):
        weights.read(tmp_path / "missing.npz")
    (tmp_path / "w.npz").write_bytes(b"nothing")
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    for name, message in [
        ("w.npz", "w.npz: "),
        ("w.safetensors", "w.safetensors: "),
        ("w.pth", "ends with .safetensors or .npz; `parti perceptual --help`"),
    ]:
        with pytest.raises(ValueError, match=message):
            weights.read(tmp_path / name)
    few = {name: published[name] for name in ("features.0.weight", "features.0.bias")}
    safetensors.numpy.save_file(few, tmp_path / "published.safetensors")
    with pytest.raises(ValueError, match=r"no perceptual weights file .*`parti perceptual --help`"):
        weights.read(tmp_path / "published.safetensors")


def picture(size: int) -> np.ndarray:
    """[1, size, size, 3]: stripes above, a red square on a slope below."""
    y, x = np.mgrid[:size, :size] / size
    stripes = np.sin(2 * np.pi * np.arange(size) / 6) * (y < 0.5)
    square = (abs(x - 0.5) < 0.2) & (abs(y - 0.75) < 0.15)
    image = 0.3 * stripes[..., None] + (x - 0.5)[..., None] * [0.6, 0.5, 0.4]
    return (image + square[..., None] * [0.6, -0.4, -0.4])[None].astype(np.float32)


FILTERS = filters.make_variables()
filter_distance = jax.jit(filters.distance)


def with_error(image: np.ndarray, error: np.ndarray, mse: float = 0.01) -> np.ndarray:
    """Adds an error, scaled to a mean square."""
    return (image + error * np.sqrt(mse / np.mean(error**2))).astype(np.float32)


def of_filters(image: np.ndarray, other: np.ndarray) -> float:
    return float(filter_distance(FILTERS, image, other)[0])


def test_filters_are_derivatives_of_opponent_colours() -> None:
    kernel = FILTERS["kernel"]
    np.testing.assert_allclose(kernel.sum((0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(kernel[..., 5:].sum(2), 0, atol=1e-6)  # grey has no colour
    edge = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / np.sqrt(12) / 3
    np.testing.assert_allclose(kernel[:, :, 1, 0], edge, atol=1e-6)


def test_filters_see_form_and_not_brightness() -> None:
    """All errors have one mean square."""
    image = picture(32)
    blurred = ndimage.gaussian_filter(image, (0, 1, 1, 0))
    brighter = of_filters(image, with_error(image, np.ones_like(image)))
    contrast = of_filters(image, with_error(image, image - image.mean()))
    blur = of_filters(image, with_error(image, blurred - image))
    noise = np.random.RandomState(0).standard_normal(image.shape)
    assert brighter < 1e-6
    assert 0 < contrast < 0.3 * blur
    assert blur > 0.05 and of_filters(image, with_error(image, noise)) > 0.05


def test_a_moved_texture_is_nearer_than_none() -> None:
    """The L2 loss likes grey as much as stripes moved by a sixth of their period."""
    wave = np.sin(2 * np.pi * np.arange(33) / 6).astype(np.float32)
    stripes, moved = (
        np.broadcast_to(part[:, None], (1, 32, 32, 3)) / 2 for part in (wave[:-1], wave[1:])
    )
    grey = np.zeros_like(stripes)
    assert np.mean((stripes - moved) ** 2) == pytest.approx(np.mean(stripes**2), rel=0.05)
    assert of_filters(stripes, moved) < 0.7 * of_filters(stripes, grey)


def test_filters_are_a_symmetric_bounded_distance() -> None:
    one, other = (x[:1] for x in pictures())
    assert of_filters(one, one) < 1e-10
    assert of_filters(one, other) == pytest.approx(of_filters(other, one), rel=1e-5)
    assert 0.1 < of_filters(one, other) < 3
    assert of_filters(one, one + 0.001) < 1e-6 < of_filters(one, 0.9 * one)


@pytest.mark.parametrize("value", [0.0, None])
def test_filters_have_a_finite_gradient_for_equal_images(value: float | None) -> None:
    image = picture(16) if value is None else np.full((1, 16, 16, 3), value, np.float32)
    grads = jax.jit(jax.grad(lambda x, y: jnp.sum(filters.distance(FILTERS, x, y))))
    np.testing.assert_allclose(grads(image, image), 0, atol=1e-6)
    assert np.all(np.isfinite(grads(image, np.flip(image, 1) + 1e-20)))


def test_descending_the_filters_sharpens() -> None:
    """The gradient leads from a blurred picture back to the sharp one."""
    image = picture(16)
    blurred = ndimage.gaussian_filter(image, (0, 1, 1, 0))
    step = jax.jit(jax.value_and_grad(lambda x: jnp.sum(filters.distance(FILTERS, x, image))))
    x = blurred
    for _ in range(60):
        value, grads = step(x)
        x = x - 2.0 * grads
    assert value < 0.2 * step(blurred)[0]
    assert np.mean((x - image) ** 2) < 0.7 * np.mean((blurred - image) ** 2)


@pytest.mark.parametrize(
    ("size", "scales"), [((8, 8), 1), ((15, 40), 1), ((16, 16), 2), ((32, 32), 3), ((256, 256), 4)]
)
def test_scales(size: tuple[int, int], scales: int) -> None:
    assert filters.num_scales(*size) == scales
    if max(size) < 64:
        images = jnp.zeros((2, *size, 3))
        assert filter_distance(FILTERS, images, images).shape == (2,)


def test_filters_refuse_tiny_images() -> None:
    with pytest.raises(ValueError, match="at least 8 px"):
        filters.distance(FILTERS, jnp.zeros((1, 7, 8, 3)), jnp.zeros((1, 7, 8, 3)))


def test_filters_are_the_same_on_eight_devices() -> None:
    images = np.concatenate([picture(16) * scale for scale in np.linspace(0.2, 1, 8)])
    others = np.flip(images, 2)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    placed = (jax.device_put(FILTERS, everywhere), *jax.device_put((images, others), rows))
    got = filter_distance(*placed)
    assert got.sharding.is_equivalent_to(rows, 1)
    np.testing.assert_allclose(got, filter_distance(FILTERS, images, others), rtol=1e-5)


def test_without_a_file_the_filters_are_used_and_named() -> None:
    made = perceptual.make()
    assert made.name == "oriented filters (in-house, no trained weights)"
    assert made.distance is filters.distance
    np.testing.assert_array_equal(made.variables["kernel"], FILTERS["kernel"])


def test_a_file_is_read_once_and_late(
    variables: dict, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "perceptual.safetensors"
    made = perceptual.make(path)
    with pytest.raises(FileNotFoundError):
        _ = made.variables
    digest = weights.write(path, variables)
    assert made.name == f"LPIPS (VGG16) of {path}, sha256 {digest[:12]}"
    path.unlink()
    assert_same(made.variables, variables)
    assert made.distance is network.distance


def test_a_file_without_heads_says_so(variables: dict, tmp_path: pathlib.Path) -> None:
    conv = {name: layer for name, layer in variables.items() if name.startswith("conv")}
    path = tmp_path / "vgg.npz"
    weights.write(path, conv)
    made = perceptual.make(str(path))
    assert made.name.startswith("VGG16 without LPIPS heads (cosine distance)")
    assert_same(made.variables, without_heads(variables))


def test_gin_makes_one() -> None:
    text = """
from __gin__ import dynamic_registration
from parti.models.perceptual import perceptual
MODEL = @perceptual.make()
perceptual.make.path = None
"""
    assert gin_config.model_from_config(text).distance is filters.distance
