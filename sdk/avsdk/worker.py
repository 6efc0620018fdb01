"""The child-process protocol: run a function, or keep an object, in another Python, and survive its death.

The parent starts ``python -c`` with a few lines that load this very package from its own folder, so that the other
Python needs nothing but the standard library (and numpy where arrays travel); its site-packages stay its own. A request
is one JSON line on the child's standard input, an answer one JSON line on a private file descriptor, and arrays travel
beside them as .npz files in a private folder. The child's standard output and error both go to a log, so a chatty
converter cannot corrupt an answer.

| verb  | does                                                         |
|-------|--------------------------------------------------------------|
| call  | one function                                                 |
| open  | construct the object that later requests ask                 |
| ask   | one method of that object, or the value of an attribute      |
| close | the object's ``close``, then the end of the child            |

Death by a signal, a non-zero exit, a limit passed or an exception of the tool becomes ``ToolchainCrashed`` with the
last lines of the log; an ``AvsdkError`` raised in the child is raised in the parent with its own type. The child's end
is ``avsdk.worker_child``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Union

from avsdk.errors import AvsdkError, ToolchainCrashed, UsageError, error_from_json
from avsdk.worker_child import full_disk_is_typed, pack, unpack

Target = Union[str, Callable[..., Any]]
"""A module-level function (or class, or class method), or its name as ``module:qualname``."""

Python = Union[str, "os.PathLike[str]", Sequence[str]]
"""An interpreter, or the words of a command that ends in one (``["qemu-aarch64", "-L", ROOT, PYTHON]``)."""

_TAIL_LINES = 20
_CLOSE_S = 5.0

_BOOTSTRAP = """
import importlib.util as u, json, os, sys
sys.path[:] = [entry for entry in sys.path if entry]
config = json.loads(sys.argv[1])
folder = config["avsdk"]
spec = u.spec_from_file_location("avsdk", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])
module = u.module_from_spec(spec)
sys.modules["avsdk"] = module
spec.loader.exec_module(module)
from avsdk.worker_child import serve
serve(config)
"""


class Worker:
    """A child process that serves one caller, one request at a time; not for use by several threads at once.

    ``name`` stands in messages. ``timeout_s`` bounds each request (the first one includes the start); None is no limit.
    ``memory_mb`` bounds the child's data segment and private mappings. ``env`` is laid over this process's environment.
    ``packages`` lends further packages to the child: import name -> folder. After a crash a worker stays dead.
    """

    def __init__(
        self,
        name: str,
        python: Python = sys.executable,
        *,
        timeout_s: float | None,
        memory_mb: int | None = None,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        packages: Mapping[str, Path] | None = None,
    ) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.memory_mb = memory_mb
        self._lent = {package: str(folder) for package, folder in (packages or {}).items()}
        self._ended = ""
        self._buffer = b""
        self._requests = 0
        self._holds_object = False
        self._tail = ""
        self._folder = Path(tempfile.mkdtemp(prefix="avsdk-worker-"))
        self._log = log or self._folder / "log"
        try:
            self._start(_command(python), env or {})
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    @property
    def pid(self) -> int:
        """The child's process id, which is its process group's too."""
        return self._process.pid

    def call(self, function: Target, /, *, timeout_s: float | None = None, **arguments: Any) -> Any:
        """Call a module-level function in the child and return its result (JSON values, paths and arrays)."""
        return self._request({"verb": "call", **self._target(function)}, arguments, timeout_s)

    def open(self, factory: Target, /, *, timeout_s: float | None = None, **arguments: Any) -> None:
        """Construct the object that ``ask`` speaks to; it replaces, and closes, one opened before."""
        self._request({"verb": "open", **self._target(factory)}, arguments, timeout_s)
        self._holds_object = True

    def ask(self, method: str, /, *, timeout_s: float | None = None, **arguments: Any) -> Any:
        """Call a method of the opened object, or read the attribute of that name."""
        return self._request({"verb": "ask", "method": method}, arguments, timeout_s)

    def close(self) -> None:
        """End the child and whatever it started. Closing twice is fine; errors of the object's close are dropped."""
        if self._holds_object and not self._ended:
            with contextlib.suppress(AvsdkError):
                self._request({"verb": "close"}, {}, _CLOSE_S)
        if not self._ended:
            self._stop(grace_s=_CLOSE_S)
            self._ended = "was closed"
        shutil.rmtree(self._folder, ignore_errors=True)

    def log_tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines that the child wrote to its standard output and error."""
        return "\n".join((self._tail or _read_tail(self._log)).splitlines()[-lines:])

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, python: list[str], env: Mapping[str, str]) -> None:
        answers, child_end = os.pipe()
        self._answers = answers
        config = {
            "avsdk": str(Path(__file__).resolve().parent),
            "answers": child_end,
            "folder": str(self._folder),
            "memory_mb": self.memory_mb,
            # PR_SET_PDEATHSIG fires when the starting *thread* ends, so it is only safe from the main one.
            "dies_with_parent": threading.current_thread() is threading.main_thread(),
            "parent": os.getpid(),
        }
        command = [*python, "-u", "-X", "faulthandler", "-c", _BOOTSTRAP, json.dumps(config)]
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=(child_end,),
                    # What the child leaves among temporary files when it is killed goes with its folder.
                    env={**os.environ, "TMPDIR": str(self._folder), **env},
                    start_new_session=True,
                )
        except OSError as error:
            os.close(answers)
            raise ToolchainCrashed(f"{self.name}: {python[0]} could not be started: {error.strerror}") from error
        finally:
            os.close(child_end)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._watched = [answers, *_pidfd(self._process.pid)]

    def _target(self, target: Target) -> dict[str, Any]:
        name = target if isinstance(target, str) else name_of(target)
        top = name.partition(":")[0].partition(".")[0]
        offered = {package: _origin(package) for package in _family_packages()}
        if not isinstance(target, str) or top.startswith("avsdk"):
            offered[top] = _origin(top)
        found = {package: origin for package, origin in offered.items() if origin}
        return {"target": name, "packages": {**found, **self._lent}}

    def _request(self, request: dict[str, Any], arguments: Mapping[str, Any], timeout_s: float | None) -> Any:
        what = f"{request['verb']} {request.get('target') or request.get('method') or ''}".strip()
        if self._ended:
            raise ToolchainCrashed(f"{self.name} cannot {what}: the process {self._ended}", fix="open a new one")
        limit = self.timeout_s if timeout_s is None else timeout_s
        deadline = None if limit is None else time.monotonic() + limit
        self._requests += 1
        with full_disk_is_typed(self._folder):
            packed = pack(arguments, self._folder / f"{self._requests}.in.npz", "arguments")
        line = json.dumps({**request, "id": self._requests, "arguments": packed}).encode() + b"\n"
        try:
            self._send(line, deadline)
            answer = self._receive(deadline)
        except TimeoutError as error:
            self._stop(grace_s=0)
            self._fail(f"{what} did not end within {limit:g} s and was killed", "was killed for taking too long", error)
        except BaseException:
            self._stop(grace_s=0)
            self._ended = "was interrupted"
            raise
        if answer is None:
            code = self._stop(grace_s=_CLOSE_S)
            self._fail(f"{what} {_manner_of_death(code, self.memory_mb)}", "has died", None)
        return self._result(answer, what)

    def _send(self, line: bytes, deadline: float | None) -> None:
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        while line:
            _, ready, _ = select.select([], [pipe], [], _remaining(deadline))
            if not ready:
                raise TimeoutError
            try:
                line = line[os.write(pipe, line) :]
            except BrokenPipeError:
                return  # the child is gone; _receive sees the end of its answers

    def _receive(self, deadline: float | None) -> dict[str, Any] | None:
        """One answer, or None when the child ended instead. Sleeps in select; never polls."""
        while b"\n" not in self._buffer:
            ready, _, _ = select.select(self._watched, [], [], _remaining(deadline))
            if not ready:
                raise TimeoutError
            if self._answers in ready:
                block = os.read(self._answers, 1 << 20)
                if not block:
                    return None
                self._buffer += block
            else:  # only the process's own descriptor: it ended, though something it forked holds the pipe open
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _result(self, answer: dict[str, Any], what: str) -> Any:
        if "error" in answer:
            raise error_from_json(answer["error"])
        if "foreign" in answer:
            limit = f" (its memory limit is {self.memory_mb} MB)" if self.memory_mb and answer["memory"] else ""
            raise ToolchainCrashed(f"{self.name}: {what} failed{limit}: {answer['foreign']}{self._quoted_tail()}")
        return unpack(answer["result"], self._folder / f"{self._requests}.out.npz")

    def _fail(self, text: str, ended: str, cause: BaseException | None) -> NoReturn:
        self._ended = ended
        raise ToolchainCrashed(f"{self.name}: {text}{self._quoted_tail()}") from cause

    def _quoted_tail(self) -> str:
        tail = self.log_tail()
        return f"\nLast lines of its log:\n{tail}" if tail else ""

    def _stop(self, *, grace_s: float) -> int:
        """End the child: end of input first, then SIGKILL to its whole process group; return its exit status."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        deadline = time.monotonic() + grace_s
        while grace_s:
            ready, _, _ = select.select(self._watched, [], [], _remaining(deadline))
            # A descriptor of the process itself, or the end of its answers, says that it ended.
            if not ready or ready != [self._answers] or not os.read(self._answers, 1 << 20):
                break
        self._tail = ""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        for descriptor in self._watched:
            os.close(descriptor)
        self._watched = []
        self._tail = _read_tail(self._log)
        self._ended = self._ended or "has ended"
        return code


