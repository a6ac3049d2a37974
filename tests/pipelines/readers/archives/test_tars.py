# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The private names of tarfile that the strict reader relies on."""

import inspect
import tarfile

import pytest

from parti.pipelines.readers.archives import tars


def test_the_ends_of_an_archive_are_told_apart():
    assert issubclass(tarfile.EOFHeaderError, tarfile.HeaderError)
    assert issubclass(tarfile.EmptyHeaderError, tarfile.HeaderError)
    with pytest.raises(tarfile.EmptyHeaderError):
        tarfile.TarInfo.frombuf(b"", "utf-8", "strict")
    with pytest.raises(tarfile.EOFHeaderError):
        tarfile.TarInfo.frombuf(bytes(tarfile.BLOCKSIZE), "utf-8", "strict")


def test_a_sparse_map_without_bound_is_never_read():
    assert "self._proc_gnusparse_10(" in inspect.getsource(tarfile.TarInfo._proc_pax)
    with pytest.raises(tarfile.ReadError, match="a sparse member"):
        tars._StrictTarInfo()._proc_gnusparse_10(None, None, None)


def test_the_list_of_members_can_be_emptied(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
        tar.addfile(tarfile.TarInfo("b"))
    with tarfile.open(tmp_path / "x.tar", "r|", tarinfo=tars._StrictTarInfo) as tar:
        found = []
        while member := tar.next():
            assert tar.members
            tar.members.clear()
            found.append(member.name)
    assert found == ["a", "b"]
