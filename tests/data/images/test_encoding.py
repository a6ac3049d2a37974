# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import hypothesis
import json_values
import numpy as np
import pytest
from PIL import Image

from parti.data.images import encoding, images
from parti.stages import json_text

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
METADATA = {
    "prompt": "Ein Kätzchen 猫 \U0001f600",
    "score": None,
    "settings": {"seed": 3, "fingerprints": {"generator": "0" * 64}},
}


@pytest.mark.parametrize("kind", encoding.FORMATS)
def test_an_image_and_its_metadata_come_back(kind: str) -> None:
    data = encoding.encode(NOISE, kind, metadata=METADATA)
    assert encoding.read_metadata(data) == METADATA
    assert data == encoding.encode(NOISE, kind, metadata=dict(reversed(METADATA.items())))
    plain = encoding.encode(NOISE, kind)
    assert encoding.read_metadata(plain) is None
    pixels = images.decode_image(data)
    assert np.array_equal(pixels, images.decode_image(plain)), "metadata change no pixel"
    if kind == encoding.PNG:
        assert np.array_equal(pixels, NOISE) and plain == images.encode_png(NOISE)
    else:
        smooth = images.resize(NOISE, (192, 320))
        fine, coarse = (encoding.encode(smooth, kind, quality) for quality in (None, 20))
        assert len(coarse) < len(fine) / 2
        shown = (images.decode_image(data).astype(int) for data in (fine, coarse))
        errors = [np.abs(pixels - smooth).mean() for pixels in shown]
        assert errors[0] < errors[1] / 2 < 5


@pytest.mark.parametrize("kind", encoding.FORMATS)
@hypothesis.given(value=json_values.JSON)
@hypothesis.settings(max_examples=30)
def test_any_json_comes_back(kind: str, value: object) -> None:
    metadata = {"value": json_text.mend(value)}
    data = encoding.encode(NOISE, kind, metadata=metadata)
    assert encoding.read_metadata(data) == metadata


@pytest.mark.parametrize("kind", encoding.FORMATS)
def test_long_texts_are_cut_and_the_rest_is_refused(kind: str) -> None:
    """Two texts of the widest letters fit in the 64 KiB of EXIF."""
    long, whole = 70_000 * "\U0001f600", 2000 * "\U0001f600"
    data = encoding.encode(NOISE, kind, metadata={"prompt": long, "others": [{"n": whole}]})
    found = encoding.read_metadata(data)
    assert found == {"prompt": long[:1997] + "...", "others": [{"n": whole}]}
    longest = {"texts": [1999 * "x"] * 32}
    assert encoding.read_metadata(encoding.encode(NOISE, kind, metadata=longest)) == longest
    with pytest.raises(
        ValueError, match=r"metadata of 66,\d+ bytes; an image holds at most 65,000"
    ):
        encoding.encode(NOISE, kind, metadata={"texts": [1999 * "x"] * 33})


def test_what_is_not_ours_has_no_metadata() -> None:
    exif = Image.Exif()
    exif[0x010E] = "A holiday"
    assert encoding.read_metadata(images.encode_jpeg(NOISE, exif=exif.tobytes())) is None
    with pytest.raises(ValueError, match="not a PNG, WebP or JPEG"):
        encoding.read_metadata(b"GIF89a")


@pytest.mark.parametrize(
    ("kind", "quality", "message"),
    [
        ("gif", None, "format=gif: give one of png, webp, jpeg"),
        ("png", 90, "quality=90: is of webp and jpeg"),
        ("webp", 0, "quality=0: give 1 to 100"),
        ("jpeg", 101, "quality=101: give 1 to 100"),
    ],
)
def test_bad_values(kind: str, quality: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoding.encode(NOISE, kind, quality)
