# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The weights file of the perceptual network, and how published files become one.

Layout: a .safetensors or .npz file of float32 arrays, `conv1_1.kernel` [3, 3, in, out] and
`conv1_1.bias` [out] to `conv5_3`, and `head1.weight` [64] to `head5.weight` [512], all or none of
the heads. Shapes are those of `network.shapes()`.

Conversion reads .safetensors and .npz with these names (any prefix before them; kernels are
[out, in, 3, 3]). PyTorch's own files are pickles, which may run anything, and are not read:
PYTORCH_COMMAND makes a .safetensors of one.

    features.N.weight, features.N.bias    torchvision and timm; also N.weight alone
    net.sliceM.N.weight, ....bias         the whole of the lpips or torchmetrics package's LPIPS
    linK.model.1.weight [1, C, 1, 1]      the heads of the lpips package, K from 0 to 4
"""

import hashlib
import io
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from parti.models.perceptual import network
from parti.stages import files

Path = str | os.PathLike[str]
Layers = dict[str, dict[str, np.ndarray]]

SUFFIXES = (".safetensors", ".npz")
# Where PyTorch is installed: what `torch.save` wrote to a file that this module reads.
PYTORCH_COMMAND = (
    'python -c "import sys, torch, safetensors.torch as s; '
    "s.save_file({k: v.clone().contiguous() for k, v in "
    "torch.load(sys.argv[1], 'cpu', weights_only=True).items()}, sys.argv[2])\" "
    "FILE.pth FILE.safetensors"
)
_PYTORCH_SUFFIXES = (".pth", ".pt", ".bin")
_FEATURE = re.compile(r"(?:^|\.)(?:features|slice\d)\.(\d+)\.(weight|bias)$|^(\d+)\.(weight|bias)$")
_HEAD = re.compile(r"(?:^|\.)lins?\.?(\d)\.model\.[01]\.weight$")
_HINT = "`parti perceptual --help` says how to make one"


class Weights(NamedTuple):
    """What a weights file holds, and its sha256 in hex."""

    layers: Layers  # see `network`; `head1` to `head5` may be missing
    sha256: str

    @property
    def has_heads(self) -> bool:
        """Whether the heads of LPIPS are there."""
        return "head1" in self.layers


class Published(NamedTuple):
    """A file of somebody else's layout, and its sha256 in hex."""

    path: str
    tensors: dict[str, np.ndarray]  # by the name in the file
    sha256: str


def read(path: Path) -> Weights:
    """Reads a weights file.

    Raises:
      OSError, ValueError: it cannot be read, is no weights file, or an array is missing or wrong.
    """
    check_suffix(path)
    try:
        data = files.read_bytes(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no perceptual weights file {path} (PERCEPTUAL_WEIGHTS); {_HINT}"
        ) from error
    arrays = _parse(path, data)
    expected = {f"{layer}.{key}" for layer, keys in network.shapes().items() for key in keys}
    if not expected & set(arrays):
        names = ", ".join(sorted(arrays)[:3])
        raise ValueError(f"{path} is no perceptual weights file (it has {names}); {_HINT}")
    if unknown := sorted(set(arrays) - expected):
        raise ValueError(f"{path} has the array {unknown[0]}, which is not in the layout; {_HINT}")
    layers: Layers = {}
    for name, array in arrays.items():
        layer, key = name.split(".")
        layers.setdefault(layer, {})[key] = array
    return Weights(check(layers, str(path)), hashlib.sha256(data).hexdigest())


