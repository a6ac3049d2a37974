# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The gallery page: every picture is in it, it is self-contained, and its script works."""

import base64
import dataclasses
import html
import io
import json
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
from parti.data.text import prompt_files
from parti.pipelines import draw_gallery, generate
from parti.pipelines.html import gallery
from parti.stages import files, manifests

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
                    settings={"guidance_scale": 1.2, "rerank_by": "contrast", "seed": 0},
                    metadata={
                        "challenge": "colour" if number else "shape",
                        "category": "clothes" if number == 1 else "food",
                    },
                )
            )
    return made


def written(*arguments: Any, **options: Any) -> str:
    """Writes the gallery and returns the page."""
    return pathlib.Path(gallery.write_gallery(*arguments, **options)).read_text()


def parsed(page: str) -> tuple[dict[str, Any], list[str]]:
    """Returns the data of a page and its thumbnails, in order."""
    scripts = re.findall(r'<script type="application/json" id="(.*?)">(.*?)</script>', page)
    (name, data), *chunks = scripts
    assert name == "data"
    assert [n for n, _ in chunks] == [f"thumbnails-{i}" for i in range(len(chunks))]
    return json.loads(data), [source for _, chunk in chunks for source in json.loads(chunk)]


def test_every_picture_is_in_the_page(tmp_path: pathlib.Path) -> None:
    made = make_generations(tmp_path)
    page = written(tmp_path, made)
    data, sources = parsed(page)
    assert len(set(sources)) == len(made)
    for prompt in data["prompts"]:
        for index, _, _, name, _, number, is_reduced in prompt["runs"][0]["samples"]:
            assert name == f"{prompt['id']}-{index}.png" and not is_reduced
            found = base64.b64decode(sources[number].removeprefix("data:image/png;base64,"))
            assert found == (tmp_path / "images" / name).read_bytes()
    assert "http:" not in page and "https:" not in page and "{{" not in page
    assert "<b>bold</b>" not in page and "guidance scale <b>1.2</b>" in page
    assert page == written(tmp_path, made)


def test_samples_are_listed_in_rank_order(tmp_path: pathlib.Path) -> None:
    data, _ = parsed(written(tmp_path, make_generations(tmp_path)))
    for prompt in data["prompts"]:
        rows = prompt["runs"][0]["samples"]
        assert [row[:2] for row in rows] == [[2, 0], [3, 1], [0, 2], [1, 3]]


def test_a_small_budget_links_to_files_and_says_so(tmp_path: pathlib.Path) -> None:
    made = make_generations(tmp_path)
    size = max((tmp_path / item.image).stat().st_size for item in made)
    page = written(tmp_path, made, embedded_bytes=len(PROMPTS) * size)
    assert len(parsed(page)[1]) == len(PROMPTS)
    assert "9 pictures beyond the size of this page" in page
    page = written(tmp_path, made, embedded_prompts=1)
    assert "6 pictures beyond" in page


def test_large_pictures_are_embedded_small(tmp_path: pathlib.Path) -> None:
    made = make_generations(tmp_path, size=512)[:2]
    _, sources = parsed(written(tmp_path, made))
    assert [sizes(source) for source in sources] == [("WEBP", 384)] * 2
    page = written(tmp_path, made, embedded_bytes=40_000)  # noise is large as WebP too
    data, sources = parsed(page)
    assert {sizes(source) for source in sources} == {("WEBP", 192)}
    assert data["prompts"][0]["runs"][0]["samples"][0][-1] == 1
    assert sum(len(base64.b64decode(source.partition(",")[2])) for source in sources) <= 40_000


def sizes(source: str) -> tuple[str | None, int]:
    """Returns the format and width of a data URI."""
    with PIL.Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
        return image.format, image.width


def test_only_embedded_files_are_read_each_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_generations(tmp_path)
    read: list[str] = []

    def reading(path: str) -> bytes:
        read.append(str(pathlib.Path(path).relative_to(tmp_path)))
        return read_bytes(path)

    read_bytes = files.read_bytes
    monkeypatch.setattr(files, "read_bytes", reading)
    gallery.write_gallery(tmp_path, made, embedded_prompts=1)
    wanted = [item.image for item in made if item.prompt_id == "p0" or item.rank == 0]
    assert sorted(read) == sorted(wanted)


def test_without_scores_nothing_is_called_best(tmp_path: pathlib.Path) -> None:
    page = written(tmp_path, make_generations(tmp_path, score=False))
    assert "no reranker" in page and "No reranker scored" in page and 'id="order"' not in page


@pytest.mark.parametrize("ranking, said", [("contrast", "cosine"), ("likelihood", "caption")])
def test_the_score_is_explained(tmp_path: pathlib.Path, ranking: str, said: str) -> None:
    made = [
        dataclasses.replace(item, settings=item.settings | {"rerank_by": ranking})
        for item in make_generations(tmp_path)
    ]
    page = written(tmp_path, made)
    assert said in page and f"--rerank_by={ranking}" in page
    assert "Scores here go from 0.100 to 0.420" in page


