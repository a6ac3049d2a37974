# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Image tokens a second of sampling, beside other ways to draw; prints one JSON line.

    python benchmarks/sampling.py --shape 33m --grid_size 16 --rows 32
    python benchmarks/sampling.py --shape tiny --grid_size 8 --rows 2 32 512

Random parameters of the demonstration's shape, of one of 33 million (width 512, 6 layers) or of
Parti's 350M; samples of one prompt, with guidance, so that an image takes two rows. In turns, in
one process, for each number of rows:
- `sample`: `TextToImageModel.sample` in raster order, jitted, as `parti generate` does on a mesh;
- `wavefront`: the same as a wavefront, if the windows allow it; --queue is of `SamplingSettings`;
- `uncached`: the whole network over all positions for each token. One pass is timed, and counted as
  often as there are tokens;
- `huggingface`: `generate` of a T5 of the same width, layers, heads, texts and tokens, of as many
  rows, without guidance and so with less to do, where torch and transformers are installed.
Each turn of `sample` is compared with those of the others right after it: the quartiles of these
ratios are given, other over ours. `of_product_rate` is the share of the rate of a large matrix
product in the same turn (model FLOPs over seconds).
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import matrix_product
import numpy as np

from parti.engine.hardware import flops
from parti.models.text_to_image import model as text_to_image
from parti.models.text_to_image import network, sampling

# Shape -> width, heads, layers of encoder and decoder, text ids, text length, codes.
SHAPES: dict[str, tuple[int, ...]] = {
    "tiny": (128, 4, 2, 4, 512, 24, 256),
    "33m": (512, 8, 6, 6, 16000, 128, 8192),
    "350m": (1024, 16, 12, 12, 16000, 128, 8192),
}


def make_model(shape: str, grid_size: int, window: int, dtype: str) -> Any:
    """Returns a generator of a shape, unrolled as `parti generate` loads it on a mesh."""
    width, heads, encoder, decoder, text_ids, text_length, codes = SHAPES[shape]
    config = network.TextToImageConfig(
        text_vocab_size=text_ids,
        text_length=text_length,
        codebook_size=codes,
        grid_size=grid_size,
        emb_dim=width,
        num_heads=heads,
        head_dim=width // heads,
        mlp_dim=4 * width,
        num_encoder_layers=encoder,
        num_decoder_layers=decoder,
        local_window=window,
        shift="row",
        dropout_rate=0.0,
        dtype=dtype,
    )
    return text_to_image.TextToImageModel(config).unrolled


def random_variables(model: Any) -> dict[str, Any]:
    """Returns initial parameters in the compute dtype."""
    initial = functools.partial(model.get_initial_variables, input_shapes=model.example_shapes)
    params = jax.jit(lambda key: initial(key)["params"])(jax.random.PRNGKey(0))
    return {"params": jax.tree.map(lambda leaf: leaf.astype(model.dtype), params)}


def prompt(length: int) -> np.ndarray:
    """Returns a text of seven pieces and its end, [1, length] int32."""
    return np.pad(np.array([[*range(5, 12), 1]], np.int32), ((0, 0), (0, length - 8)))


