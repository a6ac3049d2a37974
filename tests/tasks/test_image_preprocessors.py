# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import seqio
import tensorflow as tf

from parti.data.images import images
from parti.data.storage import row_order
from parti.tasks import image_preprocessors, preprocessors, sources


def shifted(is_training: bool, max_shift: int, count: int = 300) -> list[np.ndarray]:
    """Returns a picture [5, 7, 3] whose pixels say where they are, moved `count` times."""
    places = np.stack(np.meshgrid(np.arange(5), np.arange(7), indexing="ij"), -1)
    pixels = np.concatenate([places, 10 * places[..., :1] + places[..., 1:]], -1)
    element = {"image": pixels.astype(np.float32), sources.IS_TRAINING: tf.constant(is_training)}
    dataset = tf.data.Dataset.from_tensors(element).repeat(count)
    with seqio.map_seed_manager(5):
        moved = image_preprocessors.shift_image("image", max_shift)(dataset)
    assert moved.element_spec["image"].shape == (5, 7, 3)
    return [element["image"] for element in moved.as_numpy_iterator()]


def test_pictures_are_moved_in_training_only() -> None:
    (still,) = {image.tobytes() for image in shifted(False, 2)}
    assert {image.tobytes() for image in shifted(True, 0)} == {still}
    picture = np.frombuffer(still, np.float32).reshape(5, 7, 3)
    seen = set()
    for image in shifted(True, 2):
        down, right = (int(n) for n in image[2, 3, :2] - picture[2, 3, :2])
        seen.add((down, right))
        rows = np.clip(np.arange(5) + down, 0, 4)
        columns = np.clip(np.arange(7) + right, 0, 6)
        np.testing.assert_array_equal(image, picture[rows][:, columns])
    assert seen == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}
    with pytest.raises(ValueError, match="max_shift=-1: give 0 or more"):
        image_preprocessors.shift_image("image", -1)


def decode(data: bytes, size: int, **kwargs: object) -> np.ndarray:
    dataset = tf.data.Dataset.from_tensors({"image": data})
    decoded = image_preprocessors.decode_image("image", size)(dataset, **kwargs)
    assert decoded.element_spec["image"].shape == (size, size, 3)
    return next(iter(decoded.as_numpy_iterator()))["image"]


def test_pictures_are_decoded_as_by_data_images() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    data = images.encode_png(noise)
    np.testing.assert_array_equal(decode(data, 12), images.to_float(noise))
    small = images.to_float(images.resize(noise, 5))
    assert np.abs(decode(data, 5) - small).max() <= 0.51 / 127.5


def test_long_sides_are_cut_evenly() -> None:
    wide = np.zeros((2, 6, 3), np.uint8)
    wide[:, 2:4] = 255
    np.testing.assert_array_equal(decode(images.encode_png(wide), 2), np.ones((2, 2, 3)))