def write(path: Path, layers: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Writes a weights file, whole or not at all; returns its sha256 in hex.

    ValueError: the suffix is neither .safetensors nor .npz, or an array is missing or wrong.
    """
    check_suffix(path)
    checked = check(layers, "what is to be written")
    arrays = {f"{layer}.{key}": a for layer, keys in checked.items() for key, a in keys.items()}
    if _suffix(path) == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        data = buffer.getvalue()
    else:
        data = safetensors.numpy.save(arrays)
    files.write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def check_suffix(path: Path) -> None:
    """Raises ValueError unless a path has the suffix of a file of arrays."""
    if _suffix(path) not in SUFFIXES:
        raise ValueError(f"{path}: a file of weights ends with {' or '.join(SUFFIXES)}; {_HINT}")


def read_published(path: Path, sha256: str = "") -> Published:
    """Reads a file of one of the published layouts; `sha256` in hex, or empty for any.

    Raises:
      OSError: the file cannot be read.
      ValueError: it has another sha256, is damaged, or is of no known format.
    """
    if _suffix(path) in _PYTORCH_SUFFIXES:
        raise ValueError(f"{path} is a PyTorch file; convert it with: {PYTORCH_COMMAND}")
    check_suffix(path)
    data = files.read_bytes(path)
    found = hashlib.sha256(data).hexdigest()
    if sha256 and sha256.lower() != found:
        raise ValueError(f"{path} has the sha256 {found}, not {sha256.lower()}: another file")
    return Published(str(path), _parse(path, data), found)


def convert(published: Sequence[Published]) -> Layers:
    """Gathers the layers of a weights file from files that together hold VGG16.

    The heads may be there; further arrays, such as the classifier's, are left out.

    Raises:
      ValueError: an array of VGG16 is missing, has another shape, or is given twice and differs;
        or the arrays are of another network.
    """
    layers: Layers = {}
    sources: dict[tuple[str, str], str] = {}
    for file in published:
        for name, array in file.tensors.items():
            target = _target(name, file.path)
            if target is None:
                continue
            source, (layer, key) = f"{name} of {file.path}", target
            converted = _to_layout(array, target, source)
            if target in sources and not np.array_equal(layers[layer][key], converted):
                raise ValueError(f"{source} differs from {sources[target]}; give only one of them")
            layers.setdefault(layer, {})[key] = converted
            sources[target] = source
    return check(layers, " and ".join(file.path for file in published))


def check(layers: Mapping[str, Mapping[str, np.ndarray]], source: str) -> Layers:
    """Returns the layers in float32 and in the network's order; `source` names them in messages.

    Raises:
      ValueError: an array is missing, of another shape, not of finite floats, or a head's weight
        is negative (then distances could be).
    """
    heads = {name for name in layers if name.startswith("head")}
    result: Layers = {}
    for layer, shapes in network.shapes().items():
        if layer.startswith("head") and not heads:
            continue
        for key, shape in shapes.items():
            name = f"{layer}.{key}"
            array = layers.get(layer, {}).get(key)
            if array is None:
                raise ValueError(f"{source}: {_published_name(layer, key)} is missing ({name})")
            if array.shape != shape:
                raise ValueError(f"{source}: {name} has shape {array.shape}, not {shape}")
            is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
            if not is_float or not np.all(np.isfinite(array)):
                raise ValueError(f"{source}: {name} ({array.dtype}) is not all finite floats")
            if layer in heads and np.any(array < 0):
                raise ValueError(f"{source}: {name} has negative weights; LPIPS has none")
            result.setdefault(layer, {})[key] = np.ascontiguousarray(array, np.float32)
    return result


def _parse(path: Path, data: bytes) -> dict[str, np.ndarray]:
    try:
        if _suffix(path) == ".safetensors":
            return safetensors.numpy.load(data)
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # each library has its own
        raise ValueError(f"{path}: {error or type(error).__name__}") from error


def _suffix(path: Path) -> str:
    return pathlib.PurePath(os.fspath(path)).suffix.lower()


def _indices() -> dict[int, str]:
    """Returns torchvision's index of each convolution: after each a ReLU, after blocks a pool."""
    result: dict[int, str] = {}
    index = 0
    for i, (_, count) in enumerate(network.BLOCKS, 1):
        result |= {index + 2 * j: f"conv{i}_{j + 1}" for j in range(count)}
        index += 2 * count + 1
    return result


def _target(name: str, path: str) -> tuple[str, str] | None:
    """Returns the layer and key of a published name; None if it is none of ours."""
    if match := _HEAD.search(name):
        layer = f"head{int(match[1]) + 1}"
        if layer not in network.shapes():
            raise ValueError(f"{path} has {name}; LPIPS on VGG16 has 5 heads: use those of VGG16")
        return layer, "weight"
    if match := _FEATURE.search(name):
        index, kind = int(match[1] or match[3]), match[2] or match[4]
        if index not in _indices():
            raise ValueError(
                f"{path} has {name}, which VGG16 has not: it is of another network (VGG16 with "
                "batch normalisation, VGG19, AlexNet?); use plain VGG16"
            )
        return _indices()[index], "kernel" if kind == "weight" else "bias"
    return None


def _published_name(layer: str, key: str) -> str:
    """Returns what torchvision or lpips call an array."""
    if layer.startswith("head"):
        return f"lin{int(layer.removeprefix('head')) - 1}.model.1.weight"
    index = {name: i for i, name in _indices().items()}[layer]
    return f"features.{index}.{'weight' if key == 'kernel' else key}"


def _to_layout(array: np.ndarray, target: tuple[str, str], source: str) -> np.ndarray:
    layer, key = target
    shape = network.shapes()[layer][key]
    order: tuple[int, ...] = (0,)
    expected = shape
    if layer.startswith("head"):
        expected, order = (1, *shape, 1, 1), (1, 0, 2, 3)
    elif key == "kernel":
        expected, order = (shape[3], shape[2], shape[0], shape[1]), (2, 3, 1, 0)
    if array.shape != expected:
        raise ValueError(f"{source} has shape {array.shape}, not {expected}: not VGG16's")
    return array.transpose(order).reshape(shape)
