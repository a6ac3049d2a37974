# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a linear layer reads of a scene from a text encoder's frozen states; prints one JSON line.

    python benchmarks/text_encoder_probes.py --world full --vocabulary runs/vocabulary \
        --encoder pretrained=runs/text_encoder --encoder generator=runs/generator

An encoder is NAME=DIRECTORY, the training of a text encoder or of a generator; a name given several
times is a training with several seeds. Encoders with the sizes of the first and random parameters,
`random`, are always there, and so is how often each token occurs, `words`, which knows no order.
The probes, all of captions of scenes drawn here:

    object    the shape of the thing on the left, or on top
    colour    its colour
    relation  where the thing named first is: left of, right of, above or below the other
    count     how many things there are, of one kind or of two (worlds with the challenge `count`)

The first two take more than a word: whether a thing is on the left depends on the order of the
caption and on the relation. The probe is a logistic regression on whitened states, their mean over
a caption (`mean`) or that of its EOS (`eos`), with the weight decay that is best on a fifth of the
captions it is fitted to. Whitening makes it blind to the scale of what is read: standardised states
hold most of it in directions of little variance, which decay and few iterations leave out. The
captions it is fitted to are of the training split; accuracy is on other scenes of it
(`seen`) and on the validation split, whose scenes all hold a pair of shape and colour that the
training split lacks (`unseen`). Intervals are bootstrap intervals over captions, after the mean
over seeds; `chance` is the share of the most frequent answer.
"""

import argparse
import functools
import json
import os
import platform
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from parti.data.scenes import scenes
from parti.data.text import captions, vocabularies
from parti.engine.inference import loaded_models
from parti.models.layers import text_encoder, transformer
from parti.pipelines.evaluation import bootstrap

PROBES = ("object", "colour", "relation", "count")
RANDOM, WORDS = "random", "words"
BATCH_SIZE = 256
CONVERSE = {"left_of": "right_of", "right_of": "left_of", "above": "below", "below": "above"}
# Set of captions -> split, and what is added to the seed
SETS = {"fit": ("train", 0), "seen": ("train", 1), "unseen": ("validation", 0)}
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)


def answer(probe: str, scene: scenes.Scene, caption: str) -> str:
    """Returns the truth that a probe is to tell from a caption of a scene."""
    if probe == "count":
        return str(len(scene.objects))
    first, second = scene.objects
    if probe == "relation":
        first, second = (caption.find(f"{x.colour} {x.shape}") for x in (first, second))
        return scene.relation if first < second else CONVERSE[scene.relation]
    near = first if scene.relation in ("left_of", "above") else second
    return near.shape if probe == "object" else near.colour


def draw(probe: str, split: str, num: int, seed: int, world: scenes.World) -> list[tuple[str, str]]:
    """Returns (caption, truth) of `num` scenes, in one of their phrasings each."""
    rng = random.Random(f"{probe}/{split}/{seed}")
    kinds = ("count", "complex") if probe == "count" else ("relation",)
    kinds = [kind for kind in kinds if kind in world.challenges]
    rows: list[tuple[str, str]] = []
    index = 0
    while len(rows) < num:
        scene = scenes.draw_scene(split, index, seed, world, kinds[index % len(kinds)])
        index += 1
        if probe == "count" or scene.relation in CONVERSE:
            caption = rng.choice(scenes.captions(scene, world.num_captions))
            rows.append((caption, answer(probe, scene, caption)))
    return rows


def counts(vocab_size: int, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Maps texts [N, length] to how often each token occurs, [N, vocab]."""
    return {WORDS: np.stack([np.bincount(row, minlength=vocab_size) for row in tokens])}


@functools.partial(jax.jit, static_argnums=0)
def pooled(encoder: text_encoder.TextEncoder, params: Any, tokens: jax.Array) -> Any:
    """Maps texts [batch, length] to {pool: [batch, embed]} of the encoder's final states."""
    found = encoder.apply({"params": params}, tokens).astype(jnp.float32)
    ends = jnp.sum(tokens != vocabularies.PAD_ID, axis=1) - 1
    eos = jnp.take_along_axis(found, ends[:, None, None], axis=1)[:, 0]
    return {"mean": text_encoder.mean_of_tokens(found, tokens), "eos": eos}


