"""Batches, read ahead by a thread or by worker processes; what cannot be read is named once and replaced.

Worker w of n reads the steps w, w + n, ... by itself and waits until its batch is fetched, so at most one batch per
worker is ahead, and the batches are the same for any number of workers. They are spawned, not forked: a fork of a
process that has computed with several threads may hang.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Protocol

from avsdk.errors import AvsdkError, NotAvailable, UnusableInput, error_from_json
from avsdk_train.data import share_memory
from avsdk_train.family import Batch, TrainingData
from avsdk_train.order import Order

Corrupt = dict[int, str]
"""Why items could not be read, by their index."""

_AHEAD = 2
_JOIN_S = 5.0


class BatchReader:
    """Reads the batch of a step."""

    def __init__(self, data: TrainingData, order: Order, max_corrupt: int, corrupt: Mapping[int, str]) -> None:
        self._data = data
        self._order = order
        self._max_corrupt = max_corrupt
        self._corrupt = dict(corrupt)

    def read(self, step: int) -> tuple[Batch, Corrupt]:
        """The batch, and the corrupt items that stood in it and were replaced."""
        found: Corrupt = {}
        while True:
            if len(self._corrupt) > self._max_corrupt or len(self._corrupt) >= len(self._data):
                raise too_many(self._corrupt, self._max_corrupt)
            try:
                return self._batch(step), found
            except UnusableInput:
                new = self._corrupt_items(step) if self._max_corrupt else {}
                if not new:
                    raise
            found |= new
            self._corrupt |= new

    def _batch(self, step: int) -> Batch:
        return self._data.batch(self._order.samples(len(self._data), step, self._corrupt), step / self._order.stop)

    def _corrupt_items(self, step: int) -> Corrupt:
        """Read a batch's items one by one: the error of a batch does not tell which it was."""
        found: Corrupt = {}
        for sample in self._order.samples(len(self._data), step, self._corrupt):
            try:
                self._data.batch([sample], step / self._order.stop)
            except UnusableInput as error:
                found[sample.index] = error.failed
        return found


def too_many(corrupt: Mapping[int, str], limit: int) -> UnusableInput:
    """The error of more corrupt items than are allowed."""
    named = "; ".join(corrupt[index] for index in sorted(corrupt))
    return UnusableInput(
        f"{len(corrupt)} items cannot be read: {named}",
        expected=f"at most {limit}",
        fix=f"remove or replace them, or raise the limit with --set max_corrupt={len(corrupt)}",
    )


class _Reading(Protocol):
    def fetch(self, step: int) -> tuple[Batch, Corrupt]: ...

    def close(self) -> None: ...


class _Thread:
    """One thread that reads two steps ahead."""

    def __init__(self, reader: BatchReader, order: Order) -> None:
        self._reader = reader
        self._stop = order.stop
        self._next = order.start
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="data")
        self._ahead: list[Future[tuple[Batch, Corrupt]]] = []

    def fetch(self, step: int) -> tuple[Batch, Corrupt]:
        while self._next < min(step + _AHEAD + 1, self._stop):
            self._ahead.append(self._pool.submit(self._reader.read, self._next))
            self._next += 1
        return self._ahead.pop(0).result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    connection: Connection


class _Workers:
    """Worker processes; one that dies is a typed error at the step that it owes."""

    def __init__(self, reader: BatchReader, order: Order, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._start = order.start
        self._workers: list[_Worker] = []
        for place in range(count):
            ours, theirs = context.Pipe(duplex=False)
            steps = range(order.start + place, order.stop, count)
            process = context.Process(
                target=_work, args=(theirs, reader, steps, count), name=f"data-{place}", daemon=True
            )
            process.start()
            theirs.close()  # or the end of the worker would not be the end of the pipe
            self._workers.append(_Worker(process, ours))

    def fetch(self, step: int) -> tuple[Batch, Corrupt]:
        worker = self._workers[(step - self._start) % len(self._workers)]
        try:
            kind, content = pickle.loads(worker.connection.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise _died(worker.process, step) from error
        if kind == "error":
            raise error_from_json(content)
        batch, corrupt = content
        return batch, corrupt

    def close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_JOIN_S)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()


def _died(process: BaseProcess, step: int) -> NotAvailable:
    process.join(_JOIN_S)
    code = process.exitcode
    ended = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
    return NotAvailable(
        f"the data worker {process.name} (process {process.pid}) ended {ended} before it had read step {step + 1}",
        expected="a worker that lives as long as the training",
        fix="go on with --resume from the last checkpoint, with fewer --set workers=N where memory was short",
    )


def _work(connection: Connection, reader: BatchReader, steps: range, workers: int) -> None:
    """The whole life of a worker process."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the parent's to answer
    torch.set_num_threads(1)
    share_memory(workers)
    for step in steps:
        answer: tuple[str, Any]
        try:
            answer = ("batch", reader.read(step))
        except AvsdkError as error:
            answer = ("error", error.to_json())
        except Exception:  # noqa: BLE001  (a bug in the reading of data is told where it can be seen)
            answer = ("error", AvsdkError(f"a data worker failed:\n{traceback.format_exc()}").to_json())
        try:
            connection.send_bytes(pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL))
        except ConnectionError:
            return  # the training has ended
        if answer[0] == "error":
            return


class Feed:
    """The batches of an order, step by step; ``corrupt`` gathers what was passed over."""

    def __init__(
        self, data: TrainingData, order: Order, *, workers: int = 0, max_corrupt: int = 0,
        corrupt: Corrupt | None = None, notice: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        self.corrupt: Corrupt = {} if corrupt is None else corrupt  # the caller's own, which gathers them
        self._order = order
        self._max_corrupt = max_corrupt
        self._notice = notice
        reader = BatchReader(data, order, max_corrupt, self.corrupt)
        workers = min(workers, order.stop - order.start)
        self._reading: _Reading = _Workers(reader, order, workers) if workers else _Thread(reader, order)

    def __enter__(self) -> Feed:
        """Reading has begun already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread or the workers."""
        self._reading.close()

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches from the order's start to its stop."""
        for step in range(self._order.start, self._order.stop):
            batch, corrupt = self._reading.fetch(step)
            self._name(corrupt)
            yield batch

    def _name(self, corrupt: Corrupt) -> None:
        for index in sorted(set(corrupt) - set(self.corrupt)):
            self._notice(f"passed over, and replaced by another: {corrupt[index]}")
            self.corrupt[index] = corrupt[index]
        if len(self.corrupt) > self._max_corrupt:
            raise too_many(self.corrupt, self._max_corrupt)
