# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The contract of every trained model, and the one bridge from Flax axis names to T5X's.

`Model` is what an engine trains. Its method names, arguments and results are those that T5X calls
(t5x: t5x/trainer.py), so the embedded engine and real T5X take the same object. A model holds no
optimizer and no parameters. `ImageTokenizer`, `Generator`, `Reranker` and `Upsampler` are the roles
of a trained model in a bundle: what the rest of the system calls and reads, and no more.

Training and evaluation take `params` and, apart from them, the mutable collections as
`flax_mutables` (None if there are none), as T5X does. Use takes one `variables`, which
`join_variables(params, flax_mutables)` makes: `encode`, `decode`, `sample`, `image_embeddings`,
`text_embeddings`, `score`, `upsample`.
"""

import abc
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from flax import traverse_util
from flax.core import FrozenDict, freeze, meta, unfreeze
from flax.linen import partitioning as flax_partitioning

Array = jax.Array
Batch = Mapping[str, Array]
Metrics = dict[str, clu_metrics.Metric]
PyTree = Any
Variables = Mapping[str, PyTree]  # {collection: tree}, `params` among them


def split_boxes(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a tree of arrays and `nn.LogicallyPartitioned` boxes into arrays and logical axes.

    Returns:
      The tree of arrays, and T5X's tree of axes: for each leaf `name`, a leaf `name_axes` with
      `flax.linen.partitioning.AxisMetadata`; an unboxed leaf has no axis name in any dimension.
    """
    plain, axes = {}, {}
    for path, leaf in traverse_util.flatten_dict(unfreeze(tree)).items():
        names: tuple[str | None, ...]
        if isinstance(leaf, meta.AxisMetadata):
            names = tuple(leaf.names)
            plain[path] = leaf.unbox(apply_constraint=False)
        else:
            names = (None,) * leaf.ndim
            plain[path] = leaf
        if len(names) != plain[path].ndim:
            raise ValueError(
                f"parameter {'/'.join(path)} has shape {plain[path].shape} but axis names {names}; "
                "give one name (or None) per dimension in nn.with_logical_partitioning"
            )
        axis_path = (*path[:-1], f"{path[-1]}_axes")
        axes[axis_path] = flax_partitioning.AxisMetadata(names=names)
    return traverse_util.unflatten_dict(plain), traverse_util.unflatten_dict(axes)


def logical_axes(variables: Mapping[str, Any]) -> dict[str, dict[tuple[str, ...], tuple[Any, ...]]]:
    """Returns {collection: {path: axis names}} of what `Model.get_initial_variables` gives."""
    return {
        collection.removesuffix("_axes"): {
            (*key[:-1], key[-1].removesuffix("_axes")): tuple(axes.names)
            for key, axes in traverse_util.flatten_dict(tree).items()
        }
        for collection, tree in variables.items()
        if collection.endswith("_axes")
    }


def average(total: Array, count: Array | float) -> clu_metrics.Average:
    """Returns the metric `total / count`; merging two adds totals and counts."""
    return clu_metrics.Average(
        total=jnp.asarray(total, jnp.float32), count=jnp.asarray(count, jnp.float32)
    )


def per_example(total: Array, batch_size: int) -> clu_metrics.Average:
    """Returns the metric of a batch mean, weighted by the batch's size when merged."""
    return average(total * batch_size, float(batch_size))


def new_mutables(old: PyTree, stats: Mapping[str, Any]) -> PyTree:
    """Returns `{'stats': stats}` of the type of the old mutables: T5X wants back what it gave."""
    new = {"stats": dict(stats)}
    return freeze(new) if isinstance(old, FrozenDict) else new


def join_variables(params: PyTree, flax_mutables: PyTree | None = None) -> dict[str, PyTree]:
    """Returns `{'params': params, **flax_mutables}`."""
    return {"params": params, **(flax_mutables or {})}


