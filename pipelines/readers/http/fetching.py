# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Images by URL: many at once, few from each host, in the order of the rows.

One `Fetcher` per process: the limits for a host hold for all who use it. Waiting (for a host's
turn, between two tries) occupies no thread, so a slow host does not hold up the others; that is
why `urllib3.Retry`, which sleeps in the thread of the request, does not do the retries.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from parti.data.storage import records
from parti.pipelines.readers.base import rows
from parti.pipelines.readers.http import connections, downloads, originals

T = TypeVar("T")
FetchSettings = downloads.FetchSettings
Wants = Callable[[int, records.ImageTextPair], bool]

_POLL = 0.05  # seconds until the next try at a host that others in the process use
_MAX_IDLE_HOSTS = 10_000
_shared: "dict[FetchSettings, Fetcher]" = {}
_shared_lock = threading.Lock()


@dataclasses.dataclass
class _Host:
    """The state of one host: requests under way, and when the next may begin."""

    active: int = 0
    next_start: float = 0.0


@dataclasses.dataclass(eq=False)
class _Task:
    """A row in the window."""

    row: Any
    given: str  # the URL of the row
    size: int = 0  # bytes that the row holds in memory
    part: originals.Part | None = None  # what is kept of the row's source
    first: "_Task | None" = None  # the earlier row with the same URL, which asks for both
    url: str = ""  # to request next
    host: str = ""
    tries: int = 0
    redirects: int = 0
    not_before: float = 0.0
    content: bytes | rows.Rejected | None = None  # the final one


class Fetcher:
    """Fetches images; can be used by several threads of a process."""

    def __init__(self, settings: FetchSettings) -> None:
        self.settings = settings
        self._pool = connections.make_pool(settings.per_host)
        self._threads = concurrent.futures.ThreadPoolExecutor(settings.threads, "fetch")
        self._hosts: dict[str, _Host] = {}
        self._free = settings.threads
        self._lock = threading.Lock()

    def close(self) -> None:
        """Drops what is not begun, and the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.clear()

    def fetch_all(
        self,
        source: Iterable[tuple[T, str]],
        size: Callable[[T], int] = lambda row: 0,
        part: originals.Part | None = None,
    ) -> Iterator[tuple[T, bytes | rows.Rejected]]:
        """Yields each row of (row, URL) with its image, or with why there is none, in their order.

        Rows are taken as there is room in the window; one whose URL is "" passes with b"". `size`
        gives the bytes that a row holds, which count for `window_bytes`. What `part` has is not
        requested, and what comes is kept there.
        """
        return _Window(self, iter(source), size, part).run()

    def start(self, task: _Task, done: "queue.SimpleQueue[Any]") -> bool:
        """Begins a task's request if its turn has come; returns whether it did."""
        now = time.monotonic()
        if now < task.not_before:
            return False
        with self._lock:
            host = self._host(task.host, now)
            if host.active >= self.settings.per_host or now < host.next_start or not self._free:
                return False
            host.active += 1
            host.next_start = now + self.settings.delay
            self._free -= 1
        self._threads.submit(self._request, task, host, done)
        return True

    def _host(self, name: str, now: float) -> _Host:
        if len(self._hosts) > _MAX_IDLE_HOSTS:
            busy = ((n, h) for n, h in self._hosts.items() if h.active or h.next_start >= now)
            self._hosts = dict(busy)
        return self._hosts.setdefault(name, _Host())

    def _request(self, task: _Task, host: _Host, done: "queue.SimpleQueue[Any]") -> None:
        failure: Exception | None = None
        try:
            answer = downloads.get(self._pool, task.url, self.settings)
        except Exception as error:  # else the row would be waited for, for ever
            answer = downloads.Answer(rows.refuse("fetch_failed", repr(error)[:200]))
        if task.part and originals.is_final(answer):
            try:
                task.part.keep(task.given, answer.content)
            except RuntimeError as error:
                failure = error
        with self._lock:
            host.active -= 1
            self._free += 1
            if 0 < answer.retry_after <= self.settings.max_wait:  # rest from all of us
                host.next_start = max(host.next_start, time.monotonic() + answer.retry_after)
        done.put((task, failure or answer))


