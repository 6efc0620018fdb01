"""The child's end of the protocol of ``avsdk.worker``, and the values that travel between both ends.

Loaded by other Pythons, with other packages: the standard library only, and numpy where arrays travel.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import importlib.machinery
import importlib.util
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from avsdk.errors import AvsdkError, DiskFull, UsageError
from avsdk.telemetry import refuse_telemetry

_ARRAY, _PATH = "$array", "$path"
_PR_SET_PDEATHSIG = 1


def serve(config: Mapping[str, Any]) -> None:
    """Answer requests until standard input ends. Runs in the child only."""
    answers = int(config["answers"])
    os.set_inheritable(answers, False)
    requests = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    refuse_telemetry()
    if config["dies_with_parent"]:
        _die_with_parent(int(config["parent"]))
    if config["memory_mb"]:
        import resource

        limit = int(config["memory_mb"]) << 20
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    lent: dict[str, str] = {}
    sys.meta_path.insert(0, _LentPackages(lent))
    child = _Child(Path(config["folder"]), lent)
    for line in _until_parent_ends(requests):
        answer = json.dumps(child.answer(json.loads(line))).encode() + b"\n"
        while answer:
            answer = answer[os.write(answers, answer) :]


class _Child:
    def __init__(self, folder: Path, lent: dict[str, str]) -> None:
        self._folder = folder
        self._lent = lent
        self._object: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        number = request["id"]
        try:
            with full_disk_is_typed(self._folder):
                self._lent.update(request.get("packages", {}))
                arguments = unpack(request["arguments"], self._folder / f"{number}.in.npz")
                result = self._do(request, arguments)
                return {"id": number, "result": pack(result, self._folder / f"{number}.out.npz", "the result")}
        except AvsdkError as error:
            return {"id": number, "error": error.to_json()}
        except Exception as error:  # noqa: BLE001  (the boundary: whatever a foreign tool raises is reported, typed)
            traceback.print_exc()
            sys.stderr.flush()
            foreign = "".join(traceback.format_exception_only(type(error), error)).strip()
            return {"id": number, "foreign": foreign, "memory": isinstance(error, MemoryError)}

    def _do(self, request: dict[str, Any], arguments: dict[str, Any]) -> Any:
        verb = request["verb"]
        if verb == "call":
            return _find(request["target"])(**arguments)
        if verb == "open":
            self._close_object()
            self._object = _find(request["target"])(**arguments)
            return None
        if verb == "close":
            self._close_object()
            return None
        if self._object is None:
            raise UsageError(f"asked for {request['method']!r} before anything was opened", expected="open first")
        member = getattr(self._object, request["method"])
        return member(**arguments) if callable(member) else member

    def _close_object(self) -> None:
        closing, self._object = self._object, None
        if hasattr(closing, "close"):
            closing.close()


class _LentPackages:
    """Finds the packages that the parent lends, each by its own file, so that nothing else of the parent's is seen."""

    def __init__(self, origins: Mapping[str, str]) -> None:
        self._origins = origins

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        origin = self._origins.get(name)
        if origin is None:
            return None
        if origin.endswith(".py"):
            return importlib.util.spec_from_file_location(name, origin)
        first = Path(origin, "__init__.py")
        if not first.exists():
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [origin]
            return spec
        return importlib.util.spec_from_file_location(name, first, submodule_search_locations=[origin])


def _until_parent_ends(requests: int) -> Iterator[str]:
    """Yield request lines; when input ends while one is being served, the parent died: end the whole process group."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    ended, busy = threading.Event(), threading.Event()

    def read() -> None:
        with os.fdopen(requests) as stream:
            for line in stream:
                lines.put(line)
        ended.set()
        if busy.is_set():
            _end_group()
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        line = lines.get()
        busy.set()
        if line is None or ended.is_set():
            return
        yield line
        busy.clear()


def _end_group() -> None:
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends, for the case that native code never lets Python see it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _find(target: str) -> Callable[..., Any]:
    module, _, qualname = target.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    function: Callable[..., Any] = found
    return function


# -- values that travel ------------------------------------------------------------------------------------------------


def pack(value: Any, arrays_file: Path, owner: str) -> Any:
    """The JSON form of ``value``; its arrays are written to ``arrays_file``. Tuples arrive as lists."""
    arrays: list[Any] = []
    packed = _pack_value(value, arrays, owner)
    if arrays:
        import numpy as np

        with arrays_file.open("wb") as stream:
            np.savez(stream, **{str(index): array for index, array in enumerate(arrays)})
    return packed


def _pack_value(value: Any, arrays: list[Any], where: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        # Subclasses (numpy.float64, enum members) arrive as the plain value.
        return value if type(value) in (type(None), bool, int, float, str) else json.loads(json.dumps(value))
    if isinstance(value, os.PathLike):
        return {_PATH: os.fspath(value)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key in (_ARRAY, _PATH):
                raise UsageError(f"the key {key!r} in {where} cannot travel", expected="a plain string")
        return {key: _pack_value(item, arrays, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack_value(item, arrays, f"{where}[{index}]") for index, item in enumerate(value)]
    numpy: Any = sys.modules.get("numpy")  # a numpy value cannot be here without it
    if numpy and isinstance(value, numpy.generic):
        return _pack_value(value.item(), arrays, where)
    if numpy and isinstance(value, numpy.ndarray) and value.dtype.kind in "biufcSU":
        arrays.append(value)
        return {_ARRAY: len(arrays) - 1}
    kind = f"{type(value).__name__} of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
    raise UsageError(f"{where} is a {kind}, which cannot travel", expected="JSON values, paths and plain numpy arrays")


def unpack(packed: Any, arrays_file: Path) -> Any:
    """The value that ``pack`` packed; removes ``arrays_file``."""
    if not arrays_file.exists():
        return _unpack_value(packed, {})
    import numpy as np

    with np.load(arrays_file, allow_pickle=False) as stored:
        arrays = {int(name): stored[name] for name in stored.files}
    arrays_file.unlink()
    return _unpack_value(packed, arrays)


def _unpack_value(packed: Any, arrays: Mapping[int, Any]) -> Any:
    if isinstance(packed, dict):
        if _ARRAY in packed:
            return arrays[packed[_ARRAY]]
        if _PATH in packed:
            return Path(packed[_PATH])
        return {key: _unpack_value(item, arrays) for key, item in packed.items()}
    if isinstance(packed, list):
        return [_unpack_value(item, arrays) for item in packed]
    return packed


@contextlib.contextmanager
def full_disk_is_typed(folder: Path) -> Iterator[None]:
    """Turn a full disk into ``DiskFull``."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        failed = f"no space left ({error.filename or folder})"
        raise DiskFull(failed, expected="free space", fix="free some and run again") from error
