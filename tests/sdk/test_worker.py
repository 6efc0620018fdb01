"""A child may die in any way it likes: the parent gets a typed error, and nothing is left running."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsdk.errors import BundleRefused, ToolchainCrashed, UsageError
from avsdk.worker import Worker, call_in_child, name_of

# -- what runs in the child --------------------------------------------------------------------------------------------


def double(value: Any, shift: int = 0) -> Any:
    return {"doubled": value * 2 + shift}


def echo(value: Any) -> Any:
    return value


def fill(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.float32).reshape(-1, 4)


def die_by(number: int) -> None:
    sys.stdout.write("about to die")
    os.kill(os.getpid(), number)


def read_nowhere() -> None:
    ctypes.string_at(0)


def leave(code: int) -> None:
    sys.stderr.write("leaving now\n")
    sys.stderr.flush()
    os._exit(code)


def leave_politely(code: int) -> None:
    sys.exit(code)


def hang() -> None:
    time.sleep(600)


def chatter() -> str:
    sys.stdout.write('{"id": 1, "result": "forged"}\n')
    os.write(1, b"\x00\xffgarbage\n" * 1000)
    return "kept"


def swallow_input() -> str:
    return sys.stdin.read()


def eat_memory(megabytes: int) -> int:
    return len(bytearray(megabytes << 20))


def refuse() -> None:
    raise BundleRefused("the hash of x is wrong", expected="abc", fix="get a whole copy")


def raise_foreign() -> None:
    message = "unsupported operator Foo"
    raise ValueError(message)


def fork_and_die() -> None:
    """Die while a process that was forked still holds every descriptor open."""
    if os.fork() == 0:
        time.sleep(600)
    os.kill(os.getpid(), signal.SIGKILL)


def start_grandchild() -> int:
    return subprocess.Popen(["sleep", "600"]).pid


def see(name: str) -> dict[str, Any]:
    return {"path": sys.path, "variable": os.environ.get(name), "pid": os.getpid(), "group": os.getpgrp()}


class Counter:
    """An object that lives in the child."""

    def __init__(self, start: int) -> None:
        self.count = start

    @classmethod
    def from_text(cls, text: str) -> Counter:
        return cls(int(text))

    def add(self, amount: int) -> int:
        self.count += amount
        return self.count

    def scale(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array * self.count for name, array in feeds.items()}

    def close(self) -> None:
        sys.stdout.write("counter closed\n")


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def _await_end(pid: int) -> bool:
    for _ in range(500):
        if not _alive(pid):
            return True
        time.sleep(0.02)
    return False


# -- calls that succeed ------------------------------------------------------------------------------------------------


def test_a_call_returns_what_the_function_returned() -> None:
    with Worker("test", timeout_s=30) as worker:
        assert worker.call(double, value=4, shift=1) == {"doubled": 9}
        assert worker.call("os.path:basename", p="/a/b") == "b"
        assert worker.pid != os.getpid()


@pytest.mark.parametrize(
    "value",
    [None, True, -3, 1.5, "text \n ö", [], {"a": [1, {"b": None}]}, Path("/some/where"), float("inf"), "x" * 3_000_000],
)
def test_values_travel_both_ways(value: Any) -> None:
    assert call_in_child(echo, name="test", timeout_s=30, value=value) == value


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3), np.float32),
        np.arange(24, dtype=np.int64).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(7, np.uint8),
        np.array([True, False]),
        np.array([np.nan, np.inf], np.float16),
    ],
)
def test_arrays_travel_bit_for_bit(array: np.ndarray) -> None:
    back = call_in_child(echo, name="test", timeout_s=30, value={"deep": [array]})["deep"][0]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_numpy_scalars_and_tuples_arrive_as_plain_values() -> None:
    back = call_in_child(echo, name="test", timeout_s=30, value=(np.float64(0.5), np.int32(3), np.bool_(True)))
    assert back == [0.5, 3, True]
    assert [type(item) for item in back] == [float, int, bool]


def test_big_arrays_come_back_and_leave_no_files() -> None:
    with Worker("test", timeout_s=60) as worker:
        result = worker.call(fill, size=8_000_000)
        assert result.shape == (2_000_000, 4)
        assert result[-1, -1] == 7_999_999
        assert not list(worker._folder.glob("*.npz"))
        folder = worker._folder
    assert not folder.exists()


def test_what_the_tool_prints_goes_to_the_log_and_cannot_forge_an_answer() -> None:
    with Worker("test", timeout_s=30) as worker:
        assert worker.call(chatter) == "kept"
        assert "garbage" in worker.log_tail()


def test_a_tool_that_reads_its_input_gets_nothing() -> None:
    with Worker("test", timeout_s=30) as worker:
        assert worker.call(swallow_input) == ""
        assert worker.call(echo, value=1) == 1


def test_an_object_is_kept_between_requests_and_closed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Worker("test", timeout_s=30, log=log) as worker:
        worker.open(Counter, start=2)
        assert worker.ask("add", amount=3) == 5
        assert worker.ask("count") == 5
        scaled = worker.ask("scale", feeds={"x": np.ones(3, np.float32)})
        assert scaled["x"].tolist() == [5, 5, 5]
        worker.open(Counter.from_text, text="40")
        assert worker.ask("add", amount=2) == 42
    assert log.read_text().count("counter closed") == 2


def test_asking_before_opening_is_refused() -> None:
    with Worker("test", timeout_s=30) as worker, pytest.raises(UsageError, match="before anything was opened"):
        worker.ask("add", amount=1)


def test_env_is_laid_over_and_the_child_leads_its_own_group() -> None:
    with Worker("test", timeout_s=30, env={"AVSDK_TEST": "1"}) as worker:
        seen = worker.call(see, name="AVSDK_TEST")
        assert seen["variable"] == "1"
        assert seen["group"] == seen["pid"] == worker.pid
        assert "" not in seen["path"]


# -- deaths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "arguments", "text"),
    [
        (die_by, {"number": signal.SIGSEGV}, "died by SIGSEGV"),
        (read_nowhere, {}, "died by SIGSEGV"),
        (die_by, {"number": signal.SIGKILL}, "died by SIGKILL; the system may have run out of memory"),
        (die_by, {"number": signal.SIGABRT}, "died by SIGABRT"),
        (leave, {"code": 3}, "ended its process with exit code 3"),
        (leave, {"code": 0}, "ended its process with exit code 0"),
        (leave_politely, {"code": 3}, "ended its process with exit code 3"),
        (fork_and_die, {}, "died by SIGKILL"),
        (raise_foreign, {}, "ValueError: unsupported operator Foo"),
    ],
)
def test_a_death_is_a_typed_error_with_the_cause(function: Any, arguments: dict[str, Any], text: str) -> None:
    with Worker("the litert toolchain", timeout_s=30) as worker, pytest.raises(ToolchainCrashed) as caught:
        worker.call(function, **arguments)
    assert text in str(caught.value)
    assert "the litert toolchain" in str(caught.value)
    assert function.__name__ in str(caught.value)
    assert caught.value.exit_code == 3


def test_the_last_log_lines_are_in_the_error() -> None:
    with Worker("test", timeout_s=30) as worker, pytest.raises(ToolchainCrashed, match=r"(?s)log:.*leaving now"):
        worker.call(leave, code=3)


def test_a_native_crash_leaves_the_python_stack_in_the_log() -> None:
    with Worker("test", timeout_s=30) as worker, pytest.raises(ToolchainCrashed, match="in read_nowhere"):
        worker.call(read_nowhere)


def test_after_a_crash_the_worker_stays_dead_and_says_so() -> None:
    with Worker("test", timeout_s=30) as worker:
        with pytest.raises(ToolchainCrashed):
            worker.call(leave, code=3)
        with pytest.raises(ToolchainCrashed, match="has died"):
            worker.call(echo, value=1)


def test_after_a_foreign_exception_the_worker_goes_on() -> None:
    with Worker("test", timeout_s=30) as worker:
        with pytest.raises(ToolchainCrashed):
            worker.call(raise_foreign)
        assert worker.call(echo, value=1) == 1


def test_a_hang_is_killed_at_the_time_limit() -> None:
    with Worker("test", timeout_s=30) as worker:
        worker.call(echo, value=1)
        pid = worker.pid
        with pytest.raises(ToolchainCrashed, match=r"hang did not end within 0.2 s and was killed"):
            worker.call(hang, timeout_s=0.2)
        assert not _alive(pid)


def test_the_memory_limit_holds_and_is_named() -> None:
    with Worker("test", timeout_s=60, memory_mb=512) as worker:
        assert worker.call(eat_memory, megabytes=16) == 16 << 20
        with pytest.raises(ToolchainCrashed, match=r"memory limit is 512 MB.*MemoryError"):
            worker.call(eat_memory, megabytes=2048)


def test_our_own_errors_keep_type_text_and_advice() -> None:
    with pytest.raises(BundleRefused) as caught:
        call_in_child(refuse, name="test", timeout_s=30)
    assert (
        caught.value.to_json()
        == BundleRefused("the hash of x is wrong", expected="abc", fix="get a whole copy").to_json()
    )


def test_close_kills_what_the_child_started() -> None:
    with Worker("test", timeout_s=30) as worker:
        grandchild = worker.call(start_grandchild)
        assert _alive(grandchild)
    assert _await_end(grandchild)


def test_closing_twice_is_fine_and_a_closed_worker_says_so() -> None:
    worker = Worker("test", timeout_s=30)
    worker.close()
    worker.close()
    with pytest.raises(ToolchainCrashed, match="was closed"):
        worker.call(echo, value=1)


@pytest.mark.parametrize("busy", [False, True])
def test_the_child_ends_when_its_parent_is_killed(busy: bool) -> None:
    work = "worker.call('signal:pause')" if busy else "sys.stdin.read()"
    script = f"""
        import sys, threading
        from avsdk.worker import Worker
        worker = Worker("test", timeout_s=None)
        worker.call("os:getpid")
        print(worker.pid, flush=True)
        {work}
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_sdk_env()
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert _alive(child)
        parent.kill()
    assert _await_end(child)


