# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""One request for an image; whatever a server decides has a bound."""

import dataclasses
import email.utils
import math
import re
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import urllib3
import urllib3.exceptions

from parti.pipelines.readers.base import rows
from parti.pipelines.readers.http import connections
from parti.stages.version import VERSION

_CHUNK = 2**16
_PACE = ("threads", "per_host", "delay", "window", "window_bytes")
_REDIRECTS = (301, 302, 303, 307, 308)
_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # worth another try
_NAMED = (403, 404, 410, 429)  # statuses that have a reason of their own
_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_CONNECTION = re.compile(r"^\w+\(host='[^']*', port=[^)]*\): ")  # urllib3 begins a message with it
_OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "none"}
# Directives of X-Robots-Tag with a colon that does not follow the name of a crawler.
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


@dataclasses.dataclass(frozen=True)
class FetchSettings:
    """How images are fetched. The limits hold in each worker process by itself."""

    threads: int = 32  # requests at a time
    per_host: int = 4  # requests at a time to one host
    delay: float = 0.0  # seconds between the starts of two requests to one host
    connect_timeout: float = 5.0  # seconds until there is a connection
    read_timeout: float = 10.0  # seconds between two pieces of an answer
    total_timeout: float = 30.0  # seconds for one request
    retries: int = 2  # further tries after a failure that may pass
    backoff: float = 1.0  # seconds before the second try, then twice as long; half more or less
    max_wait: float = 60.0  # seconds before a try; if the server wants more, the row is rejected
    max_bytes: int = 20 * 2**20  # of an image
    max_redirects: int = 5  # followed for one image
    user_agent: str = f"parti/{VERSION}"  # the name that servers see
    respect_opt_out: bool = True  # leave out what the server's headers keep from machine learning
    allow_private: bool = False  # fetch also from this machine and from private networks
    window: int = 512  # rows that may be under way or wait for an earlier one
    # Of such rows and their images; beyond it no row is taken, and only the first row's request is
    # begun
    window_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str | bool):
                continue
            zero = field.name in ("delay", "retries", "backoff", "max_wait", "max_redirects")
            if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
                least = "0 or more" if zero else "a positive number"
                raise ValueError(f"fetch setting {field.name}={value}: give {least}")

    def outcome(self) -> dict[str, Any]:
        """Returns the settings that decide what comes, without those of the pace."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in _PACE}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one request gives."""

    content: bytes | rows.Rejected  # the image, or why there is none (see `rows.REASONS`)
    redirect: str = ""  # the address to request instead; empty if none
    again: bool = False  # whether another try may help
    retry_after: float = 0.0  # seconds that the server wants no request


def _rejected(reason: str, measure: str, **more: Any) -> Answer:
    return Answer(rows.refuse(reason, measure), **more)


def get(pool: urllib3.PoolManager, url: str, settings: FetchSettings) -> Answer:
    """Requests an image once. Redirects are not followed but returned.

    `max_bytes` of the settings bounds the decompressed body too.
    """
    headers = {"User-Agent": settings.user_agent, "Accept": "image/*,*/*;q=0.5"}
    headers["Accept-Encoding"] = "identity"
    timeout = urllib3.Timeout(connect=settings.connect_timeout, read=settings.read_timeout)
    options: dict[str, Any] = {"preload_content": False, "redirect": False, "retries": False}
    with connections.Request(settings.total_timeout, settings.allow_private) as request:
        response: urllib3.BaseHTTPResponse | None = None
        try:
            response = pool.request("GET", url, headers=headers, timeout=timeout, **options)
            answer = _from_headers(response, url, settings) or _body(
                response, settings.max_bytes, request
            )
        except Exception as error:  # whatever a server makes the libraries raise
            answer = _failure(error, request.is_over, response is not None)
        if request.is_over and getattr(answer.content, "reason", "") != "fetch_timeout":
            answer = _rejected("fetch_timeout", f"{settings.total_timeout:g} s", again=True)
    if response is not None:
        # What was read to its end can be used for the next request.
        if isinstance(answer.content, rows.Rejected):
            response.close()
        else:
            response.release_conn()
    return answer


