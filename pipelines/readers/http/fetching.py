# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures by URL: many at once, few from each host, in the order of the rows.

    fetcher = fetching.Fetcher(fetching.FetchSettings())
    for row, answer in fetcher.fetch_all([("a", "https://example.org/a.jpg")]):
        answer.data if not answer.reason else answer.measure

One `Fetcher` per process: the limits for a host hold for all who use it. Waiting (for a host's
turn, between two tries) occupies no thread, so a slow host does not hold up the others.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from parti.pipelines.readers.http import connections, downloads
from parti.stages.version import VERSION

T = TypeVar("T")

_POLL = 0.05  # seconds until a host is looked at again that others in the process use
_MAX_IDLE_HOSTS = 10_000
_shared: "dict[FetchSettings, Fetcher]" = {}
_shared_lock = threading.Lock()
_PACE = ("threads", "per_host", "delay", "window", "window_bytes")


@dataclasses.dataclass(frozen=True)
class FetchSettings:
    """How pictures are fetched. The limits hold in each worker process by itself.

    Attributes:
      threads: requests at a time.
      per_host: requests at a time to one host.
      delay: seconds between the starts of two requests to one host.
      connect_timeout: seconds until there is a connection.
      read_timeout: seconds between two pieces of an answer.
      total_timeout: seconds for one request.
      retries: further tries after a failure that may pass.
      backoff: seconds before the second try; twice as long before each further one, and up to half
        of it more or less by chance.
      max_wait: seconds before a try at most; if the server asks for more, the row is rejected.
      max_bytes: of a picture.
      max_redirects: followed for one picture.
      user_agent: says who asks.
      respect_opt_out: leave out what the server's headers keep from machine learning.
      allow_private: fetch also from this machine and from private networks.
      window: rows that may be under way or wait for an earlier one.
      window_bytes: of such rows and their pictures; beyond this no row is taken and no request
        is begun but for the first.
    """

    threads: int = 32
    per_host: int = 4
    delay: float = 0.0
    connect_timeout: float = 5.0
    read_timeout: float = 10.0
    total_timeout: float = 30.0
    retries: int = 2
    backoff: float = 1.0
    max_wait: float = 60.0
    max_bytes: int = 20 * 2**20
    max_redirects: int = 5
    user_agent: str = f"parti/{VERSION}"
    respect_opt_out: bool = True
    allow_private: bool = False
    window: int = 512
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


class _Host:
    """The state of one host: requests under way, and when the next may begin."""

    def __init__(self) -> None:
        self.active = 0
        self.next_start = 0.0


@dataclasses.dataclass(eq=False)
class _Task:
    """A row in the window."""

    row: Any
    url: str
    size: int = 0  # bytes that the row holds in memory
    host: str = ""
    tries: int = 0
    redirects: int = 0
    not_before: float = 0.0
    answer: downloads.Answer | None = None  # the final one


