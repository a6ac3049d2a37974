# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Opens pages in Chromium, where it is installed, and says what a reader cannot see."""

import pathlib
import re
import shutil
import subprocess

import pytest

needs_chromium = pytest.mark.skipif(
    not shutil.which("chromium"), reason="chromium is not installed"
)

# Says from inside a frame how wide the frame and the content are, and how many images are not there
# and tables are cut at the edge of their panel.
_PROBE = """<script>
const root = document.documentElement;
const images = [...document.querySelectorAll("img")].filter((image) => !image.naturalWidth);
const tables = [...document.querySelectorAll("table")].filter((table) =>
  table.getBoundingClientRect().right > table.closest(".panel").getBoundingClientRect().right);
const lost = images.length + tables.length;
parent.postMessage([root.clientWidth, root.scrollWidth, lost].join(" "), "*");
</script>"""
_FRAMES = """<title></title><script>
const seen = [];
addEventListener("message", (event) => { seen.push(event.data); document.title = seen.sort(); });
</script>"""


def probe(page: str, folder: pathlib.Path, *widths: int) -> list[str]:
    """Opens a page in frames of some widths.

    Args:
      page: its HTML.
      folder: an empty one to work in.
      *widths: in CSS pixels.

    Returns:
      "frame content lost" of each width, sorted as text: how wide the frame and what is in it are,
      and how many images and tables cannot be seen whole. 390 390 0 is good.
    """
    (folder / "page.html").write_text(page.replace("</body>", _PROBE + "</body>"))
    frames = "".join(
        f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'
        for width in widths
    )
    (folder / "frames.html").write_text(_FRAMES + frames)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--hide-scrollbars", "--disable-background-networking", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=5000", f"--user-data-dir={folder / 'profile'}"]
    command += [(folder / "frames.html").as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in run.stderr
    title = re.search("<title>(.*)</title>", run.stdout)
    assert title
    return title.group(1).split(",")