def call_in_child(
    function: Target,
    /,
    *,
    name: str,
    python: Python = sys.executable,
    timeout_s: float | None = None,
    memory_mb: int | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    **arguments: Any,
) -> Any:
    """Call one function in a child of its own and return the result."""
    with Worker(name, python, timeout_s=timeout_s, memory_mb=memory_mb, env=env, log=log) as worker:
        return worker.call(function, **arguments)


def name_of(target: Callable[..., Any]) -> str:
    """``module:qualname`` of a function that a child can find by name: no lambda, no local function."""
    module, qualname = getattr(target, "__module__", ""), getattr(target, "__qualname__", "")
    owner = getattr(target, "__self__", None)
    if isinstance(owner, type):  # a class method: named by the class it was taken from, which may have inherited it
        module, qualname = owner.__module__, f"{owner.__qualname__}.{getattr(target, '__name__', '')}"
    if not module or not qualname or "<" in qualname or module == "__main__":
        raise UsageError(
            f"{target!r} cannot run in a child process", expected="a function at the level of an importable module"
        )
    return f"{module}:{qualname}"


def _family_packages() -> set[str]:
    """avsdk's own packages that are loaded here; a function in one may import the others."""
    return {name for name in list(sys.modules) if name.startswith("avsdk_") and "." not in name}