class Fetcher:
    """Fetches pictures; can be used by several threads of a process."""

    def __init__(self, settings: FetchSettings) -> None:
        self.settings = settings
        self._pool = connections.make_pool(settings.per_host, settings.allow_private)
        self._threads = concurrent.futures.ThreadPoolExecutor(settings.threads, "fetch")
        self._hosts: dict[str, _Host] = {}
        self._free = settings.threads
        self._lock = threading.Lock()

    def close(self) -> None:
        """Drops what is not begun, and the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.clear()

    def fetch_all(
        self, rows: Iterable[tuple[T, str]], size: Callable[[T], int] = lambda row: 0
    ) -> Iterator[tuple[T, downloads.Answer]]:
        """Yields each row with its answer, in the order of the rows.

        Rows are taken from the iterable as there is room in the window.

        Args:
          rows: (row, URL); a row whose URL is "" passes with an empty answer.
          size: the bytes that a row holds, which count for `window_bytes`.
        """
        window: collections.deque[_Task] = collections.deque()
        waiting: list[_Task] = []
        done: queue.SimpleQueue[tuple[_Task, downloads.Answer]] = queue.SimpleQueue()
        source = iter(rows)
        held, more = 0, True
        while more or window:
            while more and len(window) < self.settings.window and held < self.settings.window_bytes:
                if (item := next(source, None)) is None:
                    more = False
                    break
                task = _Task(item[0], item[1], size(item[0]))
                window.append(task)
                held += task.size
                if self._enter(task, task.url):
                    waiting.append(task)
                elif len(window) == 1:
                    break  # nothing to wait for: no need to take more rows first
            if held < self.settings.window_bytes or not window[0].answer:
                waiting = [t for t in waiting if not self._start(t, done, window[0] is t, held)]
            while window and window[0].answer is not None:
                task = window.popleft()
                held -= task.size
                yield task.row, task.answer  # type: ignore[misc]
            if not window:
                continue
            with contextlib.suppress(queue.Empty):
                timeout = self._until_next(waiting)
                while True:
                    task, answer = done.get(timeout=timeout)
                    if self._settle(task, answer):
                        waiting.append(task)
                    elif task.answer is not None:
                        task.size += len(task.answer.data)
                        held += len(task.answer.data)
                    timeout = 0.0

    def _enter(self, task: _Task, url: str) -> bool:
        """Sets where a task is to ask; returns whether it is to ask at all."""
        if not url:
            task.answer = downloads.Answer()
            return False
        try:
            task.url, task.host = url, connections.host_of(url)
        except ValueError as error:
            task.answer = downloads.Answer(reason="fetch_refused", measure=str(error))
        return task.answer is None

    def _start(
        self, task: _Task, done: "queue.SimpleQueue[Any]", is_first: bool, held: int
    ) -> bool:
        """Begins a request if its host's turn has come; returns whether it did."""
        now = time.monotonic()
        if now < task.not_before or (held >= self.settings.window_bytes and not is_first):
            return False
        with self._lock:
            host = self._host(task.host, now)
            if host.active >= self.settings.per_host or now < host.next_start or not self._free:
                return False
            host.active += 1
            host.next_start = now + self.settings.delay
            self._free -= 1
        self._threads.submit(self._ask, task, host, done)
        return True

    def _host(self, name: str, now: float) -> _Host:
        if len(self._hosts) > _MAX_IDLE_HOSTS:
            idle = [n for n, h in self._hosts.items() if not h.active and h.next_start < now]
            for other in idle:
                del self._hosts[other]
        return self._hosts.setdefault(name, _Host())

    def _ask(self, task: _Task, host: _Host, done: "queue.SimpleQueue[Any]") -> None:
        """Makes a request, in a thread of its own."""
        s = self.settings
        try:
            answer = downloads.get(
                self._pool,
                task.url,
                connect_timeout=s.connect_timeout,
                read_timeout=s.read_timeout,
                total_timeout=s.total_timeout,
                max_bytes=s.max_bytes,
                user_agent=s.user_agent,
                respect_opt_out=s.respect_opt_out,
            )
        except Exception as error:  # else the row would be waited for, for ever
            answer = downloads.Answer(reason="fetch_failed", measure=repr(error)[:200])
        with self._lock:
            host.active -= 1
            self._free += 1
            if 0 < answer.retry_after <= s.max_wait:  # the host wants rest from all of us
                host.next_start = max(host.next_start, time.monotonic() + answer.retry_after)
        done.put((task, answer))

    def _settle(self, task: _Task, answer: downloads.Answer) -> bool:
        """Takes the answer to a request; returns whether the task is to ask once more."""
        if answer.redirect:
            if task.redirects >= self.settings.max_redirects:
                measure = f"over {self.settings.max_redirects}"
                task.answer = downloads.Answer(reason=answer.reason, measure=measure)
                return False
            task.redirects += 1
            return self._enter(task, answer.redirect)
        wait = self.settings.backoff * 2**task.tries * random.uniform(0.5, 1.5)
        wait = max(min(wait, self.settings.max_wait), answer.retry_after)
        if not answer.again or task.tries >= self.settings.retries or wait > self.settings.max_wait:
            task.answer = answer
            return False
        task.tries += 1
        task.not_before = time.monotonic() + wait
        return True

    def _until_next(self, waiting: list[_Task]) -> float | None:
        """Returns the seconds until a waiting task may begin; None: when another is done."""
        if not waiting:
            return None
        rest = min(task.not_before for task in waiting) - time.monotonic()
        return rest if rest > 0 else _POLL


def shared(settings: FetchSettings) -> Fetcher:
    """Returns the one fetcher of this process with these settings; nobody closes it."""
    with _shared_lock:
        if settings not in _shared:
            _shared[settings] = Fetcher(settings)
        return _shared[settings]
