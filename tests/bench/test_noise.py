from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from avsdk_bench import noise
from avsdk_bench.noise import Snapshot

QUIET = Snapshot(0, 100, 1000, 0.0, 2600.0, 0, 0)


def _later(**changes: float | None) -> Snapshot:
    return replace(QUIET, all_ticks=2000, busy_ticks=200, **changes)  # type: ignore[arg-type]


def test_a_snapshot_reads_the_counters(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  10 1 5 70 4 1 2 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    (tmp_path / "proc/loadavg").write_text("1.25 0.50 0.10 1/200 4242\n")
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\ncpu MHz\t\t: 2000.0\nprocessor : 1\ncpu MHz\t\t: 3000.0\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.stat").write_text("usage_usec 5\nnr_throttled 3\n")
    found = noise.snapshot(tmp_path)
    assert found == Snapshot(7, 26, 100, 1.25, 2500.0, None, 3)


def test_what_the_system_does_not_offer_is_none_never_zero(tmp_path: Path) -> None:
    nothing = noise.snapshot(tmp_path)
    assert nothing == Snapshot(None, None, None, None, None, None, None)
    judged = noise.judge(nothing, nothing, rounds=5, void_rounds=0)
    assert (judged.steal_share, judged.frequency_mhz_before, judged.thermal_throttles) == (None, None, None)


def test_a_quiet_machine_has_no_reasons() -> None:
    judged = noise.judge(QUIET, _later(), rounds=5, void_rounds=0)
    assert judged.quiet
    assert judged.reasons == ()
    assert judged.busy_share == 0.1


@pytest.mark.parametrize(
    ("before", "after", "void", "text"),
    [
        (QUIET, _later(steal_ticks=50), 0, "hypervisor took 5.0%"),
        (replace(QUIET, load_1min=1000.0), _later(), 0, "load was 1000.00"),
        (QUIET, _later(frequency_mhz=1300.0), 0, "changed by -50%"),
        (QUIET, _later(thermal_throttles=2), 0, "throttled 2 times"),
        (QUIET, _later(cgroup_throttles=4), 0, "quota stopped the processes 4 times"),
        (QUIET, _later(), 3, "3 of 5 rounds were void"),
    ],
)
def test_each_disturbance_is_named(before: Snapshot, after: Snapshot, void: int, text: str) -> None:
    judged = noise.judge(before, after, rounds=5, void_rounds=void)
    assert not judged.quiet
    assert text in judged.reasons[0]


def test_cells_that_others_push_aside_are_named() -> None:
    judged = noise.judge(QUIET, _later(), rounds=5, void_rounds=0, switches_per_s=250.0)
    assert judged.reasons == ("the cells were taken off their processors 250 times a second for others",)
    assert noise.judge(QUIET, _later(), rounds=5, void_rounds=0, switches_per_s=5.0).quiet


def test_throttles_are_counted_in_version_1_of_control_groups_too(tmp_path: Path) -> None:
    (tmp_path / "sys/fs/cgroup/cpu").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu/cpu.stat").write_text("nr_periods 9\nnr_throttled 4\nthrottled_time 77\n")
    assert noise.snapshot(tmp_path).cgroup_throttles == 4


def test_involuntary_switches_of_a_process_that_is_gone_are_unknown() -> None:
    assert noise.involuntary_switches([]) is None
    count = noise.involuntary_switches([os.getpid()])
    assert count is not None
    assert count >= 0
