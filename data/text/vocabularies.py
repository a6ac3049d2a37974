# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The two vocabularies: SentencePiece text, and the image tokens shifted past the padding id.

Text ids: 0 padding, 1 end of text, 2 unknown, 3 `<mask>`, then the user's symbols, the sentinels,
256 bytes (unless there is no byte fallback) and the pieces. `<mask>` is for BERT (`tasks/bert.py`);
the sentinels are reserved for span corruption, which no task of this project uses yet.
"""

import dataclasses
import functools
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from parti.stages import files

if TYPE_CHECKING:
    import seqio

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2
MASK_PIECE = "<mask>"

MODEL_TYPES = ("bpe", "unigram")

_SYMBOL = re.compile("<[a-z][a-z0-9_]*>")
_TAKEN = ("<pad>", "<unk>", "<s>")
_MAX_SENTENCE_BYTES = 2**16  # a longer one is skipped; readers let none through

# Vocabulary-sized dimensions are sharded: a multiple of this divides by any mesh axis in use.
_VOCAB_MULTIPLE = 128


def padded_size(num_ids: int) -> int:
    """Returns the rows of a table of `num_ids` entries, filler included: a multiple of 128."""
    return -(-num_ids // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE


@dataclasses.dataclass(frozen=True)
class SentencePieceSettings:
    """How a SentencePiece model is learnt."""

    vocab_size: int = 16_000  # pieces at most; a small corpus gives fewer
    model_type: str = "bpe"  # `bpe` or `unigram`
    # The share of the characters in the captions, counted as often as they occur, that get a
    # piece of their own; in (0, 1]. The rarest others are spelled.
    character_coverage: float = 0.9995
    # Spell a character without a piece in UTF-8 bytes, which takes 256 pieces; without it, it is
    # the unknown piece, and lost
    byte_fallback: bool = True
    # Pieces that no caption is split over and that training objectives may use: ids from 4 on,
    # after `<mask>`. Each is `<name>`; `normalize_caption` takes such marks out of text.
    symbols: tuple[str, ...] = ()
    num_sentinels: int = 0  # adds the symbols `<extra_id_0>`, `<extra_id_1>`, ..., as T5 names them

    def __post_init__(self) -> None:
        if self.vocab_size < 1:
            raise ValueError(f"vocab_size={self.vocab_size}: give a positive number.")
        if self.model_type not in MODEL_TYPES:
            raise ValueError(f"model_type={self.model_type!r}: it must be one of {MODEL_TYPES}.")
        if not 0 < self.character_coverage <= 1:
            raise ValueError(
                f"character_coverage={self.character_coverage}: give a share over 0 and up to 1."
            )
        if self.num_sentinels < 0:
            raise ValueError(f"num_sentinels={self.num_sentinels}: give 0 or more.")
        for symbol in self.symbols:
            if not _SYMBOL.fullmatch(symbol) or symbol in _TAKEN:
                raise ValueError(
                    f"symbols={symbol!r}: write <name>, of lower-case letters, digits and _, and "
                    f"not one of {', '.join(_TAKEN)}."
                )
            if self.all_symbols.count(symbol) > 1:
                raise ValueError(
                    f"symbols={symbol!r}: it is there twice; {MASK_PIECE} and the sentinels "
                    "need not be given."
                )

    @property
    def all_symbols(self) -> tuple[str, ...]:
        """The pieces with the ids from 3 on: `<mask>`, the symbols, the sentinels."""
        sentinels = (f"<extra_id_{i}>" for i in range(self.num_sentinels))
        return (MASK_PIECE, *self.symbols, *sentinels)


def train_sentencepiece(
    sentences: Iterable[str | tuple[str, int]],
    output: files.Path,
    settings: SentencePieceSettings,
) -> int:
    """Trains a SentencePiece model and returns how many pieces it has.

    The same sentences and settings give the same bytes. The default is BPE, which merges what
    occurs most often. Unigram takes its first pieces from the set of distinct words, so that a
    small vocabulary of a small world fits it less well.

    Args:
      sentences: the captions, all held in memory, alone or with how often each counts (at least
        1); empty ones are skipped.
      output: the file to write; its directory must exist.

    Raises:
      ValueError: no sentence, or too small a `vocab_size` for symbols, bytes and characters.
    """
    import sentencepiece

    model = io.BytesIO()
    count = 0

    def lines() -> Iterator[str]:
        nonlocal count
        for sentence in sentences:
            text, times = (sentence, 1) if isinstance(sentence, str) else sentence
            # SentencePiece takes a newline for the end of a sentence.
            if text := " ".join(text.split()):
                count += 1
                yield f"{text}\t{times}"

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            input_format="tsv",
            model_writer=model,
            model_type=settings.model_type,
            vocab_size=settings.vocab_size,
            hard_vocab_limit=False,
            character_coverage=settings.character_coverage,
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            bos_id=-1,
            byte_fallback=settings.byte_fallback,
            user_defined_symbols=list(settings.all_symbols),
            max_sentence_length=_MAX_SENTENCE_BYTES,
            # Sums of probabilities depend on how sentences fall to threads, hence a fixed number.
            num_threads=4,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        if not count:
            raise ValueError("No captions to learn a vocabulary from; all are empty.") from error
        num_special = 3 + len(settings.all_symbols) + 256 * settings.byte_fallback
        raise ValueError(
            f"SentencePiece could not learn vocab_size={settings.vocab_size} from {count} "
            f"captions ({error}); this vocabulary holds {num_special} special pieces and each "
            "character, so give a larger size."
        ) from error
    files.write_bytes(output, model.getvalue())
    return TextTokenizer(output).vocab_size


def model_path(address: files.Path) -> str:
    """Returns the address of a model file; a folder made by `parti vocab` stands for its model.

    Raises:
      FileNotFoundError: there is none.
    """
    path = os.fspath(address)
    if files.is_dir(path):
        path = files.join(path, "vocabulary.model")
    if not files.exists(path):
        folder = files.parent(path) if files.is_remote(path) else os.path.dirname(path) or "."
        raise FileNotFoundError(
            f"No SentencePiece model {path!r}; make one with "
            f"`parti vocab --input PATTERN --output {folder}`."
        )
    return path


class TextTokenizer:
    """Captions to ids and back, without TensorFlow; ids equal `seqio_text_vocabulary`'s.

    Example, with a model that has the pieces `▁a` (300) and `▁cat` (301):

        encode("a cat", 5) == [300, 301, 1, 0, 0]
        encode("a cat", 2) == [300, 1]
        encode("", 5)      == [1, 0, 0, 0, 0]      the null caption, for guidance
    """

    def __init__(self, address: files.Path) -> None:
        """Loads a model; FileNotFoundError: there is none; ValueError: not of this project."""
        import sentencepiece

        path = model_path(address)
        data = files.read_bytes(path)
        try:
            self._model = sentencepiece.SentencePieceProcessor()
            self._model.LoadFromSerializedProto(data)  # as an argument, nothing is no model at all
        except RuntimeError as error:
            raise ValueError(f"{path!r} is not a SentencePiece model.") from error
        ids = self._model.pad_id(), self._model.eos_id(), self._model.unk_id()
        if ids != (PAD_ID, EOS_ID, UNK_ID):
            raise ValueError(
                f"{path!r} has pad, eos, unk ids {ids}; they must be "
                f"{(PAD_ID, EOS_ID, UNK_ID)}: make the model with `parti vocab`."
            )
        self.fingerprint = hashlib.sha256(data).hexdigest()  # of the model file

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return self._model.get_piece_size()

    def symbol_id(self, symbol: str) -> int:
        """Returns the id of a symbol, e.g. `<extra_id_0>`; ValueError: the vocabulary lacks it."""
        if (index := self._model.piece_to_id(symbol)) == UNK_ID:
            raise ValueError(
                f"The vocabulary has no {symbol!r}; make it with `parti vocab --symbols` or "
                "`--num_sentinels`."
            )
        return index

    def encode(self, text: str, length: int) -> np.ndarray:
        """Returns [length] int32: the ids of a caption, cut to `length` - 1, an EOS, and padding.

        The empty text is the null caption. ValueError: `length` is under 1.
        """
        if length < 1:
            raise ValueError(f"length={length}: there must be room for the EOS.")
        ids = self._model.encode(text)[: length - 1] + [EOS_ID]
        return np.array(ids + [PAD_ID] * (length - len(ids)), np.int32)

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of `ids` ([length] int) up to the first EOS or padding."""
        values = [int(i) for i in ids]
        end = next((n for n, i in enumerate(values) if i in (PAD_ID, EOS_ID)), len(values))
        return self._model.decode(values[:end])