def states(
    encoder: text_encoder.TextEncoder, params: Any, tokens: np.ndarray
) -> dict[str, np.ndarray]:
    """Maps texts [N, length] to `pooled` of them all."""
    parts = []
    for start in range(0, len(tokens), BATCH_SIZE):
        batch = loaded_models.pad_rows(tokens[start : start + BATCH_SIZE], BATCH_SIZE)
        parts.append(jax.device_get(pooled(encoder, params, batch)))
    return {pool: np.concatenate([p[pool] for p in parts])[: len(tokens)] for pool in parts[0]}


def objective(
    flat: np.ndarray, features: np.ndarray, labels: np.ndarray, num_classes: int, decay: float
) -> tuple[float, np.ndarray]:
    """Returns the mean cross-entropy of a multinomial logistic regression, and its gradient.

    `flat` is a matrix [dim + 1, num_classes], the last row the bias, which does not decay: plus
    decay / 2 times the sum of the other weights' squares. Features are [N, dim], labels [N].
    """
    weights = flat.reshape(-1, num_classes)
    logits = features @ weights[:-1] + weights[-1]
    logits -= logits.max(axis=1, keepdims=True)
    probs = np.exp(logits)
    probs /= probs.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(probs[rows, labels]).mean() + decay / 2 * np.sum(weights[:-1] ** 2)
    probs[rows, labels] -= 1
    probs /= len(labels)
    gradient = np.concatenate([features.T @ probs, probs.sum(axis=0, keepdims=True)])
    gradient[:-1] += decay * weights[:-1]
    return loss, gradient.ravel()


def fit(features: np.ndarray, labels: np.ndarray, num_classes: int, decay: float) -> np.ndarray:
    """Returns the weights [dim + 1, num_classes] of the least `objective`."""
    start = np.zeros((features.shape[1] + 1) * num_classes)
    arguments = (features, labels, num_classes, decay)
    options = {"maxiter": 100}
    found = scipy.optimize.minimize(
        objective, start, arguments, method="L-BFGS-B", jac=True, options=options
    )
    return found.x.reshape(-1, num_classes)


