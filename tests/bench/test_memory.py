from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avsdk_bench import memory


def test_what_a_process_holds_is_read_from_proc(tmp_path: Path) -> None:
    for pid in (11, 12):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "smaps_rollup").write_text("Rss:  2048 kB\nPss: 1024 kB\nAnonymous: 512 kB\n")
        (tmp_path / str(pid) / "status").write_text(
            "VmPeak: 999999 kB\nVmHWM: 4096 kB\nVmRSS: 2048 kB\nRssFile: 1536 kB\n"
        )
    assert memory.held([11, 12], tmp_path) == {
        "rss_mb": 4.0, "pss_mb": 2.0, "anonymous_mb": 1.0, "file_mb": 3.0, "shared_mb": None, "peak_rss_mb": 8.0,
    }  # fmt: skip
    assert memory.resident_mb([11, 12], tmp_path) == 4.0


def test_what_cannot_be_read_is_none_never_zero(tmp_path: Path) -> None:
    assert set(memory.held([1], tmp_path).values()) == {None}
    assert memory.resident_mb([1], tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_mapped_file_and_an_array_are_told_apart(tmp_path: Path) -> None:
    size = 16 << 20
    (tmp_path / "model").write_bytes(os.urandom(size))
    before = memory.held([os.getpid()])
    with (tmp_path / "model").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) > 0  # touch every page
        with_file = memory.held([os.getpid()])
    array = bytearray(os.urandom(size))
    with_array = memory.held([os.getpid()])
    assert len(array) == size
    mb = size / 2**20

    def grew(key: str, held: dict[str, float | None]) -> float:
        return (held[key] or 0.0) - (before[key] or 0.0)

    assert grew("file_mb", with_file) > 0.9 * mb > grew("anonymous_mb", with_file)
    assert grew("anonymous_mb", with_array) > 0.9 * mb > grew("file_mb", with_array)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_family_holds_the_children() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert {os.getpid(), child.pid} <= set(memory.family())
    finally:
        child.communicate(b"\n")