def _sdk_env() -> dict[str, str]:
    import avsdk

    return {**os.environ, "PYTHONPATH": str(Path(avsdk.__file__).parents[1])}


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_only_functions_that_can_be_found_by_name_may_run() -> None:
    def local() -> None: ...

    for target in (local, lambda: None):
        with pytest.raises(UsageError, match="cannot run in a child process"):
            name_of(target)
    assert name_of(Counter.from_text) == f"{__name__}:Counter.from_text"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "a object, which cannot travel"),
        ({1: 2}, "the key 1"),
        ({"$array": 0}, "the key .\\$array."),
        (np.array([object()]), "ndarray of object"),
        (b"bytes", "a bytes"),
        ({"deep": [1, {2, 3}]}, r"\['deep'\]\[1\] is a set"),
    ],
)
def test_values_that_cannot_travel_are_refused_before_anything_is_sent(value: Any, text: str) -> None:
    with Worker("test", timeout_s=30) as worker:
        with pytest.raises(UsageError, match=text):
            worker.call(echo, value=value)
        assert worker.call(echo, value="still works") == "still works"


def test_a_result_that_cannot_travel_is_refused() -> None:
    with Worker("test", timeout_s=30) as worker, pytest.raises(UsageError, match="the result"):
        worker.call("threading:Lock")