class _Window(Generic[T]):
    """The rows of one call of `fetch_all` that are under way or wait for an earlier one."""

    def __init__(
        self,
        fetcher: Fetcher,
        source: Iterator[tuple[T, str]],
        size: Callable[[T], int],
        part: originals.Part | None,
    ) -> None:
        self._fetcher, self._settings = fetcher, fetcher.settings
        self._source, self._size, self._part = source, size, part
        self._is_at_end = False  # of the source
        self._tasks: collections.deque[_Task] = collections.deque()
        self._waiting: list[_Task] = []  # those whose next request is not begun
        self._first: dict[str, _Task] = {}  # those that are requested, by the URL of the row
        self._done: queue.SimpleQueue[tuple[_Task, downloads.Answer | Exception]] = (
            queue.SimpleQueue()
        )
        self._num_bytes = 0

    def run(self) -> Iterator[tuple[T, bytes | rows.Rejected]]:
        while self._tasks or not self._is_at_end:
            self._fill()
            self._start_requests()
            while self._tasks and (content := self._content()) is not None:
                task = self._tasks.popleft()
                self._num_bytes -= task.size
                if self._first.get(task.given) is task:
                    del self._first[task.given]
                yield task.row, content
            if self._tasks:
                self._take_answers()

    def _content(self) -> bytes | rows.Rejected | None:
        """Returns the final content of the first row, if it has come."""
        task = self._tasks[0]
        return (task.first or task).content

    def _is_full(self) -> bool:
        return self._num_bytes >= self._settings.window_bytes

    def _fill(self) -> None:
        while len(self._tasks) < self._settings.window and not self._is_full():
            if (item := next(self._source, None)) is None:
                self._is_at_end = True
                return
            task = _Task(item[0], item[1], self._size(item[0]), self._part)
            self._tasks.append(task)
            self._num_bytes += task.size
            self._begin(task)
            if len(self._tasks) == 1 and task.content is not None:
                return  # nothing to wait for: no need to take more rows first

    def _begin(self, task: _Task) -> None:
        """Finds the content of a row that enters the window, or lets it wait for its request."""
        _enter(task, task.given)
        if task.content is None and self._part:
            task.content = self._part.get(task.given)
            self._hold(task)
        if task.content is not None:
            return
        first = self._first.setdefault(task.given, task)
        if first is task:
            self._waiting.append(task)
        else:
            task.first = first

    def _hold(self, task: _Task) -> None:
        if isinstance(task.content, bytes):
            task.size += len(task.content)
            self._num_bytes += len(task.content)

    def _start_requests(self) -> None:
        """Begins the requests whose turn has come; in a full window only that of the first row."""

        def starts(task: _Task) -> bool:
            may = not self._is_full() or task is self._tasks[0]
            return may and self._fetcher.start(task, self._done)

        self._waiting = [task for task in self._waiting if not starts(task)]

    def _take_answers(self) -> None:
        timeout = self._until_next()
        with contextlib.suppress(queue.Empty):
            while True:
                task, answer = self._done.get(timeout=timeout)
                if isinstance(answer, Exception):
                    raise answer
                self._settle(task, answer)
                self._hold(task)
                if task.content is None:  # it needs another request
                    self._waiting.append(task)
                timeout = 0.0

    def _settle(self, task: _Task, answer: downloads.Answer) -> None:
        settings = self._settings
        if answer.redirect:
            task.redirects += 1
            if task.redirects > settings.max_redirects:
                task.content = rows.refuse("fetch_redirects", f"over {settings.max_redirects}")
                if self._part:
                    self._part.keep(task.given, task.content)
            else:
                _enter(task, answer.redirect)
            return
        wait = settings.backoff * 2**task.tries * random.uniform(0.5, 1.5)
        wait = max(min(wait, settings.max_wait), answer.retry_after)
        if not answer.again or task.tries >= settings.retries or wait > settings.max_wait:
            task.content = answer.content
            return
        task.tries += 1
        task.not_before = time.monotonic() + wait

    def _until_next(self) -> float | None:
        """Returns the seconds until a waiting task may begin; None: when another is done."""
        if not self._waiting:
            return None
        rest = min(task.not_before for task in self._waiting) - time.monotonic()
        return rest if rest > 0 else _POLL


def every(number: int, pair: records.ImageTextPair) -> bool:
    """Wants the image of every row."""
    return True


@dataclasses.dataclass(frozen=True)
class Images:
    """Where images by URL come from for the rows of one source, and for which they are fetched."""

    fetcher: Fetcher
    # (number of the row, its pair with an empty image) -> whether the image is fetched; else the
    # pair is given with the empty one
    wants: Wants = every
    part: originals.Part | None = None  # what is kept


def _enter(task: _Task, url: str) -> None:
    """Sets the next URL of a task, or its content if there is nothing to request."""
    if not url:
        task.content = b""
        return
    try:
        task.url, task.host = url, connections.host_of(url)
    except ValueError as error:
        task.content = rows.refuse("fetch_refused", str(error))


def shared(settings: FetchSettings) -> Fetcher:
    """Returns the one fetcher of this process with these settings; nobody closes it."""
    with _shared_lock:
        if settings not in _shared:
            _shared[settings] = Fetcher(settings)
        return _shared[settings]
