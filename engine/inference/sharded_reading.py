# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads a safetensors file onto a mesh, so that neither a device nor the host has all of it.

A file, local or at an address, is read once: one parameter after another by their names, of a
scanned stack one layer after another. The host holds one of these at a time, until its devices have
their parts of it in the dtype that they get.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from parti.engine.checkpoints import checkpoints
from parti.engine.inference import layouts
from parti.models.layers import quantization, transformer
from parti.stages import files

_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}
_AGAIN = "export the bundle again"


def load(
    path: files.Path,
    found: Mapping[layouts.Key, layouts.Leaf],
    placement: layouts.Placement,
    config: str,
) -> tuple[dict[str, Any], str]:
    """Returns the variables of a file, placed, and their fingerprint (see `checkpoints`).

    `found` says what of it is kept, and how; float kernels become int8 where it says so.

    Raises:
      ValueError: the file has other variables, or is damaged or cut off.
    """
    digest, arrays = checkpoints.Fingerprint(config), {}
    with files.open(path) as file:
        entries = _header(path, file)
        _check(path, entries, found)
        for name in sorted(entries):
            entry = entries[name]
            digest.begin(name, entry.dtype, entry.shape)
            file.seek(entry.begin)
            for key, shape in entry.layers.items():
                leaf = found[key]
                values = _read(path, file, entry.dtype, shape)
                digest.add(values)
                if leaf.inputs is not None and leaf.scales is not None:
                    values, scales = quantization.quantize(values.astype(np.float32), leaf.inputs)
                    arrays[quantization.SCALES, *key[1:]] = _put(scales, leaf.scales, placement)
                arrays[key] = _put(values, leaf, placement)
    return traverse_util.unflatten_dict(arrays), digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A variable of a file; its values begin at `begin`. `layers` are its parts' shapes."""

    type_name: str  # safetensors'
    shape: tuple[int, ...]
    begin: int
    layers: Mapping[layouts.Key, tuple[int, ...]]

    @property
    def dtype(self) -> np.dtype:
        """The type of its values."""
        return np.dtype(_DTYPES[self.type_name])


def _header(path: files.Path, file: BinaryIO) -> dict[str, _Entry]:
    """Returns the variables of a file by name.

    Raises:
      ValueError: the file is damaged, cut off or no safetensors file, or one is not of floats.
    """
    num_bytes, length = files.size(path), int.from_bytes(file.read(8), "little")
    begin = 8 + length
    if begin > num_bytes:  # also of a file of fewer than 8 bytes
        raise _damaged(path, f"{num_bytes} bytes, and its header would end at {begin}")
    text, entries, ends = file.read(length), {}, [begin]
    try:
        header = dict(json.loads(text))
        header.pop("__metadata__", None)
        for name, said in header.items():
            shape, dtype = tuple(map(int, said["shape"])), str(said["dtype"])
            first, end = map(int, said["data_offsets"])
            if not 0 <= first <= end:
                raise ValueError(f"{name} from byte {first} to {end}")
            layers = transformer.layer_shapes(tuple(name.split("/")), shape)
            entries[name] = _Entry(dtype, shape, begin + first, layers)
            ends.append(begin + end)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise _damaged(path, f"its header: {error!r}") from error
    if max(ends) != num_bytes:
        raise _damaged(path, f"{num_bytes} bytes, and by its header {max(ends)}")
    return entries


def _damaged(path: files.Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged ({why}); {_AGAIN}")


def _check(
    path: files.Path,
    entries: Mapping[str, _Entry],
    found: Mapping[layouts.Key, layouts.Leaf],
) -> None:
    """Raises ValueError unless a file has the variables that are wanted, in floats."""
    have = {key: shape for entry in entries.values() for key, shape in entry.layers.items()}
    want = {key: leaf.shape for key, leaf in found.items()}
    for name, entry in entries.items():
        if entry.type_name not in _DTYPES:
            raise ValueError(f"{path}: {name} is of {entry.type_name}, not of floats; {_AGAIN}")
    if differing := sorted(k for k in have.keys() | want.keys() if have.get(k) != want.get(k)):
        key = differing[0]
        raise ValueError(
            f"{path}: {'/'.join(key)} is {have.get(key)}, and of this model {want.get(key)}; "
            f"{_AGAIN}"
        )


def _read(path: files.Path, file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the next values of a file; raises ValueError if it ends before."""
    num_bytes = math.prod(shape) * dtype.itemsize
    data = file.read(num_bytes)
    if len(data) != num_bytes:
        raise _damaged(path, "it ends too early")
    return np.frombuffer(data, dtype).reshape(shape)


def _put(values: np.ndarray, leaf: layouts.Leaf, placement: layouts.Placement) -> jax.Array:
    """Puts the parts of a variable on their devices, and waits until they are there.

    The host keeps none of it: each part is a copy of its own.
    """
    return jax.block_until_ready(
        jax.make_array_from_callback(
            leaf.shape,
            leaf.placed(placement).sharding,
            lambda index: values[index].astype(leaf.dtype),
        )
    )
