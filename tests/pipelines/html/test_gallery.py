# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The gallery page: every picture is in it, it is self-contained, and its script works."""

import base64
import html.parser
import pathlib
import re
import shutil
import subprocess
from typing import Any

import numpy as np
import PIL.Image
import pytest

from parti.data.images import images
from parti.data.storage import records
from parti.pipelines.html import gallery

PROMPTS = ("a red circle", 'a <b>bold</b> "sign" & a hat', "une pomme d'été")
NUM_SAMPLES = 4


def make_generations(root: pathlib.Path, size: int = 16, score: bool = True) -> list:
    """Writes NUM_SAMPLES pictures for each prompt; sample 2 is the best."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    made = []
    for number, prompt in enumerate(PROMPTS):
        for sample in range(NUM_SAMPLES):
            path = f"images/p{number}-{sample}.png"
            picture = rng.integers(0, 256, (size, size, 3), np.uint8)
            (root / path).write_bytes(images.encode_png(picture))
            rank = (sample - 2) % NUM_SAMPLES
            made.append(
                records.Generation(
                    prompt_id=f"p{number}",
                    prompt=prompt,
                    sample_index=sample,
                    rank=rank,
                    score=0.4 - 0.1 * rank + 0.01 * number if score else None,
                    seed=0,
                    image=path,
                    metadata={"challenge": "colour" if number else "shape"},
                )
            )
    return made


class Images(html.parser.HTMLParser):
    """Collects the attributes of every <img> and the text of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


def test_every_picture_is_embedded_with_an_alt_text(tmp_path: pathlib.Path) -> None:
    made = make_generations(tmp_path)
    page = written(tmp_path, made, settings={"guidance_scale": 1.2})
    for item in made:
        data = base64.b64encode((tmp_path / item.image).read_bytes()).decode()
        assert page.count(data) == 1  # The viewer borrows the best picture from its card.
    assert all(image["alt"] for image in Images(page).found if image.get("id") != "big")
    assert not re.findall(r'(?:src|href)="(?!data:|images/)', page)
    assert "http:" not in page and "https:" not in page and "{{" not in page
    assert "<b>bold</b>" not in page and "guidance scale <b>1.2</b>" in page


def written(*arguments: Any, **options: Any) -> str:
    """Writes the gallery and returns the page."""
    return pathlib.Path(gallery.write_gallery(*arguments, **options)).read_text()


def test_samples_are_listed_in_rank_order(tmp_path: pathlib.Path) -> None:
    page = written(tmp_path, make_generations(tmp_path))
    facts = re.findall(r'data-facts="rank (\d) of 4\|sample (\d)', page)
    assert facts == [("1", "2"), ("2", "3"), ("3", "0"), ("4", "1")] * len(PROMPTS)


def test_a_small_budget_links_to_files_and_says_so(tmp_path: pathlib.Path) -> None:
    made = make_generations(tmp_path)
    size = max((tmp_path / item.image).stat().st_size for item in made)
    page = written(tmp_path, made, embedded_bytes=len(PROMPTS) * size)
    assert len(set(re.findall(r"data:image/png[^\"]*", page))) == len(PROMPTS)
    assert page.count('src="images/') == len(made) - len(PROMPTS)
    assert "9 pictures beyond the size of this page" in page
    page = written(tmp_path, made, embedded_prompts=1)
    assert "6 pictures beyond" in page


def test_large_pictures_are_embedded_small(tmp_path: pathlib.Path) -> None:
    made = make_generations(tmp_path, size=512)
    page = written(tmp_path, made[:1])
    assert "data:image/webp" in page and 'class="px"' not in page
    assert page == written(tmp_path, made[:1])


def test_each_file_is_opened_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_generations(tmp_path)
    opened: list[str] = []

    def opening(file: Any) -> PIL.Image.Image:
        opened.append(str(pathlib.Path(file.name).relative_to(tmp_path)))
        return open_image(file)

    open_image = PIL.Image.open
    monkeypatch.setattr(PIL.Image, "open", opening)
    gallery.write_gallery(tmp_path, made, embedded_prompts=1)
    assert sorted(opened) == sorted(item.image for item in made)


def test_without_scores_nothing_is_called_best(tmp_path: pathlib.Path) -> None:
    page = written(tmp_path, make_generations(tmp_path, score=False))
    assert "no reranker" in page and "score 0" not in page and 'id="order"' not in page


def test_nothing_to_show_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="no generations"):
        gallery.write_gallery(tmp_path, [])


# Uses the page as a reader would, and leaves what it saw in the title.
DRIVER = """<script>
const seen = [];
const shown = () => document.querySelectorAll(".card:not([hidden])").length;
const type = (text) => { search.value = text; search.dispatchEvent(new Event("input")); };
seen.push(shown());
type("RED circle"); seen.push(shown(), byId("count").textContent);
type("nowhere"); seen.push(shown(), byId("empty").hidden);
type("");
order.value = "best"; order.dispatchEvent(new Event("change"));
seen.push(document.querySelector(".card").id);
document.querySelector(".open").click();
seen.push(viewer.open, byId("samples").children.length, byId("caption").textContent);
byId("samples").children[3].click();
seen.push(byId("caption").textContent);
byId("next").click(); seen.push(byId("viewer-prompt").textContent);
byId("close").click(); seen.push(viewer.open);
document.title = seen.join(" ~ ");
</script></body>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_the_page_works_in_a_browser(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(gallery.write_gallery(tmp_path, make_generations(tmp_path)))
    path.write_text(path.read_text().replace("</body>", DRIVER))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--disable-background-networking", "--enable-logging=stderr"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in run.stderr
    title = re.search("<title>(.*)</title>", run.stdout)
    assert title and title.group(1).split(" ~ ") == [
        "3",
        *("1", "1 of 3 prompts"),
        *("0", "false"),
        "p-p2",
        *("true", "4", "rank 1 of 4sample 2score 0.4200open the file"),
        "rank 4 of 4sample 1score 0.1200open the file",
        'a &lt;b&gt;bold&lt;/b&gt; "sign" &amp; a hat',
        "false",
    ]
