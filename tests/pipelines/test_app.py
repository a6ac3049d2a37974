# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The page that draws what is typed."""

import http.server
import json
import pathlib
import queue
import subprocess
import sys
import threading
import types

import browser
import numpy as np
import pytest

import parti
from parti.pipelines import app

# Does what a visitor does, as soon as the page is there, and tells PORT what it saw at the end.
VISITOR = """<script>
const buttons = () => [...document.querySelectorAll("button")];
const visiting = setInterval(() => {
  const prompt = document.querySelector("textarea");
  const draw = buttons().find((button) => button.textContent.trim() == "Draw");
  if (!prompt || !draw) return;
  clearInterval(visiting);
  prompt.value = "a red circle";
  prompt.dispatchEvent(new Event("input", {bubbles: true}));
  setTimeout(() => draw.click(), 500);
  const seen = [];
  const watching = setInterval(() => {
    const text = document.body.innerText;
    const rows = text.match(/[0-9]+ of [0-9]+ rows/);
    if (rows && !seen.includes(rows[0])) seen.push(rows[0]);
    const images = [...document.querySelectorAll("img")].filter((image) => image.naturalWidth);
    if (!text.includes("best first") || images.length < 16) return;
    clearInterval(watching);
    const body = JSON.stringify({rows: seen, images: images.length});
    fetch("http://127.0.0.1:PORT/", {method: "POST", mode: "no-cors", body: body});
  }, 20);
}, 200);
</script>"""


class Refused(Exception):
    """Stands for `gradio.Error`."""


FAKE_GRADIO = types.SimpleNamespace(Error=Refused)
SETTINGS = (3, 1.5, 1.0, 0, 1.0, 7)  # samples, guidance scale, temperature, top k, top p, seed


def test_rows_then_ranked_samples(bundle: pathlib.Path) -> None:
    model = parti.load(bundle)
    *rows, ranking, last = app._Draw(FAKE_GRADIO, model).draw("a red circle", *SETTINGS)
    assert [text for _, text in rows] == [f"{row} of 4 rows of tokens" for row in (1, 2, 3, 4)]
    assert all(len(pictures) == 3 for pictures, _ in rows) and ranking[1].startswith("ranking")
    [made] = model.generate("a red circle", 3, seed=7, guidance_scale=1.5)
    for rank, (index, (picture, caption)) in enumerate(zip(made.best_first(), last[0]), start=1):
        assert caption == f"{rank} ({made.scores[index]:.3f})"
        np.testing.assert_array_equal(picture[::8, ::8], made.images[index])  # 32 px to 256


def test_what_is_refused(bundle: pathlib.Path) -> None:
    draw = app._Draw(FAKE_GRADIO, parti.load(bundle)).draw
    for prompt, settings, message in (
        ("  ", SETTINGS, "the prompt is empty"),
        ("a" * 1001, SETTINGS, "1001 characters; 1000 at most"),
        ("a", (17, *SETTINGS[1:]), "samples: 1 to 16"),
        ("a", (2.5, *SETTINGS[1:]), "samples: 1 to 16"),
        ("a", (3, 1.5, -1.0, *SETTINGS[3:]), "temperature must be >= 0"),
        ("a", (*SETTINGS[:-1], -1), "the seed is a whole number"),
    ):
        with pytest.raises(Refused, match=message):
            next(draw(prompt, *settings))
    for flag, message in (("--port=0", "give 1 to 65535"), ("--max_waiting=0", "at least 1")):
        with pytest.raises(ValueError, match=message):
            app.run([f"--model={bundle}", flag])


def test_without_gradio_it_says_what_to_install(
    bundle: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match="needs gradio; in Parti's folder: pip install"):
        app.run([f"--model={bundle}"])


@pytest.mark.slow
@browser.needs_chromium
def test_a_visitor_sees_rows_and_ranked_samples(
    bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    gradio = pytest.importorskip("gradio", reason="gradio, of the extra `app`, is not installed")
    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    class Told(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Told) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = app.build(gradio, parti.load(bundle))
        page.queue(max_size=2, default_concurrency_limit=1)
        head = VISITOR.replace("PORT", str(server.server_port))
        _, address, _ = page.launch(
            server_name="127.0.0.1", quiet=True, prevent_thread_lock=True, head=head
        )
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}", address]
        visitor = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            seen = json.loads(told.get(timeout=180))
        finally:
            visitor.kill()
            visitor.wait()
            page.close()
            server.shutdown()
    assert seen["images"] == 16 and "4 of 4 rows" in seen["rows"]