def test_a_python_that_is_not_there_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(ToolchainCrashed, match="could not be started: No such file"):
        Worker("test", tmp_path / "python", timeout_s=30)


def test_a_python_that_cannot_serve_is_a_typed_error() -> None:
    with Worker("test", "/bin/false", timeout_s=30) as worker, pytest.raises(ToolchainCrashed, match="exit code 1"):
        worker.call(echo, value=1)


# -- another Python ----------------------------------------------------------------------------------------------------


def _pythons() -> list[Path]:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return sorted(root.glob("3.*/bin/python"))


def make_a_temporary_folder_and_die(note: str) -> None:
    import tempfile

    Path(note).write_text(tempfile.mkdtemp())
    os.kill(os.getpid(), signal.SIGKILL)


def test_temporary_files_of_a_killed_child_are_removed(tmp_path: Path) -> None:
    note = tmp_path / "note"
    with pytest.raises(ToolchainCrashed):
        call_in_child(make_a_temporary_folder_and_die, name="test", timeout_s=60, note=str(note))
    made = Path(note.read_text())
    assert made.name.startswith("tmp")
    assert not made.exists()


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.12", "3.13"])
def test_another_python_gets_avsdk_by_its_folder_and_nothing_else_of_ours(version: str, tmp_path: Path) -> None:
    found = [python for python in _pythons() if python.parts[-3].startswith(f"{version}.")]
    if not found:
        pytest.skip(f"no Python {version} in pyenv's versions folder")
    package = tmp_path / "lent_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inside.py").write_text(
        "import sys, avsdk\n"
        "def look():\n"
        "    return {'version': sys.version.split()[0], 'path': sys.path, 'avsdk': avsdk.__file__}\n"
    )
    with Worker("test", found[0], timeout_s=60, packages={"lent_package": package}) as worker:
        seen = worker.call("lent_package.inside:look")
    import avsdk

    assert seen["version"].startswith(version)
    assert Path(seen["avsdk"]) == Path(avsdk.__file__).resolve()
    ours = {str(Path(avsdk.__file__).parents[1]), str(tmp_path), str(Path.cwd())}
    assert not ours & set(seen["path"])
