# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The two vocabularies: SentencePiece text, and the image tokens shifted past the padding id.

Text ids: 0 padding, 1 end of text, 2 unknown, 3 `<mask>` (for the BERT objective), then 256 bytes
and the pieces.
Image ids: 0 padding (and the start of decoding); codebook index c is id c + 1.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import seqio

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2
MASK_PIECE = "<mask>"

_MODEL_TYPES = ("bpe", "unigram")

# Vocabulary-sized dimensions are sharded: a multiple of this divides by any mesh axis in use.
_VOCAB_MULTIPLE = 128


def padded_size(num_ids: int) -> int:
    """Returns the rows of a table of `num_ids` entries, filler included: a multiple of 128."""
    return -(-num_ids // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE


def train_sentencepiece(
    sentences: Iterator[str],
    model_path: str | os.PathLike[str],
    vocab_size: int = 16_000,
    *,
    model_type: str = "bpe",
    max_sentences: int = 10_000_000,
    seed: int = 0,
) -> int:
    """Trains a SentencePiece model; the same sentences and settings give the same bytes.

    The default is BPE: it counts how often a word occurs. Unigram takes its first pieces from the
    set of distinct words, so that words of a small world ("circle") fall apart into letters.

    Args:
      sentences: the captions; empty ones are skipped.
      model_path: the file to write; its directory must exist.
      vocab_size: pieces at most; a small corpus gives fewer.
      model_type: `bpe` or `unigram`.
      max_sentences: of more sentences, a random sample of this size is used.
      seed: of that sample.

    Returns:
      The number of pieces in the model.

    Raises:
      ValueError: no sentence, an unknown type, or a `vocab_size` that does not hold the bytes and
        characters.
    """
    import sentencepiece

    if model_type not in _MODEL_TYPES:
        raise ValueError(f"model_type={model_type!r}: it must be one of {_MODEL_TYPES}.")
    model = _Bytes()
    counted = _NonEmpty(sentences)
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=counted,
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            bos_id=-1,
            byte_fallback=True,
            user_defined_symbols=[MASK_PIECE],
            input_sentence_size=max_sentences,
            shuffle_input_sentence=True,
            # Sums of probabilities depend on how sentences fall to threads, hence a fixed number.
            num_threads=4,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        if not counted.count:
            raise ValueError("No captions to learn a vocabulary from; all are empty.") from error
        raise ValueError(
            f"SentencePiece could not learn vocab_size={vocab_size} from {counted.count} captions "
            f"({error}); a vocabulary holds at least 260 special pieces and each character."
        ) from error
    path = pathlib.Path(model_path)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_bytes(model.data)
    unfinished.replace(path)
    return TextTokenizer(path).vocab_size


class _Bytes:
    """A file for SentencePiece's `model_writer`."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


class _NonEmpty:
    """Iterates over the sentences that hold text, and counts them."""

    def __init__(self, sentences: Iterator[str]) -> None:
        self._sentences = iter(sentences)
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for sentence in self._sentences:
            if sentence.strip():
                self.count += 1
                # SentencePiece takes a newline for the end of a sentence.
                return " ".join(sentence.split())
        raise StopIteration


def _model_path(model_path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a model file; a directory made by `parti vocab` stands for its model.

    Raises:
      FileNotFoundError: no such file.
    """
    path = pathlib.Path(model_path)
    if path.is_dir():
        path = path / "vocabulary.model"
    if not path.is_file():
        raise FileNotFoundError(
            f"No SentencePiece model {str(path)!r}; make one with "
            f"`parti vocab --input PATTERN --output {path.parent}`."
        )
    return path


class TextTokenizer:
    """Captions to ids and back, without TensorFlow; ids equal `seqio_text_vocabulary`'s.

    Example, with a model that has the pieces `▁a` (300) and `▁cat` (301):

        encode("a cat", 5) == [300, 301, 1, 0, 0]
        encode("a cat", 2) == [300, 1]
        encode("", 5)      == [1, 0, 0, 0, 0]      the null caption, for guidance
    """

    def __init__(self, model_path: str | os.PathLike[str]) -> None:
        """Loads a model.

        Args:
          model_path: the `.model` file or the directory that `parti vocab` wrote.

        Raises:
          FileNotFoundError: no such file.
          ValueError: not a SentencePiece model, or not one of this project's.
        """
        import sentencepiece

        path = _model_path(model_path)
        data = path.read_bytes()
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=data)
        except RuntimeError as error:
            raise ValueError(f"{str(path)!r} is not a SentencePiece model.") from error
        ids = self._model.pad_id(), self._model.eos_id(), self._model.unk_id()
        if ids != (PAD_ID, EOS_ID, UNK_ID):
            raise ValueError(
                f"{str(path)!r} has pad, eos, unk ids {ids}; they must be "
                f"{(PAD_ID, EOS_ID, UNK_ID)}: make the model with `parti vocab`."
            )
        self._fingerprint = hashlib.sha256(data).hexdigest()

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return self._model.get_piece_size()

    @property
    def fingerprint(self) -> str:
        """The sha256 of the model file, in hex."""
        return self._fingerprint

    @property
    def mask_id(self) -> int:
        """The id of the reserved piece `<mask>`."""
        return self._model.piece_to_id(MASK_PIECE)

    def encode(self, text: str, length: int) -> np.ndarray:
        """Returns the ids of a caption, cut to `length` - 1, an EOS, and padding.

        Args:
          text: the caption; the empty string is the null caption.
          length: at least 1.

        Returns:
          [length] int32.

        Raises:
          ValueError: `length` is under 1.
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

    return seqio.SentencePieceVocabulary(path)


def seqio_text_vocabulary(
    model_path: str | os.PathLike[str],
) -> "seqio.SentencePieceVocabulary":
    """Returns the vocabulary for seqio features (imports TensorFlow).

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a model of this project.
    """
    path = _model_path(model_path)
    return _cached_vocabulary(str(path), TextTokenizer(path).fingerprint)


class ImageTokenVocabulary:
    """Codebook indices to model ids and back: index c is id c + 1, id 0 is padding."""

    def __init__(self, codebook_size: int) -> None:
        """Checks the size.

        Raises:
          ValueError: `codebook_size` is under 1.
        """
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
