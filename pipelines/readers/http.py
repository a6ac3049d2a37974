# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""One request for a picture, with everything bounded that a server decides.

The address that a name stands for is looked at before the connection is made, and the connection
goes to that address: so a name cannot lead into a private network, not even by changing its answer.
"""

import contextlib
import dataclasses
import email.utils
import ipaddress
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import certifi
import urllib3
import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions
import urllib3.util.connection

MAX_URL_BYTES = 8192
_CHUNK = 2**16
_REDIRECTS = (301, 302, 303, 307, 308)
_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # worth another try
_NAMED = (403, 404, 410, 429)  # statuses that have a reason of their own
_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "none"}
# Directives of X-Robots-Tag with a colon that does not follow the name of a crawler.
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came of one request.

    Attributes:
      data: the body, if all went well.
      reason: why there is none (see `rows.REASONS`); empty if all went well.
      measure: the value that decided, as text.
      redirect: the address to ask instead; empty if none.
      again: whether another try may help.
      retry_after: seconds that the server wants to be left alone.
    """

    data: bytes = b""
    reason: str = ""
    measure: str = ""
    redirect: str = ""
    again: bool = False
    retry_after: float = 0.0


class _RefusedError(Exception):
    """An address that is not asked."""


_current = threading.local()  # .request: the _Request of this thread


class _Request:
    """The deadline of a request: when it passes, its socket is shut down."""

    def __init__(self, seconds: float) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.is_over = False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> "_Request":
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

    allow_private = False

    def _new_conn(self) -> socket.socket:
        try:
            found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise urllib3.exceptions.NameResolutionError(
                self.host, self, socket.gaierror(str(error))
            ) from error
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        for address in addresses:
            if not self.allow_private and not is_public(address):
                raise _RefusedError(f"{self.host} is {address}, a private address")
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


class _Open(_Guarded):
    allow_private = True


class _OpenHttps(_GuardedHttps):
    allow_private = True


