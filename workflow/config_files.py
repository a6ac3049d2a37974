# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Workflow files: reads and checks them, and makes the stages' commands of them.

A file is YAML. A section named after a stage holds its command's flags: `scenes: {num: 12000}` is
`parti scenes --num=12000`. `beam` has flags of every stage of `BEAM_STAGES`. Of a training:
`train_generator: {experiment: FILE.gin, gin: {TRAIN_STEPS: 2000}}`. In a command `@/` is where the
data are: the working folder, or the address `storage`.
"""

import difflib
import hashlib
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

import parti
from parti.stages import brace_patterns, files

PARTS = ("tokenizer", "generator", "reranker", "upsampler")  # of the bundle
TEXT_ENCODER = "text_encoder"  # from which the generator starts
TRAINED = (TEXT_ENCODER, *PARTS)
OPTIONAL_PARTS = (TEXT_ENCODER, "reranker", "upsampler")
SOURCES = ("scenes", "pairs")
TRAININGS = tuple(f"train_{part}" for part in TRAINED)
FLAG_SECTIONS = (
    *("scenes", "beam", "clean", "vocab", "tokenize"),
    *("export", "choose_prompts", "generate", "evaluate"),
)
# The stages that get the flags in `beam` too.
BEAM_STAGES = ("scenes", "clean", "vocab", "tokenize", "generate", "evaluate")
# What a training reads.
TRAINING_INPUTS = {
    TEXT_ENCODER: {"PAIRS_DIR": "@/pairs", "VOCABULARY": "@/vocabulary/vocabulary.model"},
    "tokenizer": {"PAIRS_DIR": "@/pairs"},
    "generator": {"TOKENS_DIR": "@/tokens", "VOCABULARY": "@/vocabulary/vocabulary.model"},
    "reranker": {"PAIRS_DIR": "@/pairs", "VOCABULARY": "@/vocabulary/vocabulary.model"},
    "upsampler": {"RECONSTRUCTIONS_DIR": "@/tokens/reconstructions"},
}
# Flags of the stages that name folders, or would undo what is finished.
_NOT_TO_SET = (
    *("input", "output", "model", "prompts", "workdir", "generations", "reference"),
    "overwrite",
)
_ADDRESSES = ("input", "prompts", "experiment")
# Flags of `clean` that name files or folders, besides the list `decontaminate`.
_PATHS_OF_CLEAN = (
    *("image_root", "extend", "keep_originals"),
    *("preset", "unwanted_words_file", "word_counts_file"),
)
KEYS = (
    *("description", "source", "input", "inputs", "prompts", "storage", "jobs"),
    *(*FLAG_SECTIONS, *TRAININGS),
)

Config = dict[str, Any]


def folder() -> pathlib.Path:
    """Returns the folder of the Snakefile, in a clone and in an installed package."""
    return pathlib.Path(__file__).parent


def load(name_or_path: str, changes: Sequence[str] = ()) -> Config:
    """Reads a workflow file, applies changes and checks it; every path becomes absolute.

    It may be named as one that comes with the package: `scenes-tiny`. Changes are `key=value`; dots
    reach into sections, values are YAML: `train_generator.gin.TRAIN_STEPS=500`.

    Raises:
      FileNotFoundError: no such workflow file, experiment file or input.
      ValueError: an unknown or missing key, or a value of the wrong kind.
    """
    known = {path.stem: path for path in (folder() / "config").glob("*.yaml")}
    path = pathlib.Path(name_or_path)
    if not path.is_file():
        if name_or_path not in known:
            names = ", ".join(sorted(known))
            raise FileNotFoundError(
                f"no workflow file {name_or_path!r}; give a YAML file, or one of: {names}"
            )
        path = known[name_or_path]
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: a workflow file holds keys: {', '.join(KEYS)}")
    for change in changes:
        _set(config, change)
    return _checked(config, str(path))


def _set(config: Config, change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {change!r}: write key=value, e.g. generate.num_samples=4")
    before, is_gin, name = key.partition(".gin.")  # names in gin have dots of their own
    *parents, last = [*before.split("."), "gin", name] if is_gin else key.split(".")
    section = config
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise ValueError(f"--set {change!r}: {parent!r} is a value, not a section")
    if last in _ADDRESSES and not text.startswith(("[", "'", '"')):
        section[last] = text  # as YAML, `a #1.tar` would be `a`, and `0012` a number
        return
    try:
        section[last] = text if last in _ADDRESSES and files.exists(text) else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {change!r}: the value is not YAML: {error}") from error


def _checked(config: Config, where: str) -> Config:
    """Completes what was read, and makes paths absolute; raises as `load`."""
    if unknown := [key for key in config if key not in KEYS]:
        near = difflib.get_close_matches(str(unknown[0]), KEYS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(KEYS)}"
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; {hint}")
    if config.get("source") not in SOURCES:
        raise ValueError(f"{where}: source is {config.get('source')!r}; allowed: scenes, pairs")
    if config["source"] == "pairs" and not (config.get("input") or config.get("inputs")):
        raise ValueError(f"{where}: name your pictures: --set input='data/*.tar'")
    if storage := config.pop("storage", None):
        if not isinstance(storage, str) or not files.is_remote(storage):
            raise ValueError(
                f"{where}: storage is {storage!r}; give an address such as gs://bucket/run (a "
                "folder of this machine is for --workdir)"
            )
        config["storage"] = files.absolute(storage)
    config["inputs"] = _checked_inputs(config, where)
    if not isinstance(config.setdefault("jobs", 1), int) or config["jobs"] < 1:
        raise ValueError(f"{where}: jobs is {config['jobs']!r}; it must be 1 or more")
    for section in (*FLAG_SECTIONS, *TRAININGS):
        config[section] = config.get(section) or {}
        if not isinstance(config[section], dict):
            raise ValueError(f"{where}: {section} is {config[section]!r}; it must be a section")
        for flag in (flag for flag in config[section] if flag in _NOT_TO_SET):
            raise ValueError(f"{where}: {section}.{flag} is for the workflow to set; remove it")
    for key in ("input", "prompts"):
        config[key] = _found(config.get(key), key)
    for name, given in config["inputs"].items():
        given["input"] = _found(given["input"], f"inputs.{name}.input")
    clean = config["clean"]  # its paths begin here too, not in the folder that it runs in
    for name in (name for name in _PATHS_OF_CLEAN if isinstance(clean.get(name), str)):
        if clean[name] and (name != "preset" or os.path.isfile(clean[name])):
            clean[name] = _from_here(clean[name])
    if clean.get("decontaminate"):
        clean["decontaminate"] = _absolute(clean["decontaminate"])
    if len(config["prompts"]) > 1:
        raise ValueError(f"{where}: prompts is {config['prompts']}; it must be one file")
    for part, name in zip(TRAINED, TRAININGS, strict=True):
        if config[name] or part not in OPTIONAL_PARTS:
            _check_training(config[name], f"{where}: {name}")
    return config


def _checked_inputs(config: Config, where: str) -> Config:
    """Returns `inputs`, {name: {input: address, rate: number}}; raises as `load`."""
    inputs = config.get("inputs") or {}
    example = "inputs: {laion: {input: 'laion/*.tar', rate: 0.7}, own: {input: own, rate: 0.3}}"
    if not isinstance(inputs, dict):
        raise ValueError(f"{where}: inputs is {inputs!r}; write {example}")
    if not inputs:
        return {}
    if config["source"] != "pairs" or config.get("input"):
        raise ValueError(f"{where}: `inputs` are for source: pairs, instead of `input`; set one")
    if len(inputs) == 1:
        raise ValueError(f"{where}: inputs has one, {next(iter(inputs))!r}; set `input` to it")
    for name, given in inputs.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)):
            raise ValueError(
                f"{where}: inputs names {name!r}; a name is of small letters, digits and _"
            )
        if not isinstance(given, dict) or set(given) != {"input", "rate"} or not given["input"]:
            raise ValueError(f"{where}: inputs.{name} is {given!r}; write {example}")
        rate = given["rate"]
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise ValueError(f"{where}: inputs.{name}.rate is {rate!r}; give a number above 0")
    return {name: dict(inputs[name]) for name in sorted(inputs)}


def _found(value: Any, key: str) -> list[str]:
    """Returns addresses as absolute ones; raises FileNotFoundError for one of nothing."""
    addresses = _absolute(value)
    for pattern in addresses:
        local = [] if files.is_remote(pattern) else files.resolve(pattern)
        missing = [named.text for named in local if named.entries == []]
        if missing or not listing([pattern]):
            raise FileNotFoundError(f"{key}: no file matches {[*missing, pattern][0]!r}")
    return addresses


def suffixes(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns {suffix: addresses of its pictures} of the data sets; a single one has none.

    The suffix is that of stages and outputs: `clean_laion` writes `pairs_laion`.
    """
    inputs = config.get("inputs") or {}
    return {f"_{name}": of["input"] for name, of in inputs.items()} or {"": config["input"]}