def _origin(package: str) -> str:
    """The folder of a package, or the file of a single module; empty for the standard library and what has no file."""
    module = sys.modules.get(package)
    spec = getattr(module, "__spec__", None) or (None if module else importlib.util.find_spec(package))
    file = getattr(module, "__file__", None) or (spec.origin if spec is not None else None)
    if not file:  # a namespace package: a folder without __init__.py
        portions = list(getattr(module, "__path__", None) or getattr(spec, "submodule_search_locations", None) or ())
        return portions[0] if portions else ""
    if not file.endswith(".py"):
        return ""
    folder = Path(file).resolve().parent
    standard = Path(sysconfig.get_paths()["stdlib"]).resolve()
    if standard in folder.parents or folder == standard:
        installed = "site-packages" in folder.parts or "dist-packages" in folder.parts
        if not installed:
            return ""
    return str(folder) if Path(file).name == "__init__.py" else str(Path(file).resolve())


def _command(python: Python) -> list[str]:
    """A foreign Python is isolated: it must not see this one's PYTHONPATH or user packages."""
    words = [os.fspath(python)] if isinstance(python, (str, os.PathLike)) else list(python)
    return words if words == [sys.executable] else [*words, "-I"]


def _pidfd(pid: int) -> list[int]:
    opener = getattr(os, "pidfd_open", None)
    if opener is None:
        return []
    try:
        return [opener(pid)]
    except OSError:  # a kernel without it
        return []


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _read_tail(log: Path, size: int = 16384) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - size))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def _manner_of_death(code: int, memory_mb: int | None) -> str:
    if code >= 0:
        return f"ended its process with exit code {code}"
    name = next((item.name for item in signal.Signals if item == -code), f"signal {-code}")
    limit = f"; its memory limit was {memory_mb} MB" if memory_mb and name in {"SIGABRT", "SIGSEGV"} else ""
    memory = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return f"died by {name}{limit}{memory}"
