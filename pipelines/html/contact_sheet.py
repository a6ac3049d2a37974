# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""index.html: images with caption and key, a page to look through with no server or network.

The first are embedded up to a budget of bytes, the others are read from the page's folder.
"""

import dataclasses
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from parti.data.images import images
from parti.pipelines.html import templates
from parti.stages import files

FILE_NAME = "index.html"
MAX_IMAGES = 500  # of a section
# Below this width single pixels are shown as squares instead of being smoothed away.
_PIXELATED_BELOW = 128


@dataclasses.dataclass(frozen=True)
class Tile:
    """An image of the sheet, with what stands below it: its key and caption."""

    key: str
    text: str
    image: str  # path of the PNG, relative to the page


def write(
    root: files.Path,
    sections: Mapping[str, Sequence[Tile]],  # heading -> its images, in order
    total: int,  # images, shown or not
    title: str,
    embedded_bytes: int = 16 * 2**20,  # of all embedded images together, before base64
) -> str:
    """Writes the page into its folder, and returns its address."""
    budget, width = embedded_bytes, 0
    shown: dict[str, list[dict[str, Any]]] = {heading: [] for heading in sections}
    for heading, tiles in sections.items():
        contents = files.each(files.read_bytes, [files.join(root, tile.image) for tile in tiles])
        for tile, data in zip(tiles, contents, strict=True):
            width = width or images.read_size(data)[0]
            budget -= len(data)
            link = urllib.parse.quote(tile.image)
            source = templates.data_uri(data, "png") if budget >= 0 else link
            shown[heading].append({"tile": tile, "source": source})
    page = templates.render(
        "contact_sheet.html",
        title=title,
        total=total,
        num_shown=sum(len(tiles) for tiles in shown.values()),
        sections=shown,
        width=width,
        pixelated=width < _PIXELATED_BELOW,
    )
    path = files.join(root, FILE_NAME)
    files.write_bytes(path, page.encode())
    return path
