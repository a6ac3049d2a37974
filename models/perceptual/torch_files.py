# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tensors out of a PyTorch file (.pth) without PyTorch, and without running what the file says.

Such a file is a pickle, which may call anything. Here every name that it asks for is looked up in
a table of a few functions below, made anew for each file; any other name is refused. Read are both
formats of `torch.save`: the zip archive, and the row of pickles from before PyTorch 1.6.
"""

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_ZIP_MAGIC = b"PK\x03\x04"
_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<b1",
}


class _Storage(NamedTuple):
    """A row of numbers of the file, by its key."""

    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    """A view of a storage, not read yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the tensor; `numbers` [size] is its storage."""
        whole = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(
            isinstance(number, int) and number >= 0 for number in whole
        ):
            raise ValueError(f"a tensor of shape {self.shape} and strides {self.strides}")
        if 0 in self.shape:
            return np.zeros(self.shape, numbers.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides))
        count = int(np.prod(self.shape, dtype=object))
        if max(last + 1, count) > len(numbers):
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its storage")
        strides = [step * numbers.itemsize for step in self.strides]
        start = numbers[self.offset :]
        return np.lib.stride_tricks.as_strided(start, self.shape, strides, writeable=False).copy()


class _Unpickler(pickle.Unpickler):
    """Knows dicts of tensors, and nothing else."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self._globals = _globals()

    def find_class(self, module: str, name: str) -> Any:
        """Returns our own stand-in for a name of the file."""
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        if (module, name) not in self._globals:
            raise ValueError(
                f"it holds a {module}.{name}; only plain tensors are read, and nothing is run: "
                "save the model's state_dict()"
            )
        return self._globals[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage that `('storage', type, key, device, size[, view])` names."""
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or any(part is not None for part in view):
            raise ValueError("it refers to something that is not a whole storage")
        if not (isinstance(dtype, np.dtype) and isinstance(key, str) and isinstance(size, int)):
            raise ValueError("it has a storage without type, name or size")
        return _Storage(key, dtype, size)


def _globals() -> dict[tuple[str, str], Callable[..., Any]]:
    """Returns stand-ins for what the pickle of a state_dict calls.

    They are made for one file, since a pickle can also set attributes of what it is given.
    """

    class Names(collections.OrderedDict[str, Any]):
        pass

    def rebuild_tensor(
        storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
    ) -> _Tensor:
        return _Tensor(storage, offset, tuple(shape), tuple(strides))

    def rebuild_parameter(data: _Tensor, *_: Any) -> _Tensor:
        return data

    return {
        ("collections", "OrderedDict"): Names,
        ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    }


def load(data: bytes) -> dict[str, np.ndarray]:
    """Reads the tensors of a state_dict.

    Args:
      data: content of a file by `torch.save`.

    Returns:
      Name -> array; names of dicts inside dicts are joined by dots. What is no tensor is left out.

    Raises:
      ValueError: the file is damaged, of another kind, or holds more than tensors in dicts.
    """
    try:
        content, storages = (_load_zip if data.startswith(_ZIP_MAGIC) else _load_legacy)(data)
        return {name: tensor.read(storages(tensor.storage)) for name, tensor in _flatten(content)}
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"this PyTorch file cannot be read: {error}") from error


def _load_zip(data: bytes) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = archive.namelist()
    found = [name for name in names if name.endswith("/data.pkl")]
    if len(found) != 1:
        raise ValueError("the archive has no data.pkl")
    folder = found[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in names and archive.read(order) != b"little":
        raise ValueError("its numbers are big-endian")

    def storages(storage: _Storage) -> np.ndarray:
        return np.frombuffer(archive.read(f"{folder}data/{storage.key}"), storage.dtype)

    return _Unpickler(io.BytesIO(archive.read(found[0]))).load(), storages


def _load_legacy(data: bytes) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    file = io.BytesIO(data)
    if _Unpickler(file).load() != _LEGACY_MAGIC or _Unpickler(file).load() != _LEGACY_VERSION:
        raise ValueError("it does not begin as torch.save begins")
    if not _Unpickler(file).load()["little_endian"]:
        raise ValueError("its numbers are big-endian")
    content = _Unpickler(file).load()
    dtypes = {tensor.storage.key: tensor.storage.dtype for _, tensor in _flatten(content)}
    arrays = {}
    for key in _Unpickler(file).load():
        (size,) = struct.unpack("<q", file.read(8))
        if key not in dtypes:
            raise ValueError(f"no tensor uses its storage {key}")
        num_bytes = size * dtypes[key].itemsize
        arrays[key] = np.frombuffer(file.read(num_bytes), dtypes[key])
    return content, lambda storage: arrays[storage.key]


def _flatten(content: Any, prefix: str = "") -> Iterator[tuple[str, _Tensor]]:
    if not isinstance(content, Mapping):
        raise ValueError("it is no dict of tensors: save the model's state_dict()")
    for name, value in content.items():
        if isinstance(value, _Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
