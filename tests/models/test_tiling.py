# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Upsampling in windows: the same as whole, at edges and between windows; seams if cut short."""

import dataclasses
import functools

import flax.core
import jax
import numpy as np
import pytest

from parti.models.super_resolution import model as super_resolution
from parti.models.super_resolution import network, tiling

ONE_STAGE = network.SuperResolutionConfig(num_channels=6, num_blocks=2, widening=2)
TWO_STAGES = dataclasses.replace(ONE_STAGE, num_blocks=1, num_stages=2)
CONFIGS = {"x2": ONE_STAGE, "two stages of x2": TWO_STAGES}


class Upsampler:
    """A network with random parameters that notes the shapes that it was given."""

    def __init__(self, config: network.SuperResolutionConfig) -> None:
        self.config = config
        self.net = network.SuperResolution(config)
        self.shapes: set[tuple[int, ...]] = set()
        shapes = jax.eval_shape(self.net.init, jax.random.PRNGKey(0), np.zeros((1, 8, 8, 3)))
        rng = np.random.default_rng(0)
        # Not the initialisers': theirs make the network nearest-neighbour, which sees nothing.
        self.variables = jax.tree.map(
            lambda leaf: 0.5 * rng.normal(size=leaf.shape).astype(np.float32),
            flax.core.meta.unbox(shapes),
        )
        self._apply = jax.jit(self.net.apply)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.shapes.add(images.shape)
        return np.asarray(self._apply(self.variables, images))


@pytest.fixture(scope="module", params=CONFIGS, ids=str)
def upsampler(request: pytest.FixtureRequest) -> Upsampler:
    return Upsampler(CONFIGS[request.param])


def images_of(height: int, width: int, batch: int = 1) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.uniform(-1, 1, (batch, height, width, 3)).astype(np.float32)


def test_receptive_radius_by_hand():
    radius = tiling.receptive_radius
    # Head and tail see 1 pixel each, a block 2; the second stage sees 6 pixels of half the size.
    assert radius(ONE_STAGE) == 1 + 2 * 2 + 1
    assert radius(TWO_STAGES) == 4 + 2
    assert radius(network.SuperResolutionConfig()) == 26
    assert radius(network.SuperResolutionConfig(num_stages=2)) == 26 + 13
    assert radius(dataclasses.replace(TWO_STAGES, scale=3)) == 4 + 2, "4 / 3 pixels, rounded up"


def test_an_output_pixel_sees_exactly_that_far(upsampler):
    """The gradient of the output pixels that one low-resolution pixel becomes."""
    radius, scale = tiling.receptive_radius(upsampler.config), upsampler.config.total_scale
    centre, side = radius + 1, 2 * radius + 3
    image = images_of(side, side)

    def pixels(image):
        large = upsampler.net.apply(upsampler.variables, image)
        return large[0, centre * scale : (centre + 1) * scale, centre * scale, 0]

    seen = np.abs(jax.jit(jax.jacobian(pixels))(image))  # [scale, 1, height, width, 3]
    rows = seen.sum((1, 3, 4))
    assert (rows[:, [0, -1]] == 0).all(), "nothing beyond the radius"
    assert (rows[:, 1:-1].max(0) > 0).all(), "everything up to it"


@pytest.mark.parametrize(
    ("height", "width", "window"),
    [(37, 37, 16), (50, 23, 20), (16, 41, 16), (13, 30, 21), (33, 33, 32)],
    ids=str,
)
def test_windows_equal_the_whole(upsampler, height, width, window):
    images = images_of(height, width, batch=2)
    whole = upsampler(images)
    upsampler.shapes.clear()
    tiled = tiling.upsample(upsampler, images, upsampler.config, window)
    assert tiled.shape == whole.shape
    assert np.abs(whole).max() > 1.0
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)
    assert upsampler.shapes == {(2, min(height, window), min(width, window), 3)}


def test_a_smaller_halo_shows_a_seam(upsampler, monkeypatch):
    images = images_of(37, 37)
    whole, halo = upsampler(images), tiling.receptive_radius(upsampler.config)
    monkeypatch.setattr(tiling, "receptive_radius", lambda config: halo - 1)
    error = np.abs(tiling.upsample(upsampler, images, upsampler.config, 16) - whole)[0].max(-1)
    assert error.max() > 1e-4
    scale = upsampler.config.total_scale
    assert error[: 2 * scale, : 2 * scale].max() < 1e-5, "far from seams it is right"


def test_a_small_image_goes_whole(upsampler):
    images = images_of(9, 14)
    upsampler.shapes.clear()
    tiled = tiling.upsample(upsampler, images, upsampler.config, 14)
    assert upsampler.shapes == {(1, 9, 14, 3)}
    np.testing.assert_array_equal(tiled, upsampler(images))


@pytest.mark.parametrize(("length", "window", "halo"), [(37, 16, 6), (100, 13, 6), (14, 13, 6)])
def test_spans_cover_an_axis_once(length, window, halo):
    found = tiling.spans(length, window, halo)
    assert found[0].keep_from == 0
    assert found[-1].keep_to == length
    for one, after in zip(found, found[1:], strict=False):
        assert one.keep_to == after.keep_from
    for span in found:
        assert 0 <= span.start <= length - window, "inside the image"
        assert span.keep_from < span.keep_to
        assert span.start == 0 or span.keep_from >= span.start + halo
        assert span.start + window == length or span.keep_to <= span.start + window - halo
    # No more than needed: all but the two at the ends give window - 2 halo pixels.
    assert len(found) == -(-(length - 2 * halo) // (window - 2 * halo))


def test_too_small_a_window_is_refused_with_the_least_that_works(upsampler):
    halo, images = tiling.receptive_radius(upsampler.config), images_of(37, 15)
    least = 2 * halo + 1
    with pytest.raises(ValueError, match=f"windows of {least - 1} .* give at least {least} "):
        tiling.upsample(upsampler, images, upsampler.config, least - 1)
    tiled = tiling.upsample(upsampler, images, upsampler.config, least)
    np.testing.assert_allclose(tiled, upsampler(images), rtol=0, atol=1e-5)
    # A smaller image has a smaller least: itself.
    with pytest.raises(ValueError, match="give at least 9 for images of 9 pixels"):
        tiling.upsample(upsampler, images[:, :9, :7], upsampler.config, 8)


def test_it_takes_the_model_s_method():
    """As docs/upsampler.md shows it; pixels are clipped alike."""
    model = super_resolution.SuperResolutionModel(ONE_STAGE)
    variables = Upsampler(ONE_STAGE).variables
    images = images_of(20, 20)
    upsample = functools.partial(jax.jit(model.upsample), variables)
    tiled = tiling.upsample(upsample, images, model.config, 16)
    np.testing.assert_allclose(tiled, upsample(images), rtol=0, atol=1e-5)
    assert np.abs(tiled).max() == 1.0
