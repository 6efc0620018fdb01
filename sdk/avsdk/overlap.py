"""Work on a stream in three threads: what comes before, the caller's own part, and what comes after, all at once.

Queues between them are short, so memory stays flat. What fails in a thread is raised in the caller; when the caller is
interrupted or fails, the threads end with the item at hand and are waited for, so that nothing runs on behind it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, Optional, TypeVar

Item = TypeVar("Item")

DEPTH = 1
"""Items that may wait on either side, beside the one at hand."""
_LOOK_S = 0.05


class _Line(Generic[Item]):
    """A bounded queue with an end, whose two sides wake up when it is cut."""

    def __init__(self, depth: int) -> None:
        self._queue: queue.Queue[tuple[Optional[Item], bool]] = queue.Queue(depth)  # noqa: UP045
        self.cut = threading.Event()

    def put(self, item: Item | None, *, last: bool = False) -> bool:
        """Wait for room; False where the line was cut."""
        while not self.cut.is_set():
            try:
                self._queue.put((item, last), timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False

    def items(self) -> Iterator[Item]:
        """All items up to the last, or until the line is cut."""
        while not self.cut.is_set():
            try:
                item, last = self._queue.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if last:
                return
            yield item  # type: ignore[misc]


class _Thread(Generic[Item]):
    """A thread that keeps what it raised for the one who joins it."""

    def __init__(self, work: Callable[[], None], line: _Line[Item]) -> None:
        self._failure: BaseException | None = None
        self._work = work
        self._line = line
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that joins)
            self._failure = error
            self._line.cut.set()

    def end(self, *, cut: bool) -> None:
        """Wait until it ended, after the item at hand where its line is ``cut``; raise what it raised otherwise."""
        if cut:
            self._line.cut.set()
        self._thread.join()
        if self._failure is not None and not cut:
            raise self._failure

    def raise_failure(self) -> None:
        """Raise what the thread raised, if it did."""
        if self._failure is not None:
            raise self._failure


@contextmanager
def drawn_ahead(items: Iterable[Item], depth: int = DEPTH) -> Iterator[Iterator[Item]]:
    """The items, drawn in a thread while the caller works on those before."""
    line: _Line[Item] = _Line(depth)

    def draw() -> None:
        for item in items:
            if not line.put(item):
                return
        line.put(None, last=True)

    thread = _Thread(draw, line)

    def given() -> Iterator[Item]:
        yield from line.items()
        thread.raise_failure()

    try:
        yield given()
    except BaseException:
        thread.end(cut=True)
        raise
    thread.end(cut=True)
    thread.raise_failure()


@contextmanager
def done_behind(work: Callable[[Item], object], depth: int = DEPTH) -> Iterator[Callable[[Item], None]]:
    """A function that hands an item to a thread, which calls ``work`` on each in order; all are done at the end."""
    line: _Line[Item] = _Line(depth)

    def follow() -> None:
        for item in line.items():
            work(item)

    thread = _Thread(follow, line)

    def hand_over(item: Item) -> None:
        if not line.put(item):
            thread.raise_failure()

    try:
        yield hand_over
        line.put(None, last=True)
        thread.end(cut=False)  # waits for all that was handed over, and may be interrupted while it does
    except BaseException:
        thread.end(cut=True)
        raise
