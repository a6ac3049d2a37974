# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Connections for downloads: only to public addresses, and with an end that no server can delay.

The address that a name stands for is checked before the connection is made, and the connection
goes to that address: so a name cannot lead into a private network, not even by changing its answer.
"""

import contextlib
import ipaddress
import socket
import threading
from typing import Any

import certifi
import urllib3
import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions
import urllib3.util.connection

MAX_URL_BYTES = 8192


class RefusedError(Exception):
    """An address that is not connected to."""


_current = threading.local()  # .request: the Request of this thread


class Request:
    """The deadline of a request, at which its socket is shut down, and where it may connect to."""

    def __init__(self, seconds: float, allow_private: bool) -> None:
        self.allow_private = allow_private
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.is_over = False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> "Request":
        _current.request = self
        self._timer.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._timer.cancel()
        with self._lock:
            self._socket = None
        _current.request = None

    def watch(self, connection: socket.socket) -> None:
        """Takes the socket that the request uses."""
        with self._lock:
            self._socket = connection
        if self.is_over:
            self._end()

    def _end(self) -> None:
        with self._lock:
            self.is_over = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # Not that of a TLS socket, which is not made for two threads.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class _Guarded(urllib3.connection.HTTPConnection):
    """Connects only to addresses that are allowed, and tells the request its socket."""

    def _new_conn(self) -> socket.socket:
        try:
            found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise urllib3.exceptions.NameResolutionError(
                self.host, self, socket.gaierror(str(error))
            ) from error
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        for address in addresses:
            if not _current.request.allow_private and not is_public(address):
                what = address if address == self.host else f"{self.host} is {address}"
                raise RefusedError(f"{what}: a private address; --fetch_private asks it")
        failure = OSError("the name has no address")
        for address in addresses:
            try:
                connection = urllib3.util.connection.create_connection(
                    (address, self.port), self.timeout, socket_options=self.socket_options
                )
            except OSError as error:
                failure = error
            else:
                _current.request.watch(connection)
                return connection
        if isinstance(failure, TimeoutError):
            raise urllib3.exceptions.ConnectTimeoutError(self, str(failure)) from failure
        raise urllib3.exceptions.NewConnectionError(self, str(failure)) from failure

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # kept open since the last request
            _current.request.watch(self.sock)
        super().request(*args, **kwargs)


class _GuardedHttps(_Guarded, urllib3.connection.HTTPSConnection):
    pass


class _HttpPool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _Guarded


class _HttpsPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _GuardedHttps


def is_public(address: str) -> bool:
    """Returns whether an IP address is one of the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def make_pool(per_host: int) -> urllib3.PoolManager:
    """Returns a pool of such connections, of which `per_host` stay open between requests."""
    pool = urllib3.PoolManager(num_pools=256, maxsize=per_host, ca_certs=certifi.where())
    pool.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}
    return pool


def host_of(url: str) -> str:
    """Returns the host of an http address; ValueError: it is none."""
    if len(url) > MAX_URL_BYTES:
        raise ValueError(f"a URL of {len(url):,} characters")
    try:
        parts = urllib3.util.parse_url(url)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise ValueError(f"not a URL: {url[:100]}") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError(f"not an http address: {url[:100]}")
    return parts.host.lower()
