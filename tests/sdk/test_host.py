"""What the machine is, and how many threads one may use on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avsdk import host


def write_quota(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(text)


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000", None), ("150000 100000", 1.5), ("50000 100000", 0.5), ("", None)]
)
def test_quota_of_cgroup_v2(tmp_path: Path, text: str, quota: float | None) -> None:
    write_quota(tmp_path, text)
    assert host.cgroup_quota(tmp_path) == quota


def test_quota_of_cgroup_v1(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert host.cgroup_quota(tmp_path) == 3.0
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert host.cgroup_quota(tmp_path) is None


@pytest.mark.parametrize(("cores", "quota", "threads"), [(8, None, 8), (8, 1.5, 2), (2, 16.0, 2), (4, 0.2, 1)])
def test_threads_are_the_lesser_of_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, cores: int, quota: float | None, threads: int
) -> None:
    monkeypatch.setattr(host, "_affinity", lambda: cores)
    monkeypatch.setattr(host, "cgroup_quota", lambda: quota)
    assert host.default_threads() == threads


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is read on Linux only")
def test_threads_follow_the_affinity_of_the_process() -> None:
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); from avsdk import host; print(host.default_threads())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_probe_describes_this_machine() -> None:
    found = host.probe()
    assert found.cpu
    assert found.cores >= 1
    assert found.memory_mb > 100
    assert set(found.isa) <= set(host._ISA_FLAGS)
    assert found.libraries["onnxruntime"]
