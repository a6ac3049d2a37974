# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A bundle: one folder with everything that generation needs, and no pickle.

bundle.json                   what is inside, with fingerprints
vocabulary.model              the SentencePiece model
tokenizer/config.gin          what builds the model
tokenizer/params.safetensors  its variables, `collection/path` -> array
generator/, reranker/, upsampler/   the same; the last two may be absent
"""

import contextlib
import dataclasses
import json
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import safetensors
import safetensors.flax
from flax import traverse_util

from parti.data.text import vocabularies
from parti.engine.config import gin_config
from parti.engine.inference import layouts, loaded_models, sharded_reading
from parti.models import base
from parti.stages import files
from parti.stages.version import VERSION

SCHEMA_VERSION = 1
BUNDLE_FILE, VOCABULARY_FILE = "bundle.json", "vocabulary.model"
CONFIG_FILE, PARAMS_FILE = "config.gin", "params.safetensors"

# Part -> the role that its model has in generation.
PARTS: Mapping[str, type] = {
    "tokenizer": base.ImageTokenizer,
    "generator": base.Generator,
    "reranker": base.Reranker,
    "upsampler": base.Upsampler,
}
REQUIRED = ("tokenizer", "generator")
READ_TEXT = ("generator", "reranker")


def write_bundle(
    output: files.Path, parts: Mapping[str, loaded_models.LoadedModel], vocabulary: files.Path
) -> dict[str, Any]:
    """Writes the files of a bundle, `bundle.json` last, and returns the content of that.

    `vocabulary` is the SentencePiece model that the generator and reranker were trained with.

    Raises:
      ValueError: parts are missing, unknown or do not fit each other; nothing is written then.
      FileNotFoundError: there is no vocabulary.
    """
    tokenizer = vocabularies.TextTokenizer(vocabulary)
    check_parts(parts, tokenizer)
    described = {}
    for name, part in ((name, parts[name]) for name in PARTS if name in parts):
        files.make_dirs(files.join(output, name))
        files.write_bytes(files.join(output, name, CONFIG_FILE), part.config.encode())
        flat = traverse_util.flatten_dict(jax.device_get(part.variables), sep="/")
        with files.local_draft(files.join(output, name, PARAMS_FILE)) as path:
            safetensors.flax.save_file(flat, path)
        described[name] = {
            "fingerprint": part.fingerprint,
            "model": type(part.model).__name__,
            "num_params": sum(leaf.size for leaf in jax.tree.leaves(part.variables["params"])),
            "trained_on": part.trained_on,
        }
    described["tokenizer"]["encoder_fingerprint"] = parts["tokenizer"].encoder_fingerprint
    model_path = vocabularies.model_path(vocabulary)
    files.concatenate([model_path], files.join(output, VOCABULARY_FILE))
    content = {
        "kind": "bundle",
        "schema_version": SCHEMA_VERSION,
        "code_version": VERSION,
        "parts": described,
        "vocabulary": {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
    }
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    files.write_bytes(files.join(output, BUNDLE_FILE), text.encode())
    return content


@dataclasses.dataclass(frozen=True)
class Bundle:
    """An opened bundle; parts are loaded when asked for."""

    path: str
    content: dict[str, Any]  # of `bundle.json`

    @classmethod
    def open(cls, directory: files.Path) -> "Bundle":
        """Opens a bundle and checks that its files are there.

        Raises:
          FileNotFoundError: no bundle there, or one of its files is gone.
          ValueError: of another schema, without a part that generation needs, or with a file that
            was cut off.
        """
        folder = os.fspath(directory)
        path = files.join(folder, BUNDLE_FILE)
        if not files.exists(path):
            command = f"parti export --workdir DIR --output {folder}"
            raise FileNotFoundError(f"no bundle at {folder}; make one with `{command}`")
        again = "export the bundle again"
        try:
            content = json.loads(files.read_bytes(path))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error}); {again}") from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{folder}: bundle of schema version {version}, this code reads {SCHEMA_VERSION}; "
                "export it again"
            )
        if not _is_described(content):
            raise ValueError(f"{path} is damaged (parts without a description); {again}")
        bundle = cls(folder, content)
        if missing := [name for name in REQUIRED if name not in bundle.parts]:
            raise ValueError(f"{folder}: bundle without {' and '.join(missing)}; export it again")
        names = [f"{part}/{f}" for part in bundle.parts for f in (CONFIG_FILE, PARAMS_FILE)]
        there = {files.absolute(entry.path) for entry in files.walk(folder)}
        for name in (VOCABULARY_FILE, *names):
            if files.absolute(path := files.join(folder, name)) not in there:
                raise FileNotFoundError(
                    f"{path} is missing; copy the bundle again, or export it again"
                )
        for part in bundle.parts:
            path = files.join(folder, part, PARAMS_FILE)
            try:
                with _headed(path) as local, safetensors.safe_open(local, framework="numpy"):
                    pass  # The file is as long as its header says.
            except safetensors.SafetensorError as error:
                raise ValueError(f"{path} is damaged ({error}); {again}") from error
        return bundle

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts inside."""
        return tuple(name for name in PARTS if name in self.content["parts"])

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each part, of the vocabulary, and of the tokenizer's encoder."""
        prints = {name: self.content["parts"][name]["fingerprint"] for name in self.parts}
        prints["vocabulary"] = self.content["vocabulary"]["fingerprint"]
        encoder = self.content["parts"]["tokenizer"].get("encoder_fingerprint")
        return prints | ({"encoder": encoder} if encoder else {})  # Bundles of 0.1.0 have none.

    def vocabulary(self) -> vocabularies.TextTokenizer:
        """Returns the text vocabulary; raises ValueError if it is not what was exported."""
        tokenizer = vocabularies.TextTokenizer(files.join(self.path, VOCABULARY_FILE))
        self._check_fingerprint("vocabulary", VOCABULARY_FILE, tokenizer.fingerprint)
        return tokenizer

    def model(self, part: str) -> Any:
        """Returns the model object of a part, without its variables; raises as `load` does."""
        if part not in self.parts:
            raise ValueError(
                f"{self.path} has no {part}; it has {', '.join(self.parts)}. Train one and "
                f"export again with --{part} DIR"
            )
        try:
            model = gin_config.model_from_config(self._config(part))
            if not isinstance(model, PARTS[part]):
                raise ValueError(
                    f"MODEL is a {type(model).__name__}, and no {PARTS[part].__name__}"
                )
            return model
        except ValueError as error:
            path = files.join(self.path, part, CONFIG_FILE)
            raise ValueError(f"{path}: {error}; export the bundle again") from error

    def load(self, part: str, layout: layouts.Layout | None = None) -> loaded_models.LoadedModel:
        """Loads a part, onto one device or as a layout says (see `layouts`).

        Of a generator with a layout neither a device nor the host ever has all (`sharded_reading`).

        Raises:
          ValueError: the bundle has no such part, or its files are not those that were exported.
        """
        model, config, fingerprint = self.model(part), self._config(part), ""
        path = files.join(self.path, part, PARAMS_FILE)
        placement: layouts.Placement | None
        variables: dict[str, Any]
        if layout is not None and part == "generator":
            placement, model = layout.placement(), model.unrolled
            leaves = layouts.leaves(model, layout.int8)
            variables, fingerprint = sharded_reading.load(path, leaves, placement, config)
        else:
            placement = None if layout is None else layouts.whole_on_each()
            with files.local_copy(path) as local:
                flat = safetensors.flax.load_file(local)
            variables = traverse_util.unflatten_dict(flat, sep="/")
        loaded = loaded_models.LoadedModel(
            model,
            variables,
            config=config,
            name=part,
            trained_on=self.content["parts"][part]["trained_on"],
            vocabulary=self.vocabulary() if part in READ_TEXT else None,
            placement=placement,
            fingerprint=fingerprint,
        )
        self._check_fingerprint(part, part, loaded.fingerprint)
        return loaded

    def _config(self, part: str) -> str:
        return files.read_bytes(files.join(self.path, part, CONFIG_FILE)).decode()

    def _check_fingerprint(self, name: str, file_name: str, found: str) -> None:
        if found != self.fingerprints[name]:
            path = files.join(self.path, file_name)
            raise ValueError(
                f"{path} is not what was exported: fingerprint {found[:12]}, {BUNDLE_FILE} says "
                f"{self.fingerprints[name][:12]}; export the bundle again"
            )


