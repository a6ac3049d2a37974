# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The private names of urllib3 that the guard against private addresses relies on."""

import inspect
import socket

import pytest
import urllib3
import urllib3.connection
import urllib3.exceptions
import urllib3.util.connection

from parti.pipelines.readers.http import connections


def test_every_connection_of_urllib3_is_made_by_the_guarded_method(monkeypatch):
    for kind in (urllib3.connection.HTTPConnection, urllib3.connection.HTTPSConnection):
        assert "self._new_conn()" in inspect.getsource(kind.connect)
        assert kind("example.org.")._dns_host == "example.org."
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: asked.append(args) or [])
    pool = connections.make_pool(1)
    for scheme in ("http", "https"):
        made = pool.connection_from_url(f"{scheme}://example.org")._new_conn()
        assert type(made)._new_conn is connections._Guarded._new_conn
        with pytest.raises(urllib3.exceptions.NewConnectionError, match="has no address"):
            made._new_conn()
    assert [args[0] for args in asked] == ["example.org", "example.org"]


def test_the_guard_takes_the_place_of_one_call(monkeypatch):
    names = inspect.signature(urllib3.util.connection.create_connection).parameters
    assert list(names)[:2] == ["address", "timeout"] and "socket_options" in names
    assert {"http", "https"} <= set(urllib3.PoolManager().pool_classes_by_scheme)
