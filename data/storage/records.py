# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The records on disk, as `tf.train.Example`, built with protobuf alone: a Beam worker needs no
TensorFlow to write or read one. `tfrecords` reads and writes files of records.
"""

import dataclasses
import functools
import json
import math
from typing import Any, ClassVar, Self

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format

from parti.stages import json_text

# The feature names that readers outside this file use (`tasks/` parse records inside tf.data).
KEY = "key"
IMAGE = "image"
TEXT = "text"
METADATA = "metadata"
IMAGE_TOKENS = "image_tokens"
RECONSTRUCTION = "reconstruction"

# Under this key a pair's metadata may hold a list of captions, `text` among them or not. Those that
# are not `text` are written as a feature of this name too: tf.data cannot read JSON.
CAPTIONS = "captions"

# Parsed JSON takes many times the memory of its text.
MAX_JSON_BYTES = 16 * 2**20

SPLITS = ("train", "validation")


# The published schema of `tf.train.Example` (tensorflow/core/example/example.proto).
_SCHEMA = """
name: "parti/example.proto" package: "tensorflow" syntax: "proto3"
message_type {
  name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
}
message_type {
  name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT }
}
message_type {
  name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
}
message_type {
  name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type_name: ".tensorflow.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 type_name: ".tensorflow.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type_name: ".tensorflow.Int64List" oneof_index: 0 }
}
message_type {
  name: "Features"
  nested_type {
    name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type_name: ".tensorflow.Feature" }
  }
  field {
    name: "feature" number: 1 label: LABEL_REPEATED type_name: ".tensorflow.Features.FeatureEntry"
  }
}
message_type {
  name: "Example" field { name: "features" number: 1 type_name: ".tensorflow.Features" }
}
"""


@functools.cache
def _example_class() -> type[message.Message]:
    # A pool of its own: TensorFlow registers the same names in the default pool.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """The base of all records: one schema for writers and readers.

    Field names are the feature names of the `tf.train.Example`, and annotations say how a field is
    stored: `bytes` and `str` as one bytes value, `int` as one int64, an array as int64 values, a
    `dict` as JSON in one bytes value. Fields without a default are required.
    """

    KIND: ClassVar[str] = "record"
    MADE_BY: ClassVar[str] = "a parti stage"

    def to_example(self) -> bytes:
        """Returns the serialized `tf.train.Example`; equal records give equal bytes.

        Raises:
          ValueError: the metadata is not JSON, or its captions are not a list of texts.
        """
        example = _example_class()()
        if METADATA in self.__dataclass_fields__:  # readers in tf.data need the captions apart
            captions = [text.encode() for text in self._more_captions()]
            example.features.feature[CAPTIONS].bytes_list.value.extend(captions)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            feature = example.features.feature[field.name]
            if field.type is int:
                feature.int64_list.value.append(value)
            elif field.type is np.ndarray:
                feature.int64_list.value.extend(value.tolist())
            else:
                text = _json(value) if field.type == dict[str, Any] else value
                feature.bytes_list.value.append(text if isinstance(text, bytes) else text.encode())
        return example.SerializeToString(deterministic=True)

    @classmethod
    def from_example(cls, serialized: bytes) -> Self:
        """Reads a serialized `tf.train.Example`.

        A field with a default may be absent; features of other names are ignored.

        Raises:
          ValueError: not an Example, or a feature is missing or of the wrong kind.
        """
        try:
            features = _example_class().FromString(serialized).features.feature
        except message.DecodeError as error:
            raise ValueError(f"Not a tf.train.Example, so not {cls._what()}.") from error
        values = {}
        for field in dataclasses.fields(cls):
            if field.name in features:
                values[field.name] = cls._read(field, features[field.name])
            elif _is_required(field):
                raise ValueError(
                    f"Feature {field.name!r} is missing: expected {cls._what()}; "
                    f"the record has {sorted(features) or 'no features'}."
                )
        return cls(**values)

    def _more_captions(self) -> list[str]:
        captions = getattr(self, METADATA).get(CAPTIONS, [])
        if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
            raise ValueError(
                f"metadata[{CAPTIONS!r}] of {getattr(self, KEY)!r} must be a list of texts; "
                f"got {captions!r}."
            )
        return [c for c in dict.fromkeys(captions) if c != getattr(self, TEXT)]

    @classmethod
    def feature_spec(cls) -> dict[str, Any]:
        """Returns the schema for `tf.io.parse_example` and its single form (imports TensorFlow).

        Scalars come out as string or int64, arrays as [length] int64, a `dict` as the JSON text.
        Records with metadata also have `captions`: [count] string, those that are not `text`. Of
        several records arrays and captions are ragged: [records, (length)].
        """
        import tensorflow as tf

        spec: dict[str, Any] = {}
        if METADATA in cls.__dataclass_fields__:
            spec[CAPTIONS] = tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64)
        for field in dataclasses.fields(cls):
            if field.type is np.ndarray:
                spec[field.name] = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
                continue
            dtype = tf.int64 if field.type is int else tf.string
            empty = 0 if field.type is int else "" if field.type in (str, bytes) else "{}"
            default = None if _is_required(field) else empty
            spec[field.name] = tf.io.FixedLenFeature([], dtype, default)
        return spec

    @classmethod
    def _what(cls) -> str:
        return f"{cls.KIND} ({cls.__name__}, made by {cls.MADE_BY})"

    @classmethod
    def _read(cls, field: dataclasses.Field, feature: Any) -> Any:
        is_int = field.type in (int, np.ndarray)
        wanted = "int64_list" if is_int else "bytes_list"
        found = feature.WhichOneof("kind")
        # An empty list is written without its kind by some writers.
        if found != wanted and not (field.type is np.ndarray and found is None):
            raise ValueError(
                f"Feature {field.name!r} holds {found}, not {wanted}: expected {cls._what()}."
            )
        values = getattr(feature, wanted).value
        if field.type is np.ndarray:
            return np.asarray(values, np.int64)
        if len(values) != 1:
            raise ValueError(
                f"Feature {field.name!r} holds {len(values)} values, not 1: expected {cls._what()}."
            )
        value = values[0]
        if field.type in (int, bytes):
            return value
        where = f"Feature {field.name!r} of {cls._what()}"
        if field.type is not str and len(value) > MAX_JSON_BYTES:
            raise ValueError(f"{where}: {len(value):,} bytes.")
        try:
            text = value.decode("utf-8")
            parsed = text if field.type is str else json.loads(text)
        except RecursionError as error:
            raise ValueError(f"{where}: nested too deep.") from error
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            raise ValueError(f"{where}: {error}") from error
        if field.type is not str and not isinstance(parsed, dict):
            raise ValueError(f"{where} is not a JSON object.")
        return parsed

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_example() == other.to_example()

    def __hash__(self) -> int:
        return hash(self.to_example())


def _is_required(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


@dataclasses.dataclass(frozen=True, eq=False)
class ImageTextPair(Record):
    """An image and its caption: what `clean` writes and everything else starts from."""

    KIND: ClassVar[str] = "an image-text pair"
    MADE_BY: ClassVar[str] = "`parti clean`"

    key: str  # unique in the data set
    image: bytes  # the encoded image (PNG or JPEG once cleaned)
    text: str  # the caption; may be empty
    width: int = 0  # of the image, in pixels; 0 when not known
    height: int = 0  # of the image, in pixels; 0 when not known
    source: str = ""  # where the pair came from (a file or data set name)
    sha256: str = ""  # of the raw image's bytes, in hex; empty when not computed
    phash: str = ""  # perceptual hash of the image, in hex; empty when not computed
    # Anything that JSON can hold; `captions` may list more captions
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizedPair(Record):
    """An image as codebook indices and its caption: what the text-to-image model trains on."""

    KIND: ClassVar[str] = "a tokenized pair"
    MADE_BY: ClassVar[str] = "`parti tokenize`"

    key: str  # the pair's key
    text: str  # the caption
    image_tokens: np.ndarray  # [length] int32, codebook indices in [0, codebook_size), raster order
    # The pair's metadata; `captions` may list more captions
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens = np.asarray(self.image_tokens)
        if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind not in "iu"):
            raise ValueError(
                f"image_tokens of {self.key!r}: {tokens.dtype} of shape {tokens.shape}; "
                "give one row of integers in raster order."
            )
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < 2**31:
            raise ValueError(
                f"image_tokens of {self.key!r} run from {tokens.min()} to {tokens.max()}; "
                "codebook indices start at 0 and fit in 31 bits."
            )
        object.__setattr__(self, IMAGE_TOKENS, tokens.astype(np.int32))


@dataclasses.dataclass(frozen=True, eq=False)
class ReconstructedPair(Record):
    """An image and the image tokenizer's reconstruction of it: what the upsampler trains on.

    Both are PNG: `image` at high resolution, `reconstruction` at the tokenizer's own.
    """

    KIND: ClassVar[str] = "a reconstructed pair"
    MADE_BY: ClassVar[str] = "`parti tokenize --write_reconstructions`"

    key: str
    text: str
    image: bytes
    reconstruction: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Original(Record):
    """What a URL gave: an image as it came, or the reason why there is none."""

    KIND: ClassVar[str] = "a fetched image"
    MADE_BY: ClassVar[str] = "`parti clean --keep_originals`"

    url: str
    image: bytes = b""
    reason: str = ""  # one of those of rejected rows; empty if there is an image
    measure: str = ""  # the value that decided, as text


@dataclasses.dataclass(frozen=True)
class Generation:
    """One generated image: a line of a generations manifest."""

    prompt_id: str  # the prompt's id, as in the prompt file
    prompt: str  # the text
    sample_index: int  # from 0; with the seed and the prompt it decides the image
    rank: int  # 0 is the best sample of its prompt; the sample index when nothing reranked
    score: float | None  # the reranker's; higher is better; None when nothing reranked
    seed: int  # of the run
    image: str  # path of the image, relative to the manifest
    # Every setting and fingerprint that shaped the image
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)  # the prompt's metadata
    is_truncated: bool = False  # whether the text is longer than the generator reads

    def to_json(self) -> str:
        """Returns one line of JSON; ValueError: the score is not finite."""
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"Score of {self.image!r} is {self.score}; it must be finite or None.")
        return _json(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Generation":
        """Reads a line, mended; ValueError: not JSON, or fields are missing, unknown or wrong."""
        problem = "Not a line of a generations manifest"
        try:
            values = json_text.mend(json_text.parse(line))
        except ValueError as error:
            raise ValueError(f"{problem}: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{problem}: not a JSON object.")
        fields = dataclasses.fields(cls)
        missing = [f.name for f in fields if _is_required(f) and f.name not in values]
        unknown = sorted(set(values) - {f.name for f in fields})
        if missing or unknown:
            raise ValueError(
                f"{problem} (made by `parti generate`): missing fields {missing}, unknown fields "
                f"{unknown}."
            )
        for field in fields:
            kinds: Any = dict if field.type == dict[str, Any] else field.type
            kinds = kinds | int if field.name == "score" else kinds
            if field.name in values and not isinstance(values[field.name], kinds):
                raise ValueError(f"{problem}: {field.name} is {values[field.name]!r}.")
        return cls(**values)
