"""Threads are the lesser of affinity and quota, under the real limits of the system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
THREADS = [sys.executable, "-c", "from avsdk import host; print(host.default_threads())"]

Limit = Callable[[float], list[str]]

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="affinity and control groups are Linux's")


@pytest.fixture
def limited() -> Iterator[Limit]:
    """``limited(0.5)`` -> the words before a command that put it into a control group with half a processor."""
    unified = "cpu" in _text(ROOT / "cgroup.controllers").split()
    folder = (ROOT if unified else ROOT / "cpu") / f"avsdk-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")

    def limit(cpus: float) -> list[str]:
        quota = round(cpus * PERIOD_US)
        try:
            if unified:
                (folder / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            else:
                (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (folder / "cpu.cfs_quota_us").write_text(str(quota))
        except OSError as error:
            pytest.skip(f"no quota can be set here: {error}")
        before = ["sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "limited"]
        tried = subprocess.run([*before, "true"], capture_output=True, text=True)
        if tried.returncode:
            pytest.skip(f"no process can be moved into a control group here: {tried.stderr.strip()}")
        return before

    yield limit
    folder.rmdir()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def answer_of(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bench_of(before: Sequence[str], bundle: Path) -> dict[str, Any]:
    avsdk = Path(sys.executable).parent / "avsdk"
    found: dict[str, Any] = json.loads(
        answer_of([*before, str(avsdk), "bench", str(bundle), "--budget-s", "1", "--json"])
    )
    return found


def taskset(*cores: int) -> list[str]:
    if shutil.which("taskset") is None:
        pytest.skip("taskset is not installed: apt-get install util-linux")
    return ["taskset", "--cpu-list", ",".join(map(str, cores))]


@linux_only
def test_taskset_bounds_the_threads() -> None:
    cores = sorted(os.sched_getaffinity(0))
    for allowed in {tuple(cores[:1]), tuple(cores[:2])}:
        assert int(answer_of([*taskset(*allowed), *THREADS])) == min(len(allowed), int(answer_of(THREADS)))


@linux_only
@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1.0, 1), (1.5, 2), (64.0, 10**6)])
def test_a_real_quota_bounds_the_threads(limited: Limit, cpus: float, threads: int) -> None:
    assert int(answer_of([*limited(cpus), *THREADS])) == min(threads, int(answer_of(THREADS)))


@linux_only
def test_a_bench_under_taskset_runs_and_says_one_thread(make_bundle) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime", reason="the cells need a runtime: pip install 'avsdk[onnxruntime]'")
    document = bench_of(taskset(min(os.sched_getaffinity(0))), make_bundle("a"))
    assert [row["threads"] for row in document["rows"]] == [1, 1]
    assert document["host"]["cores"] == 1
    assert "--threads 1" in document["command"]


@linux_only
def test_a_bench_under_a_quota_says_so(limited: Limit, make_bundle) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("onnxruntime", reason="the cells need a runtime: pip install 'avsdk[onnxruntime]'")
    document = bench_of(limited(1.0), make_bundle("a"))
    assert [row["threads"] for row in document["rows"]] == [1, 1]
    assert document["noise"]["cgroup_cpus"] == 1.0
    assert document["noise"]["cgroup_throttles"] is not None