@pytest.mark.parametrize("text", ['it\'s a "$HOME" `ls`', "--seed=3", "cat/dog", "a photo.txt"])
def test_the_command_draws_the_same_again(tmp_path: pathlib.Path, text: str) -> None:
    settings = generate.GenerateSettings(
        num_samples=6, num_upsampled=2, seed=5, top_k=3, guidance_scale=2.5, rerank_by="both"
    )
    row = dataclasses.asdict(settings) | {"fingerprints": {"generator": "f"}}
    item = records.Generation("p", text, 4, 1, 0.5, 5, "images/p/004.png", row)
    inputs = {"model": "here", "upsample_tile": 16, "prompts_per_batch": 4}
    command = " ".join(gallery.redraw_command(item, inputs))
    # A shell that has the command `parti` print its arguments, each ended by a zero byte.
    script = f"parti() {{ printf '%s\\0' \"$@\"; }}; {command}"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, check=True)
    name, *arguments = done.stdout.decode().split("\0")[:-1]
    flags = generate.make_parser().parse_args(arguments)
    assert name == "generate" and flags.model == "BUNDLE" and flags.upsample_tile == 16
    checked = dataclasses.replace(generate.check_flags(flags), rerank_by=flags.rerank_by)
    assert checked == settings
    given = tmp_path / flags.prompts if flags.prompts == "prompt.jsonl" else flags.prompts
    assert [prompt.text for prompt in prompt_files.read_prompts(given)] == [text]


