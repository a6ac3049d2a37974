# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""index.html: pictures with caption and key, a page to look through with no server or network.

Pictures are written into the page as data URIs until a budget of bytes is spent; what is left over
is read from the folder beside it. The same pictures give the same bytes.
"""

import base64
import dataclasses
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from parti.data.images import images
from parti.pipelines.html import templates

FILE_NAME = "index.html"
MAX_PICTURES = 500  # of a section
_EMBEDDED_BYTES = 16 * 2**20
# Below this width single pixels are shown as squares instead of being smoothed away.
_PIXELATED_BELOW = 128


@dataclasses.dataclass(frozen=True)
class Picture:
    """What is shown.

    Attributes:
      key: of the picture.
      text: its caption; may be empty.
      image: path of the PNG, relative to the page.
    """

    key: str
    text: str
    image: str


def write(
    root: pathlib.Path,
    sections: Mapping[str, Sequence[Picture]],
    total: int,
    title: str,
    embedded_bytes: int = _EMBEDDED_BYTES,
) -> pathlib.Path:
    """Writes the page and returns its path.

    Args:
      root: the folder of the page.
      sections: heading -> at least one picture.
      total: pictures that there are, shown or not.
      title: heading of the page.
      embedded_bytes: size of all embedded pictures together, before base64.
    """
    budget = embedded_bytes
    shown: dict[str, list[dict[str, Any]]] = {}
    width = 0
    for heading, pictures in sections.items():
        cards = shown.setdefault(heading, [])
        for picture in pictures:
            data = (root / picture.image).read_bytes()
            width = width or images.read_size(data)[0]
            budget -= len(data)
            cards.append({"picture": picture, "source": _source(picture, data, budget >= 0)})
    page = templates.render(
        "contact_sheet.html",
        title=title,
        total=total,
        num_shown=sum(len(cards) for cards in shown.values()),
        sections=shown,
        width=width,
        pixelated=width < _PIXELATED_BELOW,
    )
    path = root / FILE_NAME
    path.write_text(page, encoding="utf-8")
    return path


def _source(picture: Picture, data: bytes, is_embedded: bool) -> str:
    """Returns the address of a picture for the page."""
    if is_embedded:
        return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
    return urllib.parse.quote(picture.image)