def without_branches(variables: Variables, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns collections without the top-level branches of these names, such as
    `Model.training_only`; not every collection need have them, and nothing is copied."""
    return {
        collection: {name: branch for name, branch in tree.items() if name not in names}
        for collection, tree in variables.items()
    }


def check_images(images: Array, size: int | None = None, name: str = "images") -> None:
    """Raises ValueError unless images are floats [batch, height, width, 3].

    `size` is the height and width that the model takes, in pixels; None is any.
    """
    sides = ("height", "width") if size is None else (size, size)
    if images.ndim != 4 or images.shape[-1] != 3 or (size and images.shape[1:3] != sides):
        hint = ": resize them (parti.data.images)" if size else ""
        raise ValueError(
            f"{name} have shape {tuple(images.shape)}; this model takes "
            f"[batch, {sides[0]}, {sides[1]}, 3]{hint}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"{name} are {images.dtype}; give floats in [-1, 1] (parti.data.images.images.to_float)"
        )


def check_tokens(
    tokens: Array, length: int, num_ids: int, name: str, *, padded: bool = True
) -> None:
    """Raises ValueError unless token ids are integers [batch, length] in [0, num_ids).

    If `padded`, the model pads what is shorter. Only a concrete array has a range: under jit, where
    ids are traced, `check_token_range` is for the caller.
    """
    fits = tokens.ndim == 2 and (tokens.shape[1] == length or padded and tokens.shape[1] < length)
    if not fits:
        takes = f"[batch, length] of at most {length}" if padded else f"[batch, {length}]"
        raise ValueError(
            f"{name} have shape {tuple(tokens.shape)}; this model takes {takes} tokens: "
            + ("truncate them" if padded else "they are of a model of another size")
        )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"{name} are {tokens.dtype}; give integers")
    if not isinstance(tokens, jax.core.Tracer):
        check_token_range(np.asarray(tokens), num_ids, name)


def check_token_range(tokens: np.ndarray, num_ids: int, name: str) -> None:
    """Raises ValueError, on the host, unless token ids [...] are in [0, num_ids).

    A device raises no error: `jnp.take` fills NaN for an id past the table and wraps a negative
    one. The message names the id and its position in the array `name`.
    """
    tokens = np.asarray(tokens)
    wrong = np.argwhere((tokens < 0) | (tokens >= num_ids))
    if len(wrong):
        index = tuple(wrong[0].tolist())
        raise ValueError(
            f"{name}{list(index)} is {tokens[index]}, but this model knows 0 to {num_ids - 1}: "
            "the data were made with another vocabulary or image tokenizer, or still have the "
            "offset of 1 of an image token's id; make them with those of this model"
        )


class Summaries(NamedTuple):
    """What a model shows of itself on a batch, by name."""

    scalars: Mapping[str, Array] = {}  # too expensive to compute at each step
    histograms: Mapping[str, Array] = {}  # [n], values whose distribution matters
    pictures: Mapping[str, Array] = {}  # [rows, columns, height, width, 3] in [-1, 1]; get clipped
    # What is printed beside the rows of the pictures of that name: {who says it: text ids [rows,
    # length] int32}
    texts: Mapping[str, Mapping[str, Array]] = {}


class Model(abc.ABC):
    """What an engine needs of a model in training."""

    feature_converter: ClassVar[str]  # a class in `parti.tasks.feature_converters`
    # Batch feature -> dtype name; for engines that give no `input_types`
    feature_types: ClassVar[Mapping[str, str]]
    # Whether `loss_fn` returns a mean over the batch, not a sum. T5X adds up gradients over
    # microbatches and does not divide.
    loss_is_mean: ClassVar[bool] = True
    # Whether the loss compares the examples of a batch, as a contrastive loss does: the mean over
    # microbatches would be another loss
    compares_examples: ClassVar[bool] = False
    # Top-level branches of the variables that only training reads, such as a discriminator. What is
    # loaded or exported comes without them, and fingerprints are of the rest: a training, its
    # bundle and tokens made with either agree.
    training_only: ClassVar[tuple[str, ...]] = ()

    # True if there are collections besides `params`. Then `loss_fn` also returns new ones.
    has_mutables: bool = False
    # Top-level branches of `params` that training leaves bitwise as they are. The loss gives them
    # no gradient; an engine keeps its optimizer, which may decay weights, off them.
    frozen: tuple[str, ...] = ()
    text_vocab_size: int | None = None  # text ids with embeddings; None if it reads no text
    # Batch feature of token ids -> how many ids the model knows
    num_ids: Mapping[str, int] = {}
    dtype: str = "float32"  # of the computation; the peak FLOPs of a device depend on it
    # As of `layers.transformer.StackConfig`; None if the model has no such choice
    remat: str | None = None
    # In how many parts, one after another, a loss that compares examples computes a batch, without
    # becoming another loss (`layers.gradient_cache`); None if the model has no such choice
    loss_parts: int | None = None
    # Of a pipeline through the layers; 1 is none
    pipeline_stages: int = 1
    pipeline_microbatches: int = 1
    _constants: PyTree = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines that a log of a training should have."""
        return ()

    @property
    def constants(self) -> PyTree:
        """Arrays that the loss reads and nothing trains, such as a perceptual network's.

        They belong to no checkpoint. Traced as they are, they are compiled into the program; so an
        engine puts them on its devices once, passes them to the jitted step, and calls
        `with_constants` inside.
        """
        if self._constants is None:
            self._constants = self.load_constants()
        return self._constants

    def load_constants(self) -> PyTree:
        """Returns the constants as numpy arrays; OSError, ValueError: a file cannot be read.

        `constants` calls it at most once.
        """
        return {}

    def with_constants(self, constants: PyTree) -> Self:
        """Returns this model with other arrays, perhaps traced ones, as its constants."""
        model = copy.copy(self)
        model._constants = constants
        return model

    @property
    def without_pipeline(self) -> Self:
        """This model without a pipeline through its layers, whose stages idle at its ends."""
        return self

    @property
    def FEATURE_CONVERTER_CLS(self) -> Any:  # noqa: N802 (T5X's name)
        """The seqio feature converter class; imports seqio and TensorFlow on first use."""
        from parti.tasks import feature_converters

        return getattr(feature_converters, self.feature_converter)

    @abc.abstractmethod
    def init_variables(self, rng: Array, batch: Batch) -> Mapping[str, PyTree]:
        """Returns the network's `init` result (boxed) for a batch of zeros."""

    def get_initial_variables(
        self,
        rng: Array,
        input_shapes: Mapping[str, tuple[int, ...]],
        input_types: Mapping[str, Any] | None = None,
    ) -> dict[str, PyTree]:
        """Initialises the variables for batches of these shapes and types, by feature.

        Returns:
          `{'params': ..., 'params_axes': ...}` and the same pair for each other collection.

        Raises:
          ValueError: A feature of the batch is missing.
        """
        missing = sorted(set(self.feature_types) - set(input_shapes))
        if missing:
            raise ValueError(
                f"{type(self).__name__} needs the batch features {sorted(self.feature_types)}; "
                f"{missing} missing from {sorted(input_shapes)}: use a task and feature "
                f"converter ({self.feature_converter}) of this model"
            )
        types = {**self.feature_types, **(input_types or {})}
        batch = {k: jnp.zeros(input_shapes[k], types[k]) for k in self.feature_types}
        result = {}
        for collection, tree in self.init_variables(rng, batch).items():
            result[collection], result[f"{collection}_axes"] = split_boxes(tree)
        return result

    def check_batch(self, batch: Mapping[str, np.ndarray]) -> None:
        """Raises ValueError, on the host, for a token id of a batch that is out of range."""
        for name, num_ids in self.num_ids.items():
            check_token_range(batch[name], num_ids, name)

    @abc.abstractmethod
    def loss_fn(
        self,
        params: PyTree,
        batch: Batch,
        dropout_rng: Array | None,
        flax_mutables: PyTree | None = None,
    ) -> tuple[Array, Any]:
        """Returns (mean loss, metrics) of a batch.

        With mutable collections it is (mean loss, (metrics, new flax_mutables of the type that was
        given)). A `dropout_rng` of None is no dropout, and leaves the mutables as they are.
        """

    def eval_fn(
        self, params: PyTree, batch: Batch, flax_mutables: PyTree | None = None
    ) -> tuple[Array, Metrics]:
        """Returns the mean loss and the metrics of a batch, without dropout."""
        if not self.has_mutables:
            return self.loss_fn(params, batch, None)
        loss, (metrics, _) = self.loss_fn(params, batch, None, flax_mutables)
        return loss, metrics

    def summaries(
        self, params: PyTree, batch: Batch, flax_mutables: PyTree | None = None
    ) -> Summaries:
        """Returns what an engine shows at each evaluation, of its first batch; nothing here."""
        return Summaries()

    def predict_batch(
        self,
        params: PyTree,
        batch: Batch,
        rng: Array | None = None,
        flax_mutables: PyTree | None = None,
    ) -> PyTree:
        """Returns the model's outputs for a batch (the family's module says which)."""
        raise NotImplementedError(f"{type(self).__name__} has no predictions")

    def predict_batch_with_aux(
        self,
        params: PyTree,
        batch: Batch,
        rng: Array | None = None,
        flax_mutables: PyTree | None = None,
    ) -> tuple[PyTree, dict[str, PyTree]]:
        """Returns `predict_batch` and an empty dict of auxiliary outputs."""
        return self.predict_batch(params, batch, rng, flax_mutables), {}

    def score_batch(
        self, params: PyTree, batch: Batch, flax_mutables: PyTree | None = None
    ) -> Array:
        """Returns one score per example, [batch]; higher is better."""
        raise NotImplementedError(f"{type(self).__name__} has no scores")

    def num_params(self, input_shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Returns the number of parameters; computes shapes only."""
        initial = functools.partial(self.get_initial_variables, input_shapes=input_shapes)
        params = jax.eval_shape(lambda rng: initial(rng)["params"], jax.random.PRNGKey(0))
        return sum(leaf.size for leaf in jax.tree.leaves(params))


class DualEncoder(Model):
    """A model that embeds images and texts in one space.

    Its network does, by the methods `embed_images` and `embed_texts`.
    """

    network: Any
    image_size: int  # height and width of an image, in pixels
    text_length: int  # the longest text, in tokens
    text_vocab_size: int

    def image_embeddings(self, variables: Variables, images: Array) -> Array:
        """Maps [batch, image_size, image_size, 3] in [-1, 1] to [batch, embedding_dim], unit norm.

        Raises:
          ValueError: the images have the wrong size or type.
        """
        check_images(images, self.image_size)
        return self._apply(variables, "embed_images", images)

    def text_embeddings(self, variables: Variables, text_tokens: Array) -> Array:
        """Maps [batch, length] int32 to [batch, embedding_dim], unit norm.

        The length is at most `text_length`; 0 is padding, and how much of it makes no difference.

        Raises:
          ValueError: the tokens have the wrong shape or type or, outside of jit, are out of range.
        """
        self._check_tokens(text_tokens)
        return self._apply(variables, "embed_texts", text_tokens)

    def embed_pairs(
        self, variables: Variables, images: Array, text_tokens: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the cosine of each pair, [batch], and `image_embeddings`, `text_embeddings`."""
        embeddings = {
            "image_embeddings": self.image_embeddings(variables, images),
            "text_embeddings": self.text_embeddings(variables, text_tokens),
        }
        return jnp.sum(jnp.multiply(*embeddings.values()), axis=-1), embeddings

    def score(self, variables: Variables, images: Array, text_tokens: Array) -> Array:
        """Returns how well each image fits its text: their cosine, [batch], in [-1, 1]."""
        return self.embed_pairs(variables, images, text_tokens)[0]

    def score_batch(
        self, params: PyTree, batch: Batch, flax_mutables: PyTree | None = None
    ) -> Array:
        """Returns the cosine of each pair, [batch]."""
        return self.score({"params": params}, batch["images"], batch["text_tokens"])

    def _apply(self, variables: Variables, method: str, *arrays: Any) -> Any:
        return self.network.apply({"params": variables["params"]}, *arrays, method=method)

    def _check_tokens(self, tokens: Array, name: str = "text_tokens") -> None:
        check_tokens(tokens, self.text_length, self.text_vocab_size, name)


@runtime_checkable
class ImageTokenizer(Protocol):
    """Turns images into tokens and back."""

    image_size: int  # height and width of an image, in pixels
    grid_size: int  # tokens along one side of an image; an image is `grid_size ** 2` tokens
    codebook_size: int  # tokens are in [0, codebook_size)
    encoding_branches: tuple[str, ...]  # top-level branches of the variables that `encode` reads

    @property
    def encoding_settings(self) -> dict[str, Any]:
        """What tokens depend on besides `encoding_branches`, as JSON values.

        Tokenizers that agree in both make the same tokens.
        """

    def encode(self, variables: Variables, images: Array) -> Array:
        """Maps [batch, height, width, 3] in [-1, 1] to [batch, length] int32, raster order."""

    def decode(self, variables: Variables, image_tokens: Array) -> Array:
        """Maps [batch, length] integers to images [batch, height, width, 3] in [-1, 1]."""


@runtime_checkable
class Generator(Protocol):
    """Draws image tokens for captions."""

    text_vocab_size: int  # text ids are in [0, text_vocab_size)
    text_length: int  # tokens of a caption, padding included
    grid_size: int  # of the image tokenizer whose tokens it draws, as `codebook_size`
    codebook_size: int

    @property
    def unrolled(self) -> Self:
        """This model with each layer's parameters apart, as `sample` uses them.

        With stacked ones it draws the same, but takes them apart first, which copies them.
        """

    def num_steps(self, settings: Any, num_samples: int) -> int:
        """Returns how many steps, one after another, draw the samples of a prompt.

        Raises:
          ValueError: settings with which it cannot draw.
        """

    def sample(
        self,
        variables: Variables,
        text_tokens: Array,
        sample_keys: Array,
        settings: Any = None,
        on_step: Callable[[Array, Array, Array], None] | None = None,
    ) -> Array:
        """Draws [prompts, samples, grid_size ** 2] int32 in [0, codebook_size), raster order.

        Args:
          text_tokens: [prompts, text_length] int32, 0 is padding.
          sample_keys: [prompts, samples, 2] uint32, a key per image.
          settings: How a token is chosen: static and hashable, for all prompts; or a tree of arrays
            with a row for each prompt, whose values share one program; None is the model's own.
          on_step: The host's, called with what each step drew (`sampling.sample`).
        """


@runtime_checkable
class Reranker(Protocol):
    """Embeds images and texts in one space; the cosine says how well they fit."""

    image_size: int  # height and width of an image, in pixels
    text_vocab_size: int  # text ids are in [0, text_vocab_size)
    text_length: int  # the longest text, in tokens

    def image_embeddings(self, variables: Variables, images: Array) -> Array:
        """Maps [batch, height, width, 3] in [-1, 1] to [batch, embed], unit norm."""

    def text_embeddings(self, variables: Variables, text_tokens: Array) -> Array:
        """Maps [batch, length] int32, 0 is padding, to [batch, embed], unit norm."""


@runtime_checkable
class Captioner(Protocol):
    """Knows how likely a caption is for an image; a `Reranker` with captions also ranks by that."""

    has_captions: bool  # False: it is built without the half that these methods need

    def logit_scale(self, variables: Variables) -> Array:
        """Returns by what a `Reranker`'s cosines are multiplied to be in nats too, a scalar."""

    def caption_log_likelihood(
        self, variables: Variables, images: Array, text_tokens: Array
    ) -> tuple[Array, Array]:
        """Returns log p(text | image) of each pair in nats, [batch]: in all, and per token."""

    def caption(self, variables: Variables, images: Array) -> Array:
        """Maps [batch, height, width, 3] in [-1, 1] to likely captions, [batch, length] int32."""


@runtime_checkable
class Upsampler(Protocol):
    """Enlarges images."""

    scale: int  # the factor between the sides of the output and the input
    config: Any  # the `super_resolution.network.SuperResolutionConfig` that `tiling` takes

    def upsample(self, variables: Variables, images: Array) -> Array:
        """Maps [batch, height, width, 3] to [batch, s height, s width, 3], both in [-1, 1]."""