def is_public(address: str) -> bool:
    """Returns whether an IP address is one of the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = None
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def make_pool(connections_per_host: int, allow_private: bool) -> urllib3.PoolManager:
    """Returns a pool of connections that keeps to the rules above.

    Args:
      connections_per_host: kept open between requests.
      allow_private: also connect to addresses of private networks and of this machine.
    """
    pool = urllib3.PoolManager(
        num_pools=256, maxsize=connections_per_host, ca_certs=certifi.where()
    )

    class Http(urllib3.connectionpool.HTTPConnectionPool):
        ConnectionCls = _Open if allow_private else _Guarded

    class Https(urllib3.connectionpool.HTTPSConnectionPool):
        ConnectionCls = _OpenHttps if allow_private else _GuardedHttps

    pool.pool_classes_by_scheme = {"http": Http, "https": Https}
    return pool


def host_of(url: str) -> str:
    """Returns the host of an http address.

    Raises:
      ValueError: not an http address.
    """
    if len(url) > MAX_URL_BYTES:
        raise ValueError(f"a URL of {len(url):,} characters")
    try:
        parts = urllib3.util.parse_url(url)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise ValueError(f"not a URL: {url[:100]}") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError(f"not an http address: {url[:100]}")
    return parts.host.lower()


def get(
    pool: urllib3.PoolManager,
    url: str,
    *,
    connect_timeout: float,
    read_timeout: float,
    total_timeout: float,
    max_bytes: int,
    user_agent: str,
    respect_opt_out: bool,
) -> Answer:
    """Asks for a picture once. Redirects are not followed but returned.

    Args:
      pool: from `make_pool`.
      url: an http address.
      connect_timeout: seconds until there is a connection.
      read_timeout: seconds between two pieces of the answer.
      total_timeout: seconds for everything.
      max_bytes: of the body, also once it is decompressed.
      user_agent: as the header says it.
      respect_opt_out: take no picture whose headers say that it is not for machine learning.
    """
    headers = {"User-Agent": user_agent, "Accept": "image/*,*/*;q=0.5"}
    headers["Accept-Encoding"] = "identity"
    with _Request(total_timeout) as request:
        response: urllib3.BaseHTTPResponse | None = None
        try:
            response = pool.request(
                "GET",
                url,
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=connect_timeout, read=read_timeout),
            )
            answer = _judge(response, url, user_agent, respect_opt_out, max_bytes)
            answer = answer or _body(response, max_bytes, request)
        except Exception as error:  # whatever a server makes the libraries raise
            answer = _failure(error, request.is_over, response is not None)
        if request.is_over and answer.reason != "fetch_timeout":
            answer = Answer(reason="fetch_timeout", measure=f"{total_timeout:g} s", again=True)
    if response is not None:
        # What was read to its end can be used for the next request.
        response.close() if answer.reason else response.release_conn()
    return answer


def _judge(
    response: urllib3.BaseHTTPResponse,
    url: str,
    user_agent: str,
    respect_opt_out: bool,
    max_bytes: int,
) -> Answer | None:
    """Returns the answer that the headers alone give; None if the body is wanted."""
    status, headers = response.status, response.headers
    if respect_opt_out and (found := opt_out(headers, user_agent)):
        return Answer(reason="fetch_opt_out", measure=found)
    if status in _REDIRECTS:
        if not (place := headers.get("Location", "")):
            return Answer(reason="fetch_failed", measure=f"HTTP {status} to nowhere")
        return Answer(reason="fetch_redirects", redirect=urllib.parse.urljoin(url, place))
    if status != 200:
        reason = f"fetch_http_{status if status in _NAMED else 'other'}"
        wait = retry_after(headers.get("Retry-After", ""))
        again = status in _AGAIN
        return Answer(reason=reason, measure=f"HTTP {status}", again=again, retry_after=wait)
    kind = headers.get("Content-Type", "").strip().lower()
    if kind and not kind.startswith(_TYPES):
        return Answer(reason="fetch_not_image", measure=kind[:100])
    length = headers.get("Content-Length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > max_bytes):
        return Answer(reason="fetch_too_large", measure=f"{length[:30]} bytes")
    return None


def _body(response: urllib3.BaseHTTPResponse, max_bytes: int, request: _Request) -> Answer:
    data = bytearray()
    for chunk in _chunks(response):
        data += chunk
        if len(data) > max_bytes:
            return Answer(reason="fetch_too_large", measure=f"over {max_bytes:,} bytes")
        if request.is_over:
            break
    return Answer(bytes(data))


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    if response.chunked:
        yield from response.stream(_CHUNK, decode_content=True)
        return
    # Not `read`, which waits for a whole chunk from a server that sends byte by byte.
    while chunk := response.read1(_CHUNK, decode_content=True):
        yield chunk


def _failure(error: Exception, is_over: bool, has_answer: bool) -> Answer:
    """Returns the answer for what a request raised."""
    measure = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, _RefusedError | urllib3.exceptions.LocationValueError):
        return Answer(reason="fetch_refused", measure=measure)
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return Answer(reason="fetch_no_host", measure=measure)
    refused = isinstance(error, urllib3.exceptions.NewConnectionError)  # a kind of time-out there
    slow = isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError)
    if is_over or (slow and not refused):
        return Answer(reason="fetch_timeout", measure=measure, again=True)
    if isinstance(error, urllib3.exceptions.SSLError):
        return Answer(reason="fetch_tls", measure=measure)
    if isinstance(error, urllib3.exceptions.DecodeError):
        return Answer(reason="fetch_failed", measure=measure)
    if isinstance(error, urllib3.exceptions.HTTPError | OSError):
        reason = "fetch_truncated" if has_answer else "fetch_connection"
        return Answer(reason=reason, measure=measure, again=True)
    return Answer(reason="fetch_failed", measure=f"{type(error).__name__}: {measure}")


def opt_out(headers: Mapping[str, str], user_agent: str) -> str:
    """Returns the header by which a server keeps its picture from machine learning, or "".

    These are `X-Robots-Tag` with noai, noimageai, noindex, noimageindex or none, for all crawlers
    or for this one, and `TDM-Reservation: 1`.

    Source: the list of img2dataset's default, and the W3C community group's TDM Reservation
    Protocol.

    Args:
      headers: of the answer; case does not matter.
      user_agent: the part before the slash is our name as a crawler.
    """
    if headers.get("TDM-Reservation", "").strip() == "1":
        return "TDM-Reservation: 1"
    name = user_agent.partition("/")[0].strip().lower()
    for_us = True
    for part in headers.get("X-Robots-Tag", "").lower().split(","):
        directive = part.strip()
        before, colon, after = directive.partition(":")
        if colon and before.strip() not in _WITH_VALUE:
            # A crawler's name stands for what follows, up to the next name.
            for_us, directive = before.strip() in (name, "*"), after.strip()
        if for_us and directive in _OPT_OUTS:
            return f"X-Robots-Tag: {directive}"
    return ""


def retry_after(text: str) -> float:
    """Returns the seconds that a Retry-After header asks for: a number or a date."""
    text = text.strip()
    if text.isdecimal():
        return float(text[:9])
    try:
        date = email.utils.parsedate_to_datetime(text)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