def main_suffix(config: Mapping[str, Any]) -> str:
    """Returns the suffix of the data set of the highest rate."""
    inputs = config.get("inputs") or {}
    return f"_{max(inputs, key=lambda name: inputs[name]['rate'])}" if inputs else ""


def rates(config: Mapping[str, Any]) -> dict[str, float]:
    """Returns {suffix: rate} of several data sets; {} of a single one."""
    return {f"_{name}": of["rate"] for name, of in (config.get("inputs") or {}).items()}


def _check_training(section: Config, where: str) -> None:
    unknown = sorted(set(section) - {"experiment", "gin"})
    if unknown or not isinstance(section.get("experiment"), str):
        problem = f"unknown key {unknown[0]!r}" if unknown else "no experiment"
        raise ValueError(f"{where}: {problem}; it holds `experiment` (a gin file) and `gin`")
    section["gin"] = section.get("gin") or {}
    if not isinstance(section["gin"], dict):
        raise ValueError(f"{where}: gin is {section['gin']!r}; it holds macros: {{NAME: value}}")
    if "MODEL_DIR" in section["gin"]:
        raise ValueError(f"{where}: MODEL_DIR is for the workflow to set; remove it")
    if _in_package(section["experiment"]) is None:
        path = os.path.abspath(os.path.expanduser(section["experiment"]))
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{where}: no experiment file {section['experiment']!r}")
        section["experiment"] = path


