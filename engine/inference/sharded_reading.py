# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads a safetensors file onto a mesh, so that neither a device nor the host has all of it.

A file, local or at an address, is read once: one parameter after another by their names, of a
scanned stack one layer after another. Of a parameter the host keeps what its own devices get, in
the dtype that they get, until they have it.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from parti.engine.checkpoints import checkpoints
from parti.engine.inference import layouts
from parti.models.layers import quantization
from parti.stages import files

_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}

Index = tuple[tuple[int, int], ...]  # begin and end in each axis


def load(
    path: files.Path,
    found: Mapping[layouts.Key, layouts.Leaf],
    placement: layouts.Placement,
    config: str,
) -> tuple[dict[str, Any], str]:
    """Returns the variables of a file, placed, and their fingerprint (see `checkpoints`).

    `found` says what of it is kept, and how; float kernels become int8 where it says so.

    Raises:
      ValueError: the file has other variables, or ends too early.
    """
    digest, arrays = checkpoints.Fingerprint(config), {}
    with files.open(path) as file:
        entries = _header(file)
        _check(path, entries, found)
        for name in sorted(entries):
            key = tuple(name.split("/"))
            leaf, entry = found[key], entries[name]
            dtype = np.dtype(_DTYPES[entry["dtype"]])
            digest.begin(name, dtype, leaf.shape)
            values = _Shards(leaf, placement)
            scales = _Shards(leaf.scales, placement) if leaf.scales else None
            for layer, block in _blocks(file, entry["begin"], dtype, leaf):
                digest.add(block)
                if scales is not None and leaf.inputs:
                    block, scale = quantization.quantize(block.astype(np.float32), leaf.inputs)
                    scales.put(layer, scale)
                values.put(layer, block)
            arrays[key] = values.array()
            if scales is not None:
                arrays[quantization.SCALES, *key[1:]] = scales.array()
    return traverse_util.unflatten_dict(arrays), digest.hexdigest()


def _header(file: BinaryIO) -> dict[str, dict[str, Any]]:
    """Returns {name: dtype, shape, and where in the file the values begin}."""
    (length,) = struct.unpack("<Q", file.read(8))
    entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    begin = 8 + length
    for entry in entries.values():
        entry["begin"] = begin + entry["data_offsets"][0]
    return entries


def _check(
    path: files.Path,
    entries: Mapping[str, Mapping[str, Any]],
    found: Mapping[layouts.Key, layouts.Leaf],
) -> None:
    """Raises ValueError unless a file has the variables that are wanted, in floats."""
    have = {name: tuple(entry["shape"]) for name, entry in entries.items()}
    want = {"/".join(key): tuple(leaf.shape) for key, leaf in found.items()}
    differing = sorted(
        name for name in have.keys() | want.keys() if have.get(name) != want.get(name)
    )
    other = sorted(name for name, entry in entries.items() if entry["dtype"] not in _DTYPES)
    if differing or other:
        name = [*differing, *other][0]
        raise ValueError(
            f"{path}: {name} is {entries.get(name, {}).get('dtype')} {have.get(name)}, and of this "
            f"model {want.get(name)}, of floats; export the bundle again"
        )


def _blocks(
    file: BinaryIO, begin: int, dtype: np.dtype, leaf: layouts.Leaf
) -> Iterator[tuple[int | None, np.ndarray]]:
    """Yields (layer, its values) of a variable, or (None, all of it) of one without layers."""
    file.seek(begin)
    shape = leaf.shape[1:] if leaf.is_stacked else leaf.shape
    num_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    for layer in range(leaf.shape[0]) if leaf.is_stacked else [None]:
        data = file.read(num_bytes)
        if len(data) != num_bytes:
            raise ValueError("the file of parameters ends too early; export the bundle again")
        yield layer, np.frombuffer(data, dtype).reshape(shape)


class _Shards:
    """The parts of an array that the devices of this process get, on the host."""

    def __init__(self, leaf: layouts.Leaf, placement: layouts.Placement) -> None:
        self._leaf, self._sharding = leaf, leaf.placed(placement).sharding
        indices = self._sharding.addressable_devices_indices_map(leaf.shape).values()
        every = {self._key(index) for index in indices}
        self._parts = {
            key: np.empty([end - begin for begin, end in key], leaf.dtype) for key in every
        }

    def _key(self, index: tuple[slice, ...] | None) -> Index:
        assert index is not None  # this process's own
        return tuple(each.indices(size)[:2] for each, size in zip(index, self._leaf.shape))

    def put(self, layer: int | None, block: np.ndarray) -> None:
        """Takes what belongs here of a block; no axis of layers is divided."""
        for key, part in self._parts.items():
            if layer is None:
                part[...] = block[tuple(slice(*each) for each in key)]
            else:
                part[layer] = block[tuple(slice(*each) for each in key[1:])]

    def array(self) -> jax.Array:
        """Puts the parts on their devices, and waits until they are there."""
        make = jax.make_array_from_callback
        return jax.block_until_ready(
            make(
                self._leaf.shape, self._sharding, lambda index: self._parts[self._key(index or ())]
            )
        )