def places(height: int, width: int) -> np.ndarray:
    """Returns a picture whose red is the column and whose green is the row."""
    image = np.full((height, width, 3), 200, np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    return image


def cropped(
    height: int, width: int, size: int, count: int, seed: int = 5, is_training: bool = True
) -> list[np.ndarray]:
    """Returns `count` crops of `places`, as levels in [0, 255]."""
    element = {
        "image": tf.constant(images.encode_png(places(height, width))),
        sources.IS_TRAINING: tf.constant(is_training),
    }
    dataset = tf.data.Dataset.from_tensors(element).repeat(count)
    with seqio.map_seed_manager(seed):
        decoded = image_preprocessors.decode_random_crop("image", size)(dataset)
    assert decoded.element_spec["image"].shape == (size, size, 3)
    return [(x["image"] + 1) * 127.5 for x in decoded.as_numpy_iterator()]


def test_random_crops_are_those_of_the_listing() -> None:
    # s = 200: sides from 72 to 96 of a square that begins in columns 0 to 50.
    crops = cropped(200, 250, 64, 600)
    flipped = [crop[0, 0, 0] > crop[0, -1, 0] for crop in crops]
    assert 250 < sum(flipped) < 350  # 300 +- 12
    upright = [crop[:, ::-1] if flip else crop for crop, flip in zip(crops, flipped, strict=True)]
    columns = [(crop[0, 0, 0], crop[0, -1, 0]) for crop in upright]
    rows = [(crop[0, 0, 1], crop[-1, 0, 1]) for crop in upright]
    for crop in upright:  # one scale on both axes, and nothing from outside the picture
        np.testing.assert_allclose(crop[..., 2], 200, atol=0.01)
        steps = np.diff(crop[..., 0], axis=1), np.diff(crop[..., 1], axis=0)
        assert steps[0].min() > 0 and steps[1].min() > 0
    sides = [round(63 * 200 / (last - first)) for first, last in rows]
    assert set(sides) == set(range(72, 97))
    assert max(sides.count(side) for side in set(sides)) < 50  # 24 +- 5
    assert min(first for first, _ in columns) < 5 and max(last for _, last in columns) > 244
    assert min(first for first, _ in rows) < 2 and max(last for _, last in rows) > 197


def test_random_crops_of_small_pictures_use_what_is_there() -> None:
    # s = 66 < 72: not resized; a square of 64 anywhere.
    crops = [
        crop[:, ::-1] if crop[0, 0, 0] > crop[0, -1, 0] else crop
        for crop in cropped(66, 66, 64, 200)
    ]
    starts = {(round(crop[0, 0, 0].item()), round(crop[0, 0, 1].item())) for crop in crops}
    assert starts == {(x, y) for x in range(3) for y in range(3)}
    assert all(round((crop[0, -1, 0] - crop[0, 0, 0]).item(), 3) == 63 for crop in crops)
    # s = 32 < 64: all of it, each pixel twice.
    crops = {crop.tobytes() for crop in cropped(32, 32, 64, 30)}
    large = places(32, 32).repeat(2, 0).repeat(2, 1)
    found = sorted(
        (np.frombuffer(c, np.float32).reshape(64, 64, 3) for c in crops),
        key=lambda crop: crop[0, 0, 0],
    )
    np.testing.assert_allclose(found[0], large, atol=0.01)
    np.testing.assert_allclose(found[1], large[:, ::-1], atol=0.01)
    assert len(found) == 2


def test_random_crops_follow_the_seed_and_training_only() -> None:
    np.testing.assert_array_equal(cropped(80, 90, 32, 5), cropped(80, 90, 32, 5))
    assert (np.stack(cropped(80, 90, 32, 5)) != np.stack(cropped(80, 90, 32, 5, seed=6))).any()
    still = cropped(80, 90, 32, 3, is_training=False)
    expected = (decode(images.encode_png(places(80, 90)), 32) + 1) * 127.5
    np.testing.assert_array_equal(still, [expected] * 3)
    with pytest.raises(ValueError, match="Image size 0"):
        image_preprocessors.decode_random_crop("image", 0)


def test_each_preprocessor_draws_bits_of_its_own() -> None:
    """Of one example: two features that are moved, a crop, and steps that choose a caption."""
    seeds = row_order.seeds(3, 0, np.arange(200))
    pixels = np.random.default_rng(0).random((9, 9, 3), np.float32)
    element = {"one": pixels, "other": pixels, sources.IS_TRAINING: True}
    dataset = tf.data.Dataset.from_tensor_slices({sources.SEED: seeds})
    dataset = dataset.map(lambda x: x | {k: tf.constant(v) for k, v in element.items()})
    for name in ("one", "other"):
        dataset = image_preprocessors.shift_image(name, 2)(dataset)
    moved = [(x["one"].tobytes(), x["other"].tobytes()) for x in dataset.as_numpy_iterator()]
    assert len(set(moved)) > 150  # of 625
    assert 0 < sum(one == other for one, other in moved) < 30  # 8 +- 3

    words = ("crop image", "shift image")
    features = [{sources.SEED: tf.constant(seed)} for seed in seeds[:50]]
    drawn = [
        tuple(image_preprocessors._own_seed(of, None, what).numpy().tolist())
        for of in features
        for what in words
    ]
    own = tf.constant(seeds[:50])
    steps = [tf.bitcast(preprocessors.own_bits(own, n), tf.int32).numpy() for n in range(6)]
    drawn += [tuple(each) for of_step in steps for each in of_step.tolist()]
    assert len(set(drawn)) == 50 * (len(words) + 6)


def test_lengths_must_agree() -> None:
    data = images.encode_png(np.zeros((4, 4, 3), np.uint8))
    decode(data, 4, sequence_length={"image": 4})
    with pytest.raises(ValueError, match=r"TASK_FEATURE_LENGTHS\['image'\] is 2, .* has 4"):
        decode(data, 4, sequence_length={"image": 2})
    with pytest.raises(ValueError, match="Image size 0"):
        image_preprocessors.decode_image("image", 0)
