"""The agent that runs cells on another machine: one request a line, one answer a line, JSON both ways.

It outlives the connection: whoever connects next asks the unanswered request again, and gets the answer that was kept.
Without a connection for ten minutes it ends, and its folder with it. Python 3.9, numpy and ``avsdk`` only.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from avsdk import __version__, host, plugins
from avsdk.errors import AvsdkError, NotAvailable, Refused, UsageError
from avsdk.files import copy_file, safe_join
from avsdk.schema import encode
from avsdk.session import session_class
from avsdk.worker import Worker
from avsdk_bench import cell, memory, noise
from avsdk_bench.calibration import Calibration
from avsdk_bench.cold_start import cold_starts
from avsdk_bench.energy import Account, Meters, counts_gpu, unavailable
from avsdk_bench.facts import machine, runtime_facts

PROTOCOL = 1
ARRAY = "$array"
_ALONE_S = 600.0
_LOOK_S = 2.0
_MOST_LINE = 64 << 20
_OPEN_S = 900.0
_TURN_S = 600.0
_FACTORIES: dict[str, Callable[..., object]] = {"graph": cell.open_graph, "pipeline": cell.open_pipeline}


class Agent:
    """What may be asked, a method per verb. ``store`` holds the files by hash, ``job`` is the clean folder."""

    def __init__(self, store: Path, job: Path) -> None:
        self._store, self._job = store, job
        self._cells: dict[str, Worker] = {}
        self._engines: dict[str, str] = {}
        self._pids: dict[str, list[int]] = {}
        self._meters = Meters()
        self._accounts: dict[str, Account] = {}
        self._calibration: Calibration | None = None
        self._before: noise.Snapshot | None = None
        self.over = False

    def hello(self, entries: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """Who answers; takes the names of avsdk's plug-ins, which no installed package offers here."""
        plugins.lend(entries)
        return {"protocol": PROTOCOL, "avsdk": __version__, "python": platform.python_version()}

    def doctor(self, engine: str, device: str) -> dict[str, Any]:
        """Whether an engine can run on a device here, and what would fix it."""
        return dict(vars(session_class(engine).availability(device)))

    def probe(self) -> dict[str, Any]:
        """What this machine is, and its state."""
        return {"host": encode(host.probe()), "machine": encode(machine()), "threads": host.default_threads()}

    def bundle(self, name: str, files: Mapping[str, str]) -> str:
        """Lay a bundle out from the store; every file is checked again when it is opened."""
        folder = self._job / f"bundle-{int(name)}"
        for relative, digest in files.items():
            if relative.startswith("/") or ".." in relative.split("/") or not digest.isalnum():
                raise Refused(f"the path {relative!r} leaves its folder", expected="a relative path")
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            copy_file(safe_join(self._store, digest), folder / relative)
        return str(folder)

    def open(self, key: str, kind: str, engine: str, threads: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Start a cell's process, load what it measures, and tell its cold start."""
        worker, facts = _started(key, kind, threads, arguments, {}, lambda worker: self._cells.update({key: worker}))
        self._engines[key] = engine
        self._pids[key] = [int(pid) for pid in worker.ask("pids")]
        return facts

    def cold_starts(self, key: str, kind: str, threads: int, arguments: Mapping[str, Any]) -> Any:
        """The times of two starts in processes of their own, with caches cold and then warm."""

        def start(env: Mapping[str, str]) -> Mapping[str, float]:
            with contextlib.ExitStack() as stack:
                facts = _started(key, kind, threads, arguments, env, lambda worker: stack.callback(worker.close))[1]
            return {"total_ms": facts["cold_start_ms"], **facts["phases"]}

        return cold_starts(Path(str(arguments["bundle"])), start)

    def meter(self, key: str, devices: list[str]) -> dict[str, Any]:
        """Count the energy of a cell's turns from now on; why that cannot be, where nothing counts it."""
        try:
            self._accounts[key] = self._meters.account(gpu=counts_gpu(devices))
        except NotAvailable as error:
            return unavailable(error.failed)
        return {}

    def energy(self, key: str) -> dict[str, Any]:
        """What the turns of a metered cell took."""
        return self._accounts[key].facts()

    def resident(self, key: str) -> float | None:
        """The resident memory of a cell's processes in MB, read from outside."""
        return memory.resident_mb(self._pids.get(key, ()))

    def turn(self, key: str, items: int, arguments: Mapping[str, Any]) -> Any:
        """A cell's turn of so many items, charged to its meter."""
        account = self._accounts.get(key)
        with account.turn(items) if account else contextlib.nullcontext():
            return self.ask(key, "turn", arguments)

    def ask(self, key: str, what: str, arguments: Mapping[str, Any]) -> Any:
        """What a cell does or tells: a method of ``CellWorker``; an array of ns travels as a list."""
        if what.startswith("_") or what == "close" or not hasattr(cell.CellWorker, what):
            raise UsageError(f"a cell was asked for {what!r}", expected="a method of CellWorker")
        found = self._cells[key].ask(what, **arguments)
        return {ARRAY: found.tolist()} if hasattr(found, "tolist") else found

    def runtime(self, key: str) -> Any:
        """The runtime that lives in a cell."""
        return self._cells[key].call(runtime_facts, engine=self._engines[key])

    def switches(self, key: str) -> int | None:
        """How often a cell's threads were taken off a processor against their will."""
        return noise.involuntary_switches(self._pids.get(key, ()))

    def close(self, key: str) -> None:
        """End a cell."""
        if key in self._cells:
            self._cells.pop(key).close()

    def calibrate(self, threads: int) -> float:
        """The calibration kernel's time now, in ms; its process starts with the first."""
        if self._calibration is None:
            self._calibration = Calibration(threads)
        return self._calibration()

    def quiet(self) -> None:
        """Note the counters from which the noise is judged."""
        self._before = noise.snapshot()

    def judge(self, rounds: int, void_rounds: int, switches_per_s: float | None) -> dict[str, Any]:
        """The noise since ``quiet``."""
        before = self._before or noise.snapshot()
        found = noise.judge(
            before, noise.snapshot(), rounds=rounds, void_rounds=void_rounds, switches_per_s=switches_per_s
        )
        answer: dict[str, Any] = encode(found)
        return answer

    def bye(self) -> None:
        """End everything; the folder is gone when this is answered."""
        self.over = True
        self.shut()
        shutil.rmtree(self._job, ignore_errors=True)

    def shut(self) -> None:
        """End every process that was started."""
        for key in list(self._cells):
            self.close(key)
        if self._calibration is not None:
            self._calibration.close()
            self._calibration = None
        self._meters.close()


def _started(
    key: str, kind: str, threads: int, arguments: Mapping[str, Any], env: Mapping[str, str],
    own: Callable[[Worker], object],
) -> tuple[Worker, dict[str, Any]]:  # fmt: skip
    """A cell's process that has loaded what it measures, and its cold start; ``own`` takes it before it can fail."""
    limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    spawned = time.perf_counter_ns()
    worker = Worker(f"cell {key}", timeout_s=_TURN_S, env={**limits, **env})
    own(worker)
    worker.call(plugins.lend, entries=plugins.offered("engines", "predictors"))
    worker.open(_FACTORIES[kind], timeout_s=_OPEN_S, spawned_ns=spawned, **arguments)
    facts: dict[str, Any] = worker.ask("opened")
    return worker, facts


def answer(agent: Agent, line: bytes) -> dict[str, Any]:
    """The answer to one request; whatever is wrong with it is an answer too."""
    number = 0
    try:
        request = json.loads(line)
        number = int(request["id"])
        verb = str(request["verb"])
        if verb.startswith("_") or verb in ("over", "shut") or not hasattr(agent, verb):
            raise UsageError(f"there is no verb {verb!r}")
        return {"id": number, "result": getattr(agent, verb)(**request["arguments"])}
    except AvsdkError as error:
        return {"id": number, "error": error.to_json()}
    except (KeyError, TypeError, ValueError, OSError) as error:
        return {"id": number, "error": UsageError(f"{type(error).__name__}: {error}").to_json()}


def serve(folder: str, store: str) -> None:
    """Serve one connection after another until told to end, alone for too long, or without its folder."""
    job = Path(folder)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.environ["TMPDIR"] = str(job)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(job / "coming"))
    listener.listen(4)
    (job / "coming").rename(job / "socket")
    listener.settimeout(_LOOK_S)
    agent = Agent(Path(store), job)
    kept: dict[str, Any] = {}
    try:
        alone_s = 0.0
        while not agent.over and alone_s < _ALONE_S and (job / "socket").exists():
            try:
                connection, _ = listener.accept()
            except socket.timeout:  # noqa: UP041  (another class before Python 3.10)
                alone_s += _LOOK_S
                continue
            alone_s = 0.0
            with connection, contextlib.suppress(OSError):
                _converse(agent, connection, kept)
    finally:
        agent.shut()
        shutil.rmtree(job, ignore_errors=True)


def _converse(agent: Agent, connection: socket.socket, kept: dict[str, Any]) -> None:
    """Answer until the connection ends. A request that was answered before gets the same answer, and runs once."""
    stream = connection.makefile("rb")
    while not agent.over:
        line = stream.readline(_MOST_LINE)
        if not line.endswith(b"\n"):
            return
        if line != kept.get("line"):
            found = answer(agent, line)
            kept.update(line=line, answer=json.dumps(found).encode() + b"\n")
        connection.sendall(kept["answer"])
