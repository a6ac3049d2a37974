# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The contact sheet: images within a budget, linked beyond it; test_detokenize has the rest."""

import pathlib

import numpy as np

from parti.data.images import images
from parti.pipelines.html import contact_sheet


def test_what_is_too_much_for_the_page_is_linked_or_left_out(tmp_path: pathlib.Path) -> None:
    data = images.encode_png(np.zeros((200, 200, 3), np.uint8))
    (tmp_path / "a b.png").write_bytes(data)
    shown = {"train": [contact_sheet.Tile("k", "t", "a b.png")] * 3}
    path = contact_sheet.write(tmp_path, shown, 9, "Sheet", embedded_bytes=2 * len(data))
    page = pathlib.Path(path).read_text()
    assert page.count('src="data:image/png') == 2 and page.count('src="a%20b.png"') == 1
    assert "The first 3 are shown" in page and "<h2>" not in page and 'px"' not in page
