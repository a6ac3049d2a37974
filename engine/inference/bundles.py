# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A bundle: one folder with everything that generation needs, and no pickle.

bundle.json                   what is inside, with fingerprints
vocabulary.model              the SentencePiece model
tokenizer/config.gin          what builds the model
tokenizer/params.safetensors  its variables, `collection/path` -> array
generator/, reranker/, upsampler/   the same; the last two may be absent
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import safetensors
import safetensors.flax
from flax import traverse_util

from parti.data.text import vocabularies
from parti.engine.config import gin_config
from parti.engine.inference import loaded_models
from parti.models import base
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
    output: str | pathlib.Path,
    parts: Mapping[str, loaded_models.LoadedModel],
    vocabulary: str | pathlib.Path,
) -> dict[str, Any]:
    """Writes the files of a bundle, `bundle.json` last, and returns the content of that.

    `vocabulary` is the SentencePiece model that the generator and reranker were trained with.

    Raises:
      ValueError: parts are missing, unknown or do not fit each other; nothing is written then.
      FileNotFoundError: there is no vocabulary.
    """
    folder = pathlib.Path(output)
    tokenizer = vocabularies.TextTokenizer(vocabulary)
    check_parts(parts, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    described = {}
    for name, part in ((name, parts[name]) for name in PARTS if name in parts):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / CONFIG_FILE).write_text(part.config, encoding="utf-8")
        flat = traverse_util.flatten_dict(jax.device_get(part.variables), sep="/")
        safetensors.flax.save_file(flat, folder / name / PARAMS_FILE)
        described[name] = {
            "fingerprint": part.fingerprint,
            "model": type(part.model).__name__,
            "num_params": sum(leaf.size for leaf in jax.tree.leaves(part.variables["params"])),
            "trained_on": part.trained_on,
        }
    described["tokenizer"]["encoder_fingerprint"] = parts["tokenizer"].encoder_fingerprint
    model_path = pathlib.Path(vocabulary)
    model_path = model_path / VOCABULARY_FILE if model_path.is_dir() else model_path
    shutil.copyfile(model_path, folder / VOCABULARY_FILE)
    content = {
        "kind": "bundle",
        "schema_version": SCHEMA_VERSION,
        "code_version": VERSION,
        "parts": described,
        "vocabulary": {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
    }
    text = json.dumps(content, indent=2, sort_keys=True)
    (folder / BUNDLE_FILE).write_text(text + "\n", encoding="utf-8")
    return content


@dataclasses.dataclass(frozen=True)
class Bundle:
    """An opened bundle; parts are loaded when asked for."""

    path: pathlib.Path
    content: dict[str, Any]  # of `bundle.json`

    @classmethod
    def open(cls, directory: str | pathlib.Path) -> "Bundle":
        """Opens a bundle and checks that its files are there.

        Raises:
          FileNotFoundError: no bundle there, or one of its files is gone.
          ValueError: of another schema, without a part that generation needs, or with a file that
            was cut off.
        """
        folder = pathlib.Path(directory)
        path = folder / BUNDLE_FILE
        if not path.is_file():
            command = f"parti export --workdir DIR --output {folder}"
            raise FileNotFoundError(f"no bundle at {folder}; make one with `{command}`")
        again = "export the bundle again"
        try:
            content = json.loads(path.read_bytes())
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
        files = [f"{part}/{f}" for part in bundle.parts for f in (CONFIG_FILE, PARAMS_FILE)]
        for name in (VOCABULARY_FILE, *files):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is missing; copy the bundle again, or export it again"
                )
        for part in bundle.parts:
            path = folder / part / PARAMS_FILE
            try:
                with safetensors.safe_open(path, framework="numpy"):
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
        tokenizer = vocabularies.TextTokenizer(self.path / VOCABULARY_FILE)
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
            path = self.path / part / CONFIG_FILE
            raise ValueError(f"{path}: {error}; export the bundle again") from error

    def load(self, part: str) -> loaded_models.LoadedModel:
        """Loads a part.

        Raises:
          ValueError: the bundle has no such part, or its files are not those that were exported.
        """
        model = self.model(part)
        flat = safetensors.flax.load_file(self.path / part / PARAMS_FILE)
        described = self.content["parts"][part]
        loaded = loaded_models.LoadedModel(
            model,
            traverse_util.unflatten_dict(flat, sep="/"),
            config=self._config(part),
            name=part,
            trained_on=described["trained_on"],
            vocabulary=self.vocabulary() if part in READ_TEXT else None,
        )
        self._check_fingerprint(part, part, loaded.fingerprint)
        return loaded

    def _config(self, part: str) -> str:
        return (self.path / part / CONFIG_FILE).read_text(encoding="utf-8")

    def _check_fingerprint(self, name: str, files: str, found: str) -> None:
        if found != self.fingerprints[name]:
            raise ValueError(
                f"{self.path / files} is not what was exported: fingerprint {found[:12]}, "
                f"{BUNDLE_FILE} says {self.fingerprints[name][:12]}; export the bundle again"
            )


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


def load_part(source: str | pathlib.Path, part: str) -> loaded_models.LoadedModel:
    """Loads a part of a bundle, or the training directory of that part.

    Raises:
      FileNotFoundError: neither is there.
      ValueError: what is there is no such part.
    """
    folder = pathlib.Path(source)
    if (folder / BUNDLE_FILE).is_file():
        return Bundle.open(folder).load(part)
    loaded = loaded_models.LoadedModel.from_train_dir(folder)
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