def two_runs(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes two finished runs; the second lacks the first prompt and has higher scores."""
    for name, gain in (("one", 0.0), ("two", 0.25)):
        made = make_generations(folder / name / "images_of")
        kept = [
            dataclasses.replace(item, score=(item.score or 0.0) + gain)
            for item in made
            if name == "one" or item.prompt_id != "p0"
        ]
        root = folder / name / "images_of"
        lines = "".join(f"{item.to_json()}\n" for item in kept)
        (root / "manifest.jsonl").write_text(lines)
        counts = {"images": len(kept)}
        inputs = {"model": f"bundle_{name}"}
        manifests.write(root, "generations", counts=counts, settings={}, content={}, inputs=inputs)
    return folder / "one" / "images_of", folder / "two" / "images_of"


def test_the_command_writes_the_page_again(tmp_path: pathlib.Path) -> None:
    first, _ = two_runs(tmp_path)
    assert draw_gallery.run([str(first)]) == 0
    page = (first / "gallery.html").read_text()
    made = generate.read_generations(first)
    assert page == written(first, made, inputs={"model": "bundle_one"})
    assert "--model=BUNDLE" in page and "bundle_one" not in page
    with pytest.raises(ValueError, match="ends in .html"):
        draw_gallery.run([str(first), "--output", str(tmp_path / "page")])
    with pytest.raises(FileNotFoundError, match="parti generate"):
        draw_gallery.run([str(tmp_path / "nowhere")])


def test_two_runs_are_compared(tmp_path: pathlib.Path) -> None:
    first, second = two_runs(tmp_path)
    path = tmp_path / "pages" / "both.html"
    draw_gallery.run([str(first), "--compare", str(second), "--output", str(path)])
    page = path.read_text()
    data, _ = parsed(page)
    assert data["runs"] == [
        {"name": "A: one", "base": "../one/images_of/"},
        {"name": "B: two", "base": "../two/images_of/"},
    ]
    assert [[bool(run) for run in prompt["runs"]] for prompt in data["prompts"]] == [
        *([True, False], [True, True], [True, True])
    ]
    assert "2 prompts in both. The best score is higher in B for 2, in A for 0." in page


def test_scores_of_different_rerankers_are_not_compared(tmp_path: pathlib.Path) -> None:
    made = make_generations(tmp_path)
    other = [dataclasses.replace(item, settings={"rerank_by": "both"}) for item in made]
    page = written(tmp_path, made, compare=gallery.Run(tmp_path, other))
    assert "they do not compare" in page and "B gains most" not in page


def test_nothing_to_show_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="no generations"):
        gallery.write_gallery(tmp_path, [])


# What the drivers below use: they leave what they saw in the title.
HELPERS = """<script>
const seen = [];
const cards = () => document.querySelectorAll(".card");
const text = (selector) => viewer.querySelector(selector).textContent;
const put = (id, value) => {
  byId(id).value = value;
  byId(id).dispatchEvent(new Event(id === "search" ? "input" : "change"));
};
const press = (key) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
"""
USE = """
seen.push(cards().length);
put("search", "RED circle"); seen.push(cards().length, byId("count").textContent);
put("search", "nowhere"); seen.push(cards().length, byId("empty").hidden);
put("search", ""); put("category", "food"); seen.push(byId("count").textContent);
put("challenge", "colour"); seen.push(byId("count").textContent);
put("category", ""); put("challenge", ""); put("order", "best"); seen.push(cards()[0].id);
press("/"); seen.push(document.activeElement.id);
cards()[0].querySelector(".open").focus(); press("ArrowRight");
seen.push(document.activeElement.closest(".card").id);
cards()[0].querySelector(".open").click();
seen.push(viewer.open, viewer.querySelectorAll(".samples button").length, text("figcaption"));
press("ArrowUp"); seen.push(text("figcaption"), text(".again code"));
press("z"); press("+"); seen.push(zoom.open, byId("zoomed").alt, zoomed); zoom.close();
byId("next").click(); seen.push(text("h2"));
press("ArrowLeft"); seen.push(text("h2"));
byId("close").click(); seen.push(viewer.open);
document.title = seen.join(" ~ ");
</script></body>"""
EXPORT = """
put("search", "a"); put("order", "best");
document.title = JSON.stringify([
  exported(2, "jsonl", 0, false), exported(1, "tsv", 0, false), exported(3, "jsonl", 0, true)]);
</script></body>"""
COMPARE = """
seen.push(cards()[0].querySelectorAll("img").length, cards()[0].querySelector(".none").textContent);
seen.push(cards()[1].querySelector(".meta").textContent);
cards()[1].querySelector(".open").click();
seen.push(viewer.querySelectorAll(".run").length, viewer.querySelectorAll(".run .big img").length);
viewer.querySelectorAll(".run")[1].querySelectorAll(".samples button")[3].click();
seen.push(...[...viewer.querySelectorAll("figcaption")].map((caption) => caption.textContent));
seen.push(viewer.querySelectorAll("figcaption a")[1].getAttribute("href"));
document.title = seen.join(" ~ ");
</script></body>"""
in_browser = pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")


def driven(path: pathlib.Path, driver: str, profile: pathlib.Path) -> str:
    """Returns the title of a page after a driver used it in Chromium."""
    path.write_text(path.read_text().replace("</body>", HELPERS + driver))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--disable-background-networking", "--enable-logging=stderr"]
    command += [f"--user-data-dir={profile}", path.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in run.stderr, run.stderr
    title = re.search("<title>(.*?)</title>", run.stdout, re.DOTALL)
    assert title
    return html.unescape(title.group(1))


@in_browser
def test_the_page_works_in_a_browser(tmp_path: pathlib.Path) -> None:
    made = make_generations(tmp_path)
    path = pathlib.Path(gallery.write_gallery(tmp_path, made, inputs={"model": "my/bundle"}))
    assert driven(path, USE, tmp_path / "profile").split(" ~ ") == [
        "3",
        *("1", "1 of 3 prompts"),
        *("0", "false"),
        "2 of 3 prompts",
        "1 of 3 prompts",
        "p-p2",
        "search",
        "p-p1",
        *("true", "4", "rank 1 of 4sample 2score 0.4200open the file"),
        "rank 4 of 4sample 1score 0.1200open the file",
        "parti generate '--prompts=une pomme d'\"'\"'été' --model=BUNDLE --output=again "
        "--guidance_scale=1.2 --rerank_by=contrast --seed=0",
        *("true", "une pomme d'été: rank 4, sample 1", "2"),
        'a <b>bold</b> "sign" & a hat',
        "une pomme d'été",
        "false",
    ]


@in_browser
def test_the_best_are_exported_as_lines_of_the_manifest(tmp_path: pathlib.Path) -> None:
    made = make_generations(tmp_path)
    path = pathlib.Path(gallery.write_gallery(tmp_path, made))
    best, table, overall = json.loads(driven(path, EXPORT, tmp_path / "profile"))
    ranked = {(item.prompt_id, item.rank): item for item in made}
    wanted = [ranked[prompt, rank] for prompt in ("p1", "p0") for rank in (0, 1)]
    assert [records.Generation.from_json(line) for line in best.splitlines()] == wanted
    fitting = [item for item in made if item.prompt_id != "p2"]  # it has none of the words
    top = sorted(fitting, key=lambda item: -(item.score or 0.0))[:3]
    assert [records.Generation.from_json(line) for line in overall.splitlines()] == top
    names, first, *_ = (line.split("\t") for line in table.splitlines())
    row = dict(zip(names, first, strict=True))
    assert row["prompt"] == PROMPTS[1] and row["image"] == "images/p1-2.png"
    assert row["category"] == "clothes" and table.count("\n") == 3


@in_browser
def test_two_runs_stand_side_by_side_in_a_browser(tmp_path: pathlib.Path) -> None:
    first, second = two_runs(tmp_path)
    path = tmp_path / "both.html"
    draw_gallery.run([str(first), "--compare", str(second), "--output", str(path)])
    assert driven(path, COMPARE, tmp_path / "profile").split(" ~ ") == [
        *("1", "not in B: two"),
        "colourA 0.410B 0.660",
        *("2", "2"),
        "rank 1 of 4sample 2score 0.4100open the file",
        "rank 4 of 4sample 1score 0.3600open the file",
        "two/images_of/images/p1-1.png",
    ]
