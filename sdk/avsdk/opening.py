"""Where a session's opening compiles: marked by the engine, timed by whoever asks; a session never times itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

Watcher = Callable[[], AbstractContextManager[object]]

_watcher: ContextVar[Watcher] = ContextVar("_watcher", default=nullcontext)


def compiling() -> AbstractContextManager[object]:
    """What an engine puts around the call in which its runtime compiles, optimises or plans the model."""
    return _watcher.get()()


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Have every ``compiling`` of the block surrounded by ``watcher()``."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