def _from_headers(
    response: urllib3.BaseHTTPResponse, url: str, settings: FetchSettings
) -> Answer | None:
    """Returns the answer that the headers alone give; None if the body is wanted."""
    status, headers = response.status, response.headers
    if settings.respect_opt_out and (found := opt_out(headers, settings.user_agent)):
        return _rejected("fetch_opt_out", found)
    if status in _REDIRECTS:
        if not (location := headers.get("Location", "")):
            return _rejected("fetch_failed", f"HTTP {status} to nowhere")
        return _rejected("fetch_redirects", "", redirect=urllib.parse.urljoin(url, location))
    if status != 200:
        reason = f"fetch_http_{status if status in _NAMED else 'other'}"
        wait = retry_after(headers.get("Retry-After", ""))
        return _rejected(reason, f"HTTP {status}", again=status in _AGAIN, retry_after=wait)
    kind = headers.get("Content-Type", "").strip().lower()
    if kind and not kind.startswith(_TYPES):
        return _rejected("fetch_not_image", kind[:100])
    length = headers.get("Content-Length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > settings.max_bytes):
        return _rejected("fetch_too_large", f"{length[:30]} bytes")
    return None


def _body(
    response: urllib3.BaseHTTPResponse, max_bytes: int, request: connections.Request
) -> Answer:
    data = bytearray()
    for chunk in _chunks(response):
        data += chunk
        if len(data) > max_bytes:
            return _rejected("fetch_too_large", f"over {max_bytes:,} bytes")
        if request.is_over:
            break
    return Answer(bytes(data))


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    if response.chunked:
        return response.stream(_CHUNK, decode_content=True)
    # Not `read`, which waits for a whole chunk from a server that sends byte by byte.
    return iter(lambda: response.read1(_CHUNK, decode_content=True), b"")


def _failure(error: Exception, is_over: bool, has_answer: bool) -> Answer:
    text = _CONNECTION.sub("", " ".join(str(error).split()))
    measure = text[:200] or type(error).__name__
    if isinstance(error, connections.RefusedError | urllib3.exceptions.LocationValueError):
        return _rejected("fetch_refused", measure)
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return _rejected("fetch_no_host", measure)
    refused = isinstance(error, urllib3.exceptions.NewConnectionError)  # a kind of time-out there
    slow = isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError)
    if is_over or (slow and not refused):
        return _rejected("fetch_timeout", measure, again=True)
    if isinstance(error, urllib3.exceptions.SSLError):
        return _rejected("fetch_tls", measure)
    if isinstance(error, urllib3.exceptions.DecodeError):
        return _rejected("fetch_failed", measure)
    if isinstance(error, urllib3.exceptions.HTTPError | OSError):
        reason = "fetch_truncated" if has_answer else "fetch_connection"
        return _rejected(reason, measure, again=True)
    return _rejected("fetch_failed", f"{type(error).__name__}: {measure}")


def opt_out(headers: urllib3.HTTPHeaderDict, user_agent: str) -> str:
    """Returns the header by which a server keeps its image from machine learning, or "".

    That is `TDM-Reservation: 1`, or an `X-Robots-Tag` of `_OPT_OUTS` for all crawlers or this one.

    Source: the defaults of img2dataset, and the W3C community group's TDM Reservation Protocol.
    """
    if any(value.strip() == "1" for value in headers.getlist("TDM-Reservation")):
        return "TDM-Reservation: 1"
    for value in headers.getlist("X-Robots-Tag"):
        if directive := _opt_out_directive(value, crawler(user_agent)):
            return f"X-Robots-Tag: {directive}"
    return ""


def crawler(user_agent: str) -> str:
    """Returns the name of a crawler, by which servers speak of it: `parti` of `parti/1.0`."""
    return user_agent.partition("/")[0].strip().lower()


def _opt_out_directive(value: str, name: str) -> str:
    """Returns what in one X-Robots-Tag keeps the crawler of this name off, or ""."""
    for_us = True
    for part in value.lower().split(","):
        directive = part.strip()
        before, colon, after = directive.partition(":")
        if colon and before.strip() not in _WITH_VALUE:
            # A crawler's name stands for what follows, up to the next name.
            for_us, directive = before.strip() in (name, "*"), after.strip()
        if for_us and directive in _OPT_OUTS:
            return directive
    return ""


def retry_after(text: str) -> float:
    """Returns the seconds that a Retry-After header gives: a number or a date."""
    text = text.strip()
    if text.isdecimal():
        return float(text[:9])
    try:
        date = email.utils.parsedate_to_datetime(text)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