@contextlib.contextmanager
def _headed(path: str) -> Iterator[str]:
    """Yields a safetensors file, or, of a remote one, its header in a file of the same size."""
    if not files.is_remote(path):
        yield path
        return
    with files.open(path) as remote, tempfile.NamedTemporaryFile(prefix="parti-") as local:
        size, begin = files.size(path), remote.read(8)
        (length,) = struct.unpack("<Q", begin.ljust(8, b"\0"))
        local.write(begin + remote.read(min(length, size)))
        local.truncate(size)
        local.flush()
        yield local.name


def _is_described(content: Mapping[str, Any]) -> bool:
    """Returns whether the parts and the vocabulary of `bundle.json` have their fingerprints."""
    parts, vocabulary = content.get("parts"), content.get("vocabulary")
    if not (isinstance(parts, dict) and isinstance(vocabulary, dict)):
        return False
    return all(
        isinstance(each, dict)
        and isinstance(each.get("fingerprint"), str)
        and isinstance(each.get("trained_on"), dict)
        for each in (*parts.values(), {"trained_on": {}, **vocabulary})
    )


def check_parts(
    parts: Mapping[str, loaded_models.LoadedModel], text_tokenizer: vocabularies.TextTokenizer
) -> None:
    """Raises ValueError unless parts can work together.

    All are there and of their kind, the generator speaks the tokenizer's image vocabulary, and all
    were trained with this text vocabulary and have embeddings for it.
    """
    unknown = sorted(set(parts) - set(PARTS))
    missing = sorted(set(REQUIRED) - set(parts))
    if unknown or missing:
        raise ValueError(f"parts of a bundle: {missing} missing, {unknown} unknown")
    for name, part in parts.items():
        check_role(name, part)
    tokenizer, generator = parts["tokenizer"], parts["generator"]
    for field in ("codebook_size", "grid_size"):
        theirs, ours = (getattr(part.model, field) for part in (tokenizer, generator))
        if theirs != ours:
            raise ValueError(
                f"the generator {generator.name!r} has {field} {ours}, the tokenizer "
                f"{tokenizer.name!r} has {theirs}; train the generator on this tokenizer's tokens"
            )
    trained_with = generator.trained_on.get("tokenizer_fingerprint")
    if trained_with and not tokenizer.made_tokens_of(trained_with):
        raise ValueError(
            f"the generator {generator.name!r} was trained on tokens of the encoder "
            f"{trained_with[:12]}, but {tokenizer.name!r} has the encoder "
            f"{tokenizer.encoder_fingerprint[:12]}; give a tokenizer with that encoder and "
            "codebook, or tokenize again with this tokenizer and train the generator on that"
        )
    for name, part in parts.items():
        trained_with = part.trained_on.get("vocabulary_fingerprint")
        if trained_with and trained_with != text_tokenizer.fingerprint:
            raise ValueError(
                f"the {name} {part.name!r} was trained with the vocabulary {trained_with[:12]}, "
                f"not {text_tokenizer.fingerprint[:12]}; give its own with --vocabulary"
            )
        if name not in READ_TEXT:
            continue
        size = part.model.text_vocab_size
        if size is None:
            raise ValueError(
                f"the {name} {part.name!r} reads text, but {type(part.model).__name__}."
                "text_vocab_size is None; let the model say how many text ids it has embeddings for"
            )
        if size < text_tokenizer.vocab_size:
            raise ValueError(
                f"the {name} {part.name!r} has TEXT_VOCAB_SIZE {size}, the vocabulary has "
                f"{text_tokenizer.vocab_size} pieces; give the {name}'s own with --vocabulary"
            )


def load_part(
    source: files.Path, part: str, layout: layouts.Layout | None = None
) -> loaded_models.LoadedModel:
    """Loads a part of a bundle, or the training directory of that part.

    Raises:
      FileNotFoundError: neither is there.
      ValueError: what is there is no such part, or a generator that is no part of a bundle, which
        a layout needs.
    """
    if files.exists(files.join(source, BUNDLE_FILE)):
        return Bundle.open(source).load(part, layout)
    if layout is not None and part == "generator":
        raise ValueError(f"{source} is no bundle, which a layout needs; make one with parti export")
    placement = None if layout is None else layouts.whole_on_each()
    loaded = loaded_models.LoadedModel.from_train_dir(source, placement=placement)
    check_role(part, loaded)
    return loaded


def check_role(name: str, part: loaded_models.LoadedModel) -> None:
    """Raises ValueError unless a model has the role of the part of this name."""
    role = PARTS[name]
    if not isinstance(part.model, role):
        raise ValueError(
            f"{part.name!r} is a {type(part.model).__name__}, and no {role.__name__} "
            f"(parti.models.base); give the training directory of a {name}"
        )
