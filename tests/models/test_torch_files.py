# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch files are read without PyTorch, and what they would run is not run."""

import base64
import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from parti.models.perceptual import torch_files

# By torch 2.14.1, of OrderedDict([("0.weight", arange(6.).reshape(2, 3).t()), ("0.bias",
# Parameter(tensor([1.5, -2.0]).half()))]) with a `_metadata` as state_dict() has: the data.pkl and
# the storages of torch.save(...), and torch.save(..., _use_new_zipfile_serialization=False).
DATA_PKL = """
gAJjY29sbGVjdGlvbnMKT3JkZXJlZERpY3QKcQApUnEBKFgIAAAAMC53ZWlnaHRxAmN0b3JjaC5fdXRpbHMKX3Jl
YnVpbGRfdGVuc29yX3YyCnEDKChYBwAAAHN0b3JhZ2VxBGN0b3JjaApGbG9hdFN0b3JhZ2UKcQVYAQAAADBxBlgD
AAAAY3B1cQdLBnRxCFFLAEsDSwKGcQlLAUsDhnEKiWgAKVJxC3RxDFJxDVgGAAAAMC5iaWFzcQ5jdG9yY2guX3V0
aWxzCl9yZWJ1aWxkX3BhcmFtZXRlcgpxD2gDKChoBGN0b3JjaApIYWxmU3RvcmFnZQpxEFgBAAAAMXERaAdLAnRx
ElFLAEsChXETSwGFcRSJaAApUnEVdHEWUnEXiGgAKVJxGIdxGVJxGnV9cRtYCQAAAF9tZXRhZGF0YXEcfXEdWAAA
AABxHn1xH1gHAAAAdmVyc2lvbnEgSwFzc3NiLg==
"""
STORAGES = {
    "0": "000000000000803f0000004000004040000080400000a040",
    "1": "003e00c0",
}
LEGACY = """
gAKKCmz8nEb5IGqoUBkugAJN6QMugAJ9cQAoWBAAAABwcm90b2NvbF92ZXJzaW9ucQFN6QNYDQAAAGxpdHRsZV9l
bmRpYW5xAohYCgAAAHR5cGVfc2l6ZXNxA31xBChYBQAAAHNob3J0cQVLAlgDAAAAaW50cQZLBFgEAAAAbG9uZ3EH
SwR1dS6AAmNjb2xsZWN0aW9ucwpPcmRlcmVkRGljdApxAClScQEoWAgAAAAwLndlaWdodHECY3RvcmNoLl91dGls
cwpfcmVidWlsZF90ZW5zb3JfdjIKcQMoKFgHAAAAc3RvcmFnZXEEY3RvcmNoCkZsb2F0U3RvcmFnZQpxBVgOAAAA
OTQ0NDc0MjcwODE3NjBxBlgDAAAAY3B1cQdLBk50cQhRSwBLA0sChnEJSwFLA4ZxColoAClScQt0cQxScQ1YBgAA
ADAuYmlhc3EOY3RvcmNoLl91dGlscwpfcmVidWlsZF9wYXJhbWV0ZXIKcQ9oAygoaARjdG9yY2gKSGFsZlN0b3Jh
Z2UKcRBYDgAAADk0NDQ3MzExOTQzMjY0cRFoB0sCTnRxElFLAEsChXETSwGFcRSJaAApUnEVdHEWUnEXiGgAKVJx
GIdxGVJxGnV9cRtYCQAAAF9tZXRhZGF0YXEcfXEdWAAAAABxHn1xH1gHAAAAdmVyc2lvbnEgSwFzc3NiLoACXXEA
KFgOAAAAOTQ0NDczMTE5NDMyNjRxAVgOAAAAOTQ0NDc0MjcwODE3NjBxAmUuAgAAAAAAAAAAPgDABgAAAAAAAAAA
AAAAAACAPwAAAEAAAEBAAACAQAAAoEA=
"""


def archive(pkl: bytes, byteorder: bytes = b"little", storages: dict | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pkl)
        file.writestr("archive/byteorder", byteorder)
        for key, numbers in (STORAGES if storages is None else storages).items():
            file.writestr(f"archive/data/{key}", bytes.fromhex(numbers))
    return buffer.getvalue()


PKL = base64.b64decode(DATA_PKL)
OLD = base64.b64decode(LEGACY)


@pytest.mark.parametrize("data", [archive(PKL), OLD], ids=["zip", "legacy"])
def test_both_formats_are_read(data: bytes) -> None:
    tensors = torch_files.load(data)
    assert list(tensors) == ["0.weight", "0.bias"]
    np.testing.assert_array_equal(tensors["0.weight"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(tensors["0.bias"], np.array([1.5, -2], np.float16))
    assert tensors["0.weight"].dtype == np.float32 and tensors["0.bias"].dtype == np.float16


def test_dicts_in_dicts_have_dotted_names() -> None:
    inner = PKL[2:-1]  # without protocol and stop
    outer = b"\x80\x02}(X\x05\x00\x00\x00model" + inner + b"X\x05\x00\x00\x00epochK\x03u."
    assert list(torch_files.load(archive(outer))) == ["model.0.weight", "model.0.bias"]


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return pathlib.Path.touch, (self.path,)


def test_nothing_is_run(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "made"
    evil = pickle.dumps({"0.weight": Touch(path)}, protocol=2)
    pickle.loads(evil)
    path.unlink()  # so the file does run
    before = OLD[: OLD.index(b"\x80\x02ccollections")]  # the content is the fourth pickle
    for data in (archive(evil), before + evil, evil):
        with pytest.raises(ValueError, match="only plain tensors are read, and nothing is run"):
            torch_files.load(data)
    assert not path.exists()


@pytest.mark.parametrize("data", [archive(PKL), OLD], ids=["zip", "legacy"])
def test_a_cut_file_is_an_error(data: bytes) -> None:
    for length in (0, 1, len(data) // 2, len(data) - 3):
        with pytest.raises(ValueError, match="this PyTorch file cannot be read"):
            torch_files.load(data[:length])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive(PKL, storages={**STORAGES, "0": "00" * 20}), "reaches beyond its storage"),
        (archive(PKL, byteorder=b"big"), "big-endian"),
        (archive(PKL.replace(b"FloatStorage", b"QInt8Storage")), "torch.QInt8Storage"),
        (archive(pickle.dumps([1], protocol=2)), "no dict of tensors"),
        (b"no pickle at all", "cannot be read"),
    ],
)
def test_files_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch_files.load(data)


def test_a_tensor_cannot_be_larger_than_its_storage() -> None:
    strides = b"K\x01K\x03\x86"
    assert strides in PKL
    data = archive(
        PKL.replace(b"K\x03K\x02\x86", b"K\xffK\xff\x86").replace(strides, b"K\x00K\x00\x86")
    )
    with pytest.raises(ValueError, match="reaches beyond its storage"):
        torch_files.load(data)