def _in_package(name: str) -> pathlib.Path | None:
    """Returns the path of `t5x_configs/...` in the package or clone, or None."""
    paths = (pathlib.Path(root) / name for root in parti.__path__ if not os.path.isabs(name))
    return next((path for path in paths if path.is_file()), None)


def _absolute(value: Any) -> list[str]:
    """Returns addresses (a list, or text with commas) as absolute ones; `gs://...` as it is."""
    items = map(str, value) if isinstance(value, list) else [str(value or "")]
    return [
        _from_here(part)
        for item in items
        # Remote ones are not looked for: that may need the flags of the stage.
        for part in (brace_patterns.split(item) if files.is_remote(item) else files.parts(item))
    ]


def _from_here(path: str) -> str:
    if files.is_remote(path):
        return path
    return files.absolute(path if files.exists(path) else os.path.expanduser(path.strip()))


def verb(stage: str) -> str:
    """Returns the command of `parti` that a stage runs."""
    return {"choose_prompts": "prompts"}.get(stage, stage)


def stage_flags(config: Mapping[str, Any], stage: str) -> list[str]:
    """Returns the flags of a stage in a workflow file: its own section wins over `beam`."""
    return flags(_section(config, stage))


def has_own_workers(config: Mapping[str, Any], stage: str) -> bool:
    """Returns whether a stage on Beam only waits for workers that its runner has elsewhere."""
    if not (runner := _section(config, stage).get("runner")):
        return False
    from parti.pipelines.beam import runners  # loads Beam

    return str(runner).lower() not in runners.LOCAL_RUNNERS


def _section(config: Mapping[str, Any], stage: str) -> Config:
    shared = config.get("beam") or {} if stage in BEAM_STAGES else {}
    return {**shared, **(config.get(stage) or {})}


def flags(section: Mapping[str, Any]) -> list[str]:
    """Returns a section as flags: true -> `--name`, lists -> `--name a b`, false and null: none."""
    made = []
    for name, value in section.items():
        if value is True:
            made.append(f"--{name}")
        elif isinstance(value, list):
            made += [f"--{name}", *(str(item) for item in value)]
        elif value is not None and value is not False:
            made.append(f"--{name}={value}")
    return made