def predict(weights: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Returns the most likely class of each row."""
    return np.argmax(features @ weights[:-1] + weights[-1], axis=1)


def probe_hits(
    features: dict[str, np.ndarray], labels: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Fits a probe to the set `fit`; returns 1 or 0 for each caption of the other sets.

    Both are of each set, [N, dim] and [N].
    """
    fitted, truth = features["fit"].astype(np.float64), labels["fit"]
    mean = fitted.mean(axis=0)
    variances, directions = np.linalg.eigh(np.cov(fitted.T))
    whiten = directions / np.sqrt(variances + 1e-8 * variances.max())
    fitted = (fitted - mean) @ whiten
    num_classes, part = int(truth.max()) + 1, len(fitted) * 4 // 5

    def held_out(decay: float) -> float:
        weights = fit(fitted[:part], truth[:part], num_classes, decay)
        return float(np.mean(predict(weights, fitted[part:]) == truth[part:]))

    weights = fit(fitted, truth, num_classes, max(DECAYS, key=held_out))
    return {
        name: (predict(weights, (features[name] - mean) @ whiten) == labels[name]).astype(float)
        for name in features
        if name != "fit"
    }


def load(directory: str) -> tuple[Any, Any]:
    """Returns the configuration and the encoder's parameters of a training.

    ValueError: it has no text encoder.
    """
    loaded = loaded_models.LoadedModel.from_train_dir(directory)
    branch = loaded.variables["params"].get("encoder", {})
    if "token_embedding" not in branch:
        raise ValueError(
            f"{directory} has no branch `encoder` of a text encoder; give the MODEL_DIR of a text "
            "encoder's training or of a generator's"
        )
    return loaded.model.config, branch


def make_encoder(config: Any) -> text_encoder.TextEncoder:
    """Returns the encoder of a generator's or a text encoder's configuration."""
    blocks = transformer.StackConfig.of(config, config.num_encoder_layers)
    return text_encoder.TextEncoder(config.text_vocab_size, config.text_length, blocks)


def random_params(encoder: text_encoder.TextEncoder, seed: int) -> Any:
    """Returns an encoder's parameters before any training."""
    tokens = jax.ShapeDtypeStruct((1, encoder.max_length), jnp.int32)
    init = functools.partial(encoder.init, jax.random.PRNGKey(seed))
    variables = jax.jit(lambda x: init(x))(jnp.zeros(tokens.shape, tokens.dtype))
    return flax.core.meta.unbox(variables)["params"]


def readers(
    flags: argparse.Namespace,
) -> Iterator[tuple[str, int, Callable[[np.ndarray], dict[str, np.ndarray]]]]:
    """Gives (name, length of its texts, what maps texts to {pool: features}), untrained first."""
    given = [text.partition("=") for text in flags.encoder]
    config, _ = load(given[0][2])
    yield WORDS, config.text_length, functools.partial(counts, config.text_vocab_size)
    encoder = make_encoder(config)
    for seed in range(flags.seeds):
        params = random_params(encoder, seed)
        yield RANDOM, encoder.max_length, functools.partial(states, encoder, params)
    for name, _, directory in given:
        config, params = load(directory)
        encoder = make_encoder(config)
        yield name, encoder.max_length, functools.partial(states, encoder, params)


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Returns the line."""
    world = scenes.find_world(flags.world)
    tokenizer = vocabularies.TextTokenizer(flags.vocabulary)
    probes = [p for p in PROBES if p != "count" or "count" in world.challenges]
    drawn = {probe: draw_sets(probe, world, flags) for probe in probes}
    hits: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for name, length, read in readers(flags):
        for probe, sets in drawn.items():
            answers = sorted({truth for _, truth in sets["fit"]})
            labels = {k: np.array([answers.index(t) for _, t in rows]) for k, rows in sets.items()}
            found = {k: read(encode(tokenizer, rows, length)) for k, rows in sets.items()}
            for pool in found["fit"]:
                right = probe_hits({k: found[k][pool] for k in sets}, labels)
                for tested, row in right.items():
                    hits.setdefault((probe, f"{pool}, {tested}", name), []).append(row)
                    print(f"{name} {probe} {pool} {tested}: {row.mean():.3f}", file=sys.stderr)
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for (probe, how, name), rows in hits.items():
        table.setdefault(probe, {}).setdefault(how, {})[name] = estimate(rows)
    return {
        "figure": "linear probes on the frozen states of text encoders, accuracy",
        "world": flags.world,
        "captions": {"fit": flags.num_train, "seen": flags.num_test, "unseen": flags.num_test},
        "chance": {probe: chance(drawn[probe]["unseen"]) for probe in probes},
        "probes": table,
        "encoders": flags.encoder,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
    }


def draw_sets(
    probe: str, world: scenes.World, flags: argparse.Namespace
) -> dict[str, list[tuple[str, str]]]:
    """Returns the captions and truths of each of `SETS`."""
    return {
        name: draw(
            probe,
            split,
            flags.num_train if name == "fit" else flags.num_test,
            flags.seed + more,
            world,
        )
        for name, (split, more) in SETS.items()
    }


def encode(
    tokenizer: vocabularies.TextTokenizer, rows: list[tuple[str, str]], length: int
) -> np.ndarray:
    """Returns the captions' ids, [N, length] int32, made as those of training.

    ValueError: a caption is longer, and its end would not be there to be read.
    """
    ids = [tokenizer.encode(captions.normalize_caption(text), length + 1) for text, _ in rows]
    for (text, _), row in zip(rows, ids):
        if row[length] != vocabularies.PAD_ID:
            raise ValueError(
                f"{text!r} has more than the encoder's {length} tokens; give a --world of shorter "
                "captions, or an encoder of a larger TEXT_LENGTH"
            )
    return np.stack(ids)[:, :length]


def chance(rows: list[tuple[str, str]]) -> float:
    """Returns the share of the most frequent truth."""
    truths = [truth for _, truth in rows]
    return round(max(map(truths.count, set(truths))) / len(truths), 4)


def estimate(rows: list[np.ndarray]) -> dict[str, Any]:
    """Returns the accuracy with its interval, and that of each seed."""
    whole = bootstrap.estimate_mean(np.mean(rows, axis=0))
    return whole | {"seeds": [round(float(row.mean()), 4) for row in rows]}


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", action="append", required=True, metavar="NAME=DIRECTORY")
    parser.add_argument("--vocabulary", required=True, help="of `parti vocab`: the encoders'")
    parser.add_argument("--world", default="tiny", choices=sorted(scenes.WORLDS))
    parser.add_argument("--num_train", type=int, default=4000, help="captions to fit a probe to")
    parser.add_argument("--num_test", type=int, default=2000, help="captions to measure it on")
    parser.add_argument("--seeds", type=int, default=3, help="random encoders")
    parser.add_argument("--seed", type=int, default=1000, help="of the scenes")
    flags = parser.parse_args()
    wrong = [text for text in flags.encoder if not all(text.partition("="))]
    if wrong:
        parser.error(f"--encoder {wrong[0]}: give NAME=DIRECTORY")
    print(json.dumps(measure(flags)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