@functools.lru_cache(maxsize=8)
def _cached_vocabulary(path: str, fingerprint: str) -> Any:
    del fingerprint  # part of the key: a file that was written anew is read anew
    import seqio

    with files.local_copy(path) as local:
        vocabulary = seqio.SentencePieceVocabulary(local)
        vocabulary.load_model()  # seqio keeps it, for copies of the vocabulary, too
    return vocabulary


def seqio_text_vocabulary(address: files.Path) -> "seqio.SentencePieceVocabulary":
    """Returns the vocabulary for seqio features (imports TensorFlow); errors as `TextTokenizer`."""
    path = model_path(address)
    return _cached_vocabulary(path, TextTokenizer(path).fingerprint)


class ImageTokenVocabulary:
    """Codebook indices to model ids and back: index c is id c + 1, id 0 is padding."""

    def __init__(self, codebook_size: int) -> None:
        if codebook_size < 1:
            raise ValueError(f"codebook_size={codebook_size}: it must be at least 1.")
        self.codebook_size = codebook_size

    @property
    def vocab_size(self) -> int:
        """The number of ids with padding, rounded up to a multiple of 128."""
        return padded_size(self.codebook_size + 1)

    def to_ids(self, tokens: Any) -> Any:
        """Returns ids in [1, codebook_size] for codebook indices (any array type)."""
        return tokens + 1

    def to_tokens(self, ids: Any) -> Any:
        """Returns codebook indices for ids in [1, codebook_size] (any array type)."""
        return ids - 1