def commands(config: Config) -> dict[str, tuple[str, list[str]]]:
    """Returns {stage: (output, command)}; the output is a folder where the data are."""
    scenes = config["source"] == "scenes"
    sets, main = {"": ["@/raw"]} if scenes else suffixes(config), main_suffix(config)
    raw_prompts = "@/raw/prompts-validation.jsonl" if scenes else f"@/pairs{main}"
    parts = [part for part in PARTS if config.get(f"train_{part}")]
    pairs = ["--input=@/pairs"] if "" in sets else ["--input", *(f"@/pairs{s}" for s in sets)]
    made: dict[str, tuple[str, list[str]]] = {}

    def add(stage: str, output: str, *words: str, suffix: str = "") -> None:
        output += suffix
        whole = [verb(stage), *words, f"--output=@/{output}", *stage_flags(config, stage)]
        made[stage + suffix] = (output, whole)

    if scenes:
        add("scenes", "raw")
    for suffix, pictures in sets.items():
        add("clean", "pairs", "--input", *pictures, suffix=suffix)
    add("vocab", "vocabulary", *pairs)
    for part in TRAINED:
        if config.get(f"train_{part}"):
            made[f"train_{part}"] = (part, train_command(config, part))
    for suffix in sets:
        words = [f"--input=@/pairs{suffix}", "--model=@/tokenizer"]
        words += ["--write_reconstructions"] if "upsampler" in parts else []
        add("tokenize", "tokens", *words, suffix=suffix)
    add("export", "bundle", "--workdir=@/.", "--parts", *parts)
    add("choose_prompts", "prompts", f"--input={[*(config.get('prompts') or []), raw_prompts][0]}")
    add("generate", "generations", "--prompts=@/prompts/prompts.jsonl", "--model=@/bundle")
    reference = f"--reference=@/pairs{main}"
    add("evaluate", "evaluation", "--generations=@/generations", reference, "--model=@/bundle")
    return made


def train_command(config: Mapping[str, Any], part: str) -> list[str]:
    """Returns `train --gin_file=... --gin.NAME=VALUE ...`; the section's own `gin` wins.

    A generator starts from the text encoder, if one is trained.
    """
    section = config[f"train_{part}"]
    paths = {"MODEL_DIR": f"@/{part}"}
    paths |= {macro: _mixed(path, rates(config)) for macro, path in TRAINING_INPUTS[part].items()}
    if part == "generator" and config.get(f"train_{TEXT_ENCODER}"):
        paths["TEXT_ENCODER"] = f"@/{TEXT_ENCODER}"
    bindings = {name: repr(path) for name, path in paths.items()}
    for name, value in section["gin"].items():
        is_reference = isinstance(value, str) and value.startswith(("@", "%"))
        bindings[name] = value if is_reference else repr(value)
    gin_flags = [f"--gin.{name}={value}" for name, value in bindings.items()]
    return ["train", f"--gin_file={section['experiment']}", *gin_flags]


def _mixed(path: str, rates: Mapping[str, float]) -> Any:
    """Returns {path: rate} of what several data sets make of an output that each has."""
    root, *below = path.removeprefix("@/").split("/")
    if not rates or root not in ("pairs", "tokens"):
        return path
    return {"/".join((f"@/{root}{suffix}", *below)): rate for suffix, rate in rates.items()}


def listing(patterns: Sequence[str]) -> str:
    """Returns a digest of the names, sizes and times of files ('' for none).

    Remote addresses are taken by name only.
    """
    rows = []
    for pattern in patterns:
        if files.is_remote(pattern):
            rows.append(pattern)
            continue
        for _, folder, entries in files.resolve(pattern):
            for path in _below(folder) if entries is None else [e.path for e in entries]:
                state = os.stat(path)
                rows.append(f"{path} {state.st_size} {state.st_mtime_ns}")
    # Names that are not UTF-8 give the bytes that they are.
    text = "\n".join(rows).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16] if rows else ""


def _below(folder: str) -> list[pathlib.Path]:
    """Returns all files and folders below a folder; no link that leads nowhere."""
    found = {*pathlib.Path(folder).rglob("*"), *(pathlib.Path(e.path) for e in files.walk(folder))}
    return sorted(path for path in found if path.exists())


def experiment_digest(section: Mapping[str, Any]) -> str:
    """Returns a digest of a training's experiment file, the run file, and all they include."""
    digest = hashlib.sha256()
    waiting, seen = ["t5x_configs/runs/embedded/train.gin", section["experiment"]], set()
    while waiting:
        name = waiting.pop(0)
        path = _in_package(name) or pathlib.Path(name)
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        text = path.read_text(encoding="utf-8")
        digest.update(text.encode())
        waiting += re.findall(r"""^include\s+['"](.+)['"]""", text, re.MULTILINE)
    return digest.hexdigest()[:16]