def timed(call: Callable[[], Any]) -> float:
    """Returns the seconds of a call."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def our_ways(
    model: Any, rows: int, queues: Sequence[int]
) -> tuple[dict[str, Callable[[], float]], float]:
    """Returns {way: function that draws, and gives the seconds} and the FLOPs of raster order."""
    config, variables = model.config, random_variables(model)
    text = prompt(config.text_length)
    keys = sampling.image_keys(0, ["a text"], rows // 2)

    def drawing(settings: sampling.SamplingSettings) -> Callable[[], Any]:
        draw = jax.jit(functools.partial(model.sample, settings=settings))
        jax.block_until_ready(draw(variables, text, keys))
        return lambda: draw(variables, text, keys)

    settings = sampling.SamplingSettings()
    batch = {
        "encoder_input_tokens": np.repeat(text, rows, axis=0),
        "decoder_input_tokens": np.ones((rows, config.image_length), np.int32),
    }
    whole = jax.jit(lambda params, batch: model.logits(params, batch)[:, -1])
    jax.block_until_ready(whole(variables["params"], batch))
    ways = {
        "sample": functools.partial(timed, drawing(settings)),
        "uncached": lambda: timed(lambda: whole(variables["params"], batch)) * config.image_length,
    }
    if all(config.windows):
        for queue in (queue for queue in queues if not rows // 2 % queue):
            wave = dataclasses.replace(settings, decode_order="wavefront", queue=queue)
            ways[f"wavefront_{queue}"] = functools.partial(timed, drawing(wave))
    raster = functools.partial(model.sample, settings=settings)
    return ways, float(flops.of(raster, variables, text, keys))


def huggingface(model: Any, rows: int) -> Callable[[], float] | None:
    """Returns a function that draws as many rows by transformers' T5, or None without it."""
    if versions() is None:
        return None
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = model.config
    t5 = transformers.T5Config(
        vocab_size=max(config.text_vocab_size, config.image_vocab_size),
        d_model=config.emb_dim,
        d_kv=config.head_dim,
        d_ff=config.mlp_dim,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_heads=config.num_heads,
        feed_forward_proj="gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    drawing = transformers.T5ForConditionalGeneration(t5).eval().to(getattr(torch, model.dtype))
    text = torch.from_numpy(prompt(config.text_length)).long()
    length = config.image_length

    def draw() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            drawn = drawing.generate(
                text,
                attention_mask=(text > 0).long(),
                do_sample=True,
                top_k=0,
                num_return_sequences=rows,
                min_new_tokens=length,
                max_new_tokens=length,
            )
        seconds = time.perf_counter() - began
        assert drawn.shape == (rows, length + 1), drawn.shape
        return seconds

    return draw


def measure(model: Any, rows: int, queues: Sequence[int], turns: int) -> dict[str, Any]:
    """Runs all ways in turns, and returns the figures of an even number of rows."""
    ways, num_flops = our_ways(model, rows, queues)
    if other := huggingface(model, rows):
        ways["huggingface"] = other
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    shares = []
    for _ in range(turns):
        for name, way in ways.items():
            seconds[name].append(way())
        shares.append(num_flops / seconds["sample"][-1] / matrix_product.rate(model.dtype))
    ours, length = statistics.median(seconds["sample"]), model.config.image_length
    images = rows // 2
    return {
        "rows": rows,
        "images": images,
        "seconds": {name: round(statistics.median(every), 4) for name, every in seconds.items()},
        "image_tokens_per_second": round(images * length / ours, 1),
        "images_per_minute": round(60 * images / ours, 2),
        "of_product_rate": round(statistics.median(shares), 3),
        "over_sample": {
            name: quartiles([b / a for a, b in zip(seconds["sample"], every)])
            for name, every in seconds.items()
            if name != "sample"
        },
    }


def quartiles(ratios: list[float]) -> list[float]:
    """Returns first quartile, median and third of two or more numbers."""
    return [round(quarter, 2) for quarter in statistics.quantiles(ratios, n=4)]


def main() -> None:
    """Prints the JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="33m")
    parser.add_argument("--grid_size", type=int, default=16)
    parser.add_argument("--local_window", type=int, default=11)
    parser.add_argument("--rows", type=int, nargs="+", default=[2, 32], help="even: two an image")
    parser.add_argument("--queue", type=int, nargs="+", default=[1])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--turns", type=int, default=5, help="two or more")
    flags = parser.parse_args()
    if any(rows < 2 or rows % 2 for rows in flags.rows):
        parser.error(f"--rows {flags.rows}: give even numbers")
    model = make_model(flags.shape, flags.grid_size, flags.local_window, flags.dtype)
    found = {
        "name": "sampling",
        "shape": flags.shape,
        "tokens": model.config.image_length,
        "local_window": flags.local_window,
        "dtype": flags.dtype,
        "rows": [measure(model, rows, flags.queue, flags.turns) for rows in flags.rows],
        "huggingface": versions(),
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}",
    }
    print(json.dumps(found))


def versions() -> str | None:
    """Returns the versions of transformers and torch, or None without them."""
    if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
        return None
    import torch
    import transformers

    return f"transformers {transformers.__version__}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
