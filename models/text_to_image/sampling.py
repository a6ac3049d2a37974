# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws image tokens from a caption, one step after another, with guidance.

Each prompt's caption is encoded once for all its samples, the null caption once for all prompts,
and conditional and unconditional rows go through one batched step. An image depends on the
parameters, its prompt, its key and the settings only, not on the rows around it.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from parti.data.text import prompt_settings, vocabularies
from parti.models import base
from parti.models.layers import masks, quantization
from parti.models.layers import transformer as stacks
from parti.models.text_to_image import decode_order, guidance, network, token_choice

Array = jax.Array
PyTree = Any


class Program(NamedTuple):
    """What the compiled program of `sample` depends on, besides shapes; hashable."""

    decode_order: str
    queue: int
    is_guided: bool
    is_greedy: bool
    uses_top_k: bool
    uses_top_p: bool


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How a token is chosen; hashable, so it can be a static argument of `jax.jit`."""

    temperature: float = 1.0  # divides the logits; 0 takes the most likely token
    # Keep this many of the most likely tokens, 0 keeps all. Applied after guidance and temperature;
    # tokens as likely as the last one kept stay too.
    top_k: int = 0
    # Then keep the fewest most likely tokens with this much of the probability, in (0, 1]
    top_p: float = 1.0
    # See `guidance.guided_logits`; 1 is no guidance, and skips the unconditional rows. The paper's
    # FID results use 1.2.
    guidance_scale: float = 1.2
    # How much of it where in an image: constant, linear, cosine or interval:BEGIN:END, over the
    # image's 'rows' or 'tokens'; see `guidance.scales`
    guidance_schedule: str = prompt_settings.CONSTANT
    guidance_over: str = prompt_settings.ROWS
    # 'raster', or 'wavefront': several rows of tokens in a step, which takes fewer steps (see
    # `decode_order`); they agree but for rounding
    decode_order: str = decode_order.RASTER
    # In a wavefront: so many samples of a prompt are drawn one after another in the same rows of
    # the batch, where the end of one overlaps the begin of the next
    queue: int = 1

    def __post_init__(self) -> None:
        for name in set(prompt_settings.NAMES) & {f.name for f in dataclasses.fields(self)}:
            prompt_settings.check(name, getattr(self, name))
        for ok, what, got in (
            (
                self.decode_order in decode_order.ORDERS,
                f"decode_order must be one of {', '.join(decode_order.ORDERS)}",
                self.decode_order,
            ),
            (self.queue >= 1, "queue must be >= 1", self.queue),
            (
                self.queue == 1 or self.decode_order == decode_order.WAVEFRONT,
                "queue is of decode_order 'wavefront'; it must be 1 in raster order",
                self.queue,
            ),
        ):
            if not ok:
                raise ValueError(f"{what}; got {got}")

    @property
    def program(self) -> Program:
        """What of it is compiled in; prompts with the same one can be drawn in one batch."""
        is_greedy = self.temperature == 0
        return Program(
            decode_order=self.decode_order,
            queue=self.queue,
            is_guided=self.guidance_scale != 1,
            is_greedy=is_greedy,
            uses_top_k=self.top_k > 0 and not is_greedy,
            uses_top_p=self.top_p < 1 and not is_greedy,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptSettings:
    """How the tokens of each prompt of a batch are chosen; a tree, whose `program` is static."""

    temperature: Array | np.ndarray  # [prompts] float32
    top_k: Array | np.ndarray  # [prompts] int32
    top_p: Array | np.ndarray  # [prompts] float32
    # [prompts, image_length] float32, the scale at each token in raster order
    guidance: Array | np.ndarray
    # [prompts, text_length] int32, in place of the null caption; None is the null caption
    negative_tokens: Array | np.ndarray | None
    program: Program = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(
        cls,
        settings: Sequence[SamplingSettings],
        grid_size: int,
        negative_tokens: Array | np.ndarray | None = None,
    ) -> "PromptSettings":
        """Returns numpy arrays, of settings of one program.

        Raises:
          ValueError: There are several programs, or as `guidance.scales`.
        """
        programs = {each.program for each in settings}
        if len(programs) != 1:
            raise ValueError(f"prompts of one batch need one program; these have {programs}")
        scales = [
            guidance.scales(s.guidance_scale, s.guidance_schedule, s.guidance_over, grid_size)
            for s in settings
        ]
        return cls(
            temperature=np.array([each.temperature for each in settings], np.float32),
            top_k=np.array([min(each.top_k, _LARGEST) for each in settings], np.int32),
            top_p=np.array([each.top_p for each in settings], np.float32),
            guidance=np.stack(scales),
            negative_tokens=negative_tokens,
            program=programs.pop(),
        )


_LARGEST = np.iinfo(np.int32).max


def null_caption(length: int) -> np.ndarray:
    """Returns the tokens of the empty caption, the end-of-sentence alone: [1, length] int32."""
    tokens = np.zeros((1, length), np.int32)
    tokens[:, 0] = vocabularies.EOS_ID
    return tokens


def image_key(seed: int, prompt_text: str, sample_index: int) -> np.ndarray:
    """Returns the PRNG key data of an image, uint32 [2], the same on every machine.

    Where the prompt stands in a file does not matter; its samples count from 0.
    """
    text = json.dumps([int(seed), prompt_text, int(sample_index)])
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return np.frombuffer(digest[:8], dtype="<u4").astype(np.uint32)


def image_keys(seed: int, prompt_texts: Sequence[str], num_samples: int) -> np.ndarray:
    """Returns `image_key` of every prompt and sample, uint32 [prompts, num_samples, 2]."""
    keys = [[image_key(seed, text, i) for i in range(num_samples)] for text in prompt_texts]
    return np.array(keys, np.uint32).reshape(len(prompt_texts), num_samples, 2)


def _in_compute_dtype(variables: base.Variables, dtype: str) -> dict[str, PyTree]:
    """Casts the matrices once, where each step would cast them again to the same values."""

    def cast(path: tuple[Any, ...], leaf: Array) -> Array:
        is_float_matrix = "kernel" in path[-1].key and not quantization.is_quantized(leaf)
        return leaf.astype(dtype) if is_float_matrix else leaf

    return {**variables, "params": jax.tree_util.tree_map_with_path(cast, variables["params"])}


def _uniforms(sample_keys: Array, length: int) -> Array:
    """Returns [prompts * samples, length] numbers in [0, 1), each row from its own key."""
    keys = jax.random.wrap_key_data(sample_keys.reshape(-1, 2), impl="threefry2x32")
    return jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)


def _prepare_captions(
    transformer: network.PartiTransformer,
    variables: base.Variables,
    text_tokens: Array,
    settings: PromptSettings,
) -> tuple[list[Any], list[Array]]:
    """Returns cross-attention keys and values and masks, and with guidance those to guide from.

    The second part is a negative prompt for each prompt, or the null caption for all.
    """
    num_prompts, length = text_tokens.shape
    # Prompts lie with their images where they divide as these do; the null caption is everywhere.
    by_images = "batch" if num_prompts % _num_parts("batch") == 0 else None
    parts = [(slice(0, num_prompts), by_images)]
    if settings.program.is_guided:
        negative = settings.negative_tokens
        has_own = negative is not None
        negative = jnp.asarray(negative if has_own else null_caption(length))
        text_tokens = jnp.concatenate([text_tokens, negative])
        parts.append((slice(num_prompts, None), by_images if has_own else None))
    prepared = transformer.apply(variables, text_tokens, method="prepare")
    visible = text_tokens != 0

    def of_part(x: Array, part: slice, name: str | None) -> Array:
        return nn.with_logical_constraint(x[part], (name, "heads", None, "kv"))

    cross = [jax.tree.map(lambda x: of_part(x, *part), prepared) for part in parts]  # noqa: B023
    seen = [nn.with_logical_constraint(visible[part], (name, None)) for part, name in parts]
    return cross, seen


def _num_parts(name: str) -> int:
    """Returns into how many parts the mesh, if one is set, divides an axis of this name."""
    axes = nn.logical_to_mesh_axes((name,), nn.get_logical_axis_rules() or ((name, None),))[0]
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))


def sample(
    transformer: network.PartiTransformer,
    variables: base.Variables,
    text_tokens: Array,
    sample_keys: Array,
    settings: SamplingSettings | PromptSettings,
    on_step: Callable[[Array, Array, Array], None] | None = None,
) -> Array:
    """Draws images for prompts; pure, and `jax.jit`-able with a static transformer.

    Maps texts [prompts, text_length], each ending in EOS and padded with 0, and keys from
    `image_keys` to [prompts, samples, image_length] int32, codebook indices in raster order. On a
    mesh the images are divided as a batch is, and so is the cache, which is also by heads.
    `SamplingSettings` are static, and for all prompts.

    With `on_step`, on one device, each step calls the host with what it drew, in any order:
    `on_step(positions [lanes], is_active [lanes], tokens [prompts * samples / queue, lanes])`.
    Positions count through the images of a queue; a lane that is not active drew nothing.

    Raises:
      ValueError: The shapes do not go together, or as `order_of`.
    """
    config = transformer.config
    text_tokens, sample_keys = jnp.asarray(text_tokens), jnp.asarray(sample_keys)
    num_prompts, num_samples = sample_keys.shape[:2]
    if text_tokens.ndim != 2 or sample_keys.shape != (len(text_tokens), num_samples, 2):
        raise ValueError(
            f"text_tokens {text_tokens.shape} and sample_keys {sample_keys.shape} must be "
            "[prompts, text_length] and [prompts, samples, 2]"
        )
    if isinstance(settings, SamplingSettings):
        settings = PromptSettings.of([settings] * num_prompts, config.grid_size)
    _check_prompt_settings(settings, text_tokens, config.image_length)
    order = order_of(config, settings.program, num_samples)
    guided = settings.program.is_guided
    if config.scan_layers:
        transformer = network.PartiTransformer(config.unrolled)
        variables = stacks.unrolled(variables)
    variables = _in_compute_dtype(variables, config.dtype)
    cross, cross_masks = _prepare_captions(transformer, variables, text_tokens, settings)
    ids = jnp.arange(config.image_vocab_size)
    vocabulary = vocabularies.ImageTokenVocabulary(config.codebook_size)
    is_code = (ids >= vocabulary.to_ids(0)) & (ids < vocabulary.to_ids(config.codebook_size))

    # Each row of tokens draws a queue of images, one below the other.
    num_rows, steps = num_prompts * num_samples // order.num_images, order.steps
    position = steps.row * config.grid_size + steps.column
    uniforms = _uniforms(sample_keys, config.image_length).reshape(num_rows, -1)
    of_row = _of_rows(settings, num_rows)
    choice: tuple[Any, Any, Any] = (
        None if settings.program.is_greedy else of_row.temperature,
        of_row.top_k if settings.program.uses_top_k else None,
        of_row.top_p if settings.program.uses_top_p else None,
    )
    xs = {"step": jax.tree.map(jnp.asarray, steps), "uniform": _by_step(uniforms, position)}
    if guided:
        xs["scale"] = _by_step(of_row.guidance, position % config.image_length)

    def draw(carry: tuple[Array, Any], inputs: dict[str, Any]) -> tuple[Any, Array]:
        tokens, caches = carry
        step = inputs["step"]
        is_first = (step.row % config.grid_size == 0) & (step.column == 0)
        tokens = jnp.where(is_first, network.START_ID, tokens)
        # An image's two rows are neighbours, and so on one device of a mesh.
        rows = jnp.repeat(tokens, 2, axis=0) if guided else tokens
        given = rows, step, order, caches, cross, cross_masks
        logits, caches = transformer.apply(variables, *given, method="decode_step")
        if guided:
            pairs = logits.reshape(-1, 2, *logits.shape[1:])
            scale = inputs["scale"][..., None]
            logits = guidance.guided_logits(pairs[:, 0], pairs[:, 1], scale)
        logits = jnp.where(is_code, logits, -jnp.inf)
        tokens = token_choice.choose_tokens(logits, inputs["uniform"], *choice)
        if on_step is not None:
            at = step.row * config.grid_size + step.column
            jax.debug.callback(on_step, at, step.is_active, vocabulary.to_tokens(tokens))
        return (tokens, caches), tokens

    start = nn.with_logical_constraint(
        jnp.zeros((num_rows, order.num_lanes), jnp.int32), ("batch", None)
    )
    caches = network.empty_caches(config, order, num_rows * (2 if guided else 1))
    _, drawn = lax.scan(draw, (start, caches), xs)
    when, lane = np.nonzero(steps.is_active)
    places = np.argsort(position[when, lane])
    tokens = drawn[when[places], :, lane[places]]  # [positions of the queue, rows]
    return vocabulary.to_tokens(tokens.T.reshape(num_prompts, num_samples, -1))


def _check_prompt_settings(settings: PromptSettings, text_tokens: Array, length: int) -> None:
    """Raises ValueError for settings of other prompts, captions or images than these."""
    num_prompts = len(text_tokens)
    want: dict[str, tuple[int, ...]] = {
        name: (num_prompts,) for name in ("temperature", "top_k", "top_p")
    }
    want["guidance"] = (num_prompts, length)
    if settings.negative_tokens is not None:
        want["negative_tokens"] = text_tokens.shape
    found = {name: getattr(settings, name).shape for name in want}
    if found != want:
        raise ValueError(f"settings of prompts must have the shapes {want}; got {found}")


def _by_step(values: Any, position: Any) -> Array:
    """Maps [rows, positions] to [steps, rows, lanes]; the positions are [steps, lanes]."""
    return values[:, position].transpose(1, 0, 2)


def _of_rows(settings: PromptSettings, num_rows: int) -> PromptSettings:
    """Returns the settings of each row of a batch: [rows, 1], the guidance [rows, image_length]."""

    def repeated(x: Array) -> Array:
        x = jnp.asarray(x).reshape(len(x), -1)
        return nn.with_logical_constraint(
            jnp.repeat(x, num_rows // len(x), axis=0), ("batch", None)
        )

    return jax.tree.map(repeated, dataclasses.replace(settings, negative_tokens=None))


def order_of(
    config: network.TextToImageConfig, settings: SamplingSettings | Program, num_samples: int
) -> decode_order.DecodeOrder:
    """Returns the order in which a network's tokens are drawn.

    Raises:
      ValueError: The network cannot be drawn as a wavefront, or the queue does not divide the
        samples of a prompt.
    """
    columns = config.grid_size
    if settings.decode_order == decode_order.RASTER:
        return decode_order.DecodeOrder(config.grid, columns)
    if config.shift != "row" or 0 in config.windows:
        raise ValueError(
            "decode_order 'wavefront' needs a generator that was trained with SHIFT = 'row' and a "
            f"local window in every layer; this has shift {config.shift!r} and windows "
            f"{config.windows}: draw it in raster order"
        )
    if num_samples % settings.queue:
        raise ValueError(
            f"a queue of {settings.queue} does not divide {num_samples} samples of a prompt"
        )
    reach = max(max(masks.window_reach(window, config.grid) for window in config.windows), 1)
    return decode_order.DecodeOrder(config.grid, min(reach, columns), settings.queue)
