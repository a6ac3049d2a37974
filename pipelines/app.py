# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti app`: a page to draw on: type a prompt, rows of tokens appear, then the ranked samples.

It needs gradio (the extra `app`), which alone is imported late. The page is served to this machine
only unless told otherwise, draws for one visitor at a time and lets a few wait.
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from parti.engine.hardware import accelerators
from parti.engine.inference import bundles, rendering, text_to_image
from parti.models.text_to_image import sampling
from parti.stages import flag_parser

MAX_CHARACTERS = 1000  # of a prompt
MAX_SAMPLES = 16
MAX_SEED = 2**31 - 1
_SHOWN_WIDTH = 256  # smaller pictures are shown with larger pixels
_CSS = ".grid-wrap { max-height: none !important; } .grid-wrap img { image-rendering: pixelated; }"


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = flag_parser.Parser(
        "parti app",
        "Serves a page that draws what is typed, row by row.",
        "example:\n  parti app --model runs/demo/bundle",
    )
    add = parser.add_argument
    add("--model", required=True, metavar="BUNDLE", help="from `parti export`")
    add("--host", default="127.0.0.1", help="0.0.0.0 serves other machines too: without a password")
    add("--port", type=int, default=7860)
    add("--max_waiting", type=int, default=8, metavar="N", help="visitors in the queue")
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Raises ValueError for a value out of range."""
    if not 1 <= flags.port <= 65_535:
        raise ValueError(f"--port={flags.port}: give 1 to 65535")
    if flags.max_waiting < 1:
        raise ValueError(f"--max_waiting={flags.max_waiting}: give at least 1")


def run(argv: Sequence[str]) -> int:
    """Runs `parti app`, until it is interrupted."""
    flags = make_parser().parse_args(list(argv))
    check_flags(flags)
    accelerators.check_platforms()
    bundles.Bundle.open(flags.model)
    gradio = _import_gradio()
    page = build(gradio, text_to_image.TextToImage.load(flags.model))
    page.queue(max_size=flags.max_waiting, default_concurrency_limit=1)
    page.launch(
        server_name=flags.host,
        server_port=flags.port,
        share=False,
        show_error=True,
        footer_links=[],
        css=_CSS,
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"draw at http://{flags.host}:{flags.port}; Ctrl-C ends it", flush=True)
    page.block_thread()
    return 0


def _import_gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ValueError(
            "`parti app` needs gradio; in Parti's folder: pip install -c constraints.txt '.[app]'"
        ) from error
    return gradio


def build(gradio: Any, model: text_to_image.TextToImage) -> Any:
    """Returns the page, a `gradio.Blocks`, of a loaded bundle."""
    default = sampling.SamplingSettings()
    codes = model.generator.model.codebook_size
    with gradio.Blocks(title="Parti", analytics_enabled=False) as page:
        gradio.Markdown("# Parti\nText to image tokens, row by row, to ranked pictures.")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                prompt = gradio.Textbox(
                    label="Prompt", lines=3, max_length=MAX_CHARACTERS, autofocus=True
                )
                button = gradio.Button("Draw", variant="primary")
                slider = gradio.Slider
                settings = [
                    slider(1, MAX_SAMPLES, MAX_SAMPLES, step=1, label="Samples"),
                    slider(1, 10, default.guidance_scale, step=0.1, label="Guidance scale"),
                    slider(0, 2, default.temperature, step=0.05, label="Temperature"),
                    slider(0, codes, default.top_k, step=1, label="Top k (0: all tokens)"),
                    slider(0.05, 1, default.top_p, step=0.05, label="Top p (1: all tokens)"),
                    gradio.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED),
                ]
            with gradio.Column(scale=2, min_width=320):
                status = gradio.Markdown("Type a prompt and draw.")
                pictures = gradio.Gallery(
                    show_label=False, columns=4, format="png", interactive=False, height="auto"
                )
        for start in (button.click, prompt.submit):
            start(
                _Draw(gradio, model).draw,
                [prompt, *settings],
                [pictures, status],
                api_visibility="private",
                concurrency_id="draw",
                show_progress="hidden",
            )
    return page


class _Draw:
    """What a click does: yields (pictures with captions, status) again and again."""

    def __init__(self, gradio: Any, model: text_to_image.TextToImage) -> None:
        self._gradio, self._model = gradio, model

    def draw(
        self,
        prompt: str,
        num_samples: float,
        guidance_scale: float,
        temperature: float,
        top_k: float,
        top_p: float,
        seed: float,
    ) -> Iterator[tuple[list[Any], str]]:
        model = self._model
        try:
            check_request(prompt, num_samples, seed)
            settings = {
                "guidance_scale": float(guidance_scale),
                "temperature": float(temperature),
                "top_k": int(top_k),
                "top_p": float(top_p),
            }
            partials = model.stream(prompt, int(num_samples), int(seed), **settings)
            side = model.generator.model.grid_size
            for partial in partials:
                shown = [_enlarged(picture) for picture in model.preview(partial)]
                yield shown, f"{partial.num_rows} of {side} rows of tokens"
        except ValueError as error:
            raise self._gradio.Error(str(error)) from error
        yield shown, "ranking and enlarging"
        samples = model.render(prompt, partial.image_tokens)
        yield _captioned(samples), f"{len(samples.images)} samples, best first (score)"


def check_request(prompt: str, num_samples: float, seed: float) -> None:
    """Raises ValueError for what the page's controls do not let through, but a script might."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("the prompt is empty; type what to draw")
    if len(prompt) > MAX_CHARACTERS:
        raise ValueError(f"the prompt has {len(prompt)} characters; {MAX_CHARACTERS} at most")
    if num_samples != int(num_samples) or not 1 <= num_samples <= MAX_SAMPLES:
        raise ValueError(f"samples: 1 to {MAX_SAMPLES}, not {num_samples}")
    if seed != int(seed) or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"the seed is a whole number from 0 to {MAX_SEED}, not {seed}")


def _captioned(samples: rendering.Samples) -> list[tuple[np.ndarray, str]]:
    """Returns (picture, caption), the best first."""
    found = []
    for rank, index in enumerate(samples.best_first(), start=1):
        score = "" if samples.scores is None else f" ({samples.scores[index]:.3f})"
        found.append((_enlarged(samples.images[index]), f"{rank}{score}"))
    return found


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """Returns a picture of at least `_SHOWN_WIDTH`, its pixels repeated."""
    factor = max(-(-_SHOWN_WIDTH // picture.shape[1]), 1)
    return np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
