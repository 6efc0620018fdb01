"""Energy counters. RAPL and INA3221 are contract-tested on trees of files, NVML on a library of our own.

None of the three was seen on real hardware by these tests.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from avsdk.errors import NotAvailable
from avsdk_bench import energy
from avsdk_bench.energy import Account, Ina3221, Meters, Nvml, Rapl, find_meter


def rapl_tree(root: Path, *, packages: int = 1, range_uj: int = 1000) -> list[Path]:
    counters = []
    for package in range(packages):
        zone = root / f"sys/class/powercap/intel-rapl:{package}"
        (zone / f"intel-rapl:{package}:0").mkdir(parents=True)
        (zone / "name").write_text(f"package-{package}\n")
        (zone / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (zone / "energy_uj").write_text("900\n")
        counters.append(zone / "energy_uj")
    return counters


def ina_tree(root: Path, rails: dict[str, tuple[float, float]]) -> Path:
    monitor = root / "sys/class/hwmon/hwmon3"
    monitor.mkdir(parents=True)
    (monitor / "name").write_text("ina3221\n")
    for channel, (label, (millivolt, milliampere)) in enumerate(rails.items(), start=1):
        (monitor / f"in{channel}_label").write_text(f"{label}\n")
        (monitor / f"in{channel}_input").write_text(f"{millivolt:g}\n")
        (monitor / f"curr{channel}_input").write_text(f"{milliampere:g}\n")
    return monitor


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Library:
    """What the NVML meter asks of NVIDIA's library."""

    def __init__(self, refuses: str = "") -> None:
        self.millijoules, self.refuses, self.ended = 5_000_000, refuses, 0

    def _code(self, function: str) -> int:
        return 3 if function == self.refuses else 0

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return self._code("nvmlInit_v2")

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, device: Any) -> int:  # noqa: N802
        return self._code("nvmlDeviceGetHandleByIndex_v2")

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, total: Any) -> int:  # noqa: N802
        ctypes.cast(total, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.millijoules
        return self._code("nvmlDeviceGetTotalEnergyConsumption")

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.ended += 1
        return 0


def test_rapl_adds_its_packages_and_sees_the_counter_wrap(tmp_path: Path) -> None:
    first, second = rapl_tree(tmp_path, packages=2)
    meter = Rapl(tmp_path)
    assert (meter.method, meter.scope, meter.joules()) == ("RAPL", "packages package-0, package-1", 0.0)
    first.write_text("950\n")
    assert meter.joules() == pytest.approx(50e-6)
    first.write_text("49\n")  # past 1000 and 100 further
    second.write_text("1000\n")
    assert meter.joules() == pytest.approx(250e-6)


def test_rapl_does_not_count_the_board_and_its_packages_twice(tmp_path: Path) -> None:
    package, board = rapl_tree(tmp_path, packages=2)
    (board.parent / "name").write_text("psys\n")
    meter = Rapl(tmp_path)
    for counter in (package, board):
        counter.write_text("960\n")
    assert (meter.scope, meter.joules()) == ("packages package-0", pytest.approx(60e-6))


def test_rapl_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rapl_tree(tmp_path)

    kept = Path.read_text

    def refused(self: Path, *given: Any, **named: Any) -> str:
        if self.name == "name":
            return kept(self, *given, **named)
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(NotAvailable, match="by root only") as caught:
        Rapl(tmp_path)
    assert "sudo chmod a+r" in caught.value.fix


def test_ina3221_integrates_volts_times_amperes_over_time(tmp_path: Path) -> None:
    monitor = ina_tree(tmp_path, {"VDD_GPU": (5000, 1000), "VDD_CPU": (5000, 400)})
    clock = Clock()
    meter = Ina3221(tmp_path, clock)
    try:
        assert (meter.method, meter.scope) == ("INA3221", "rails VDD_GPU, VDD_CPU")
        clock.now = 2.0
        assert meter.joules() == pytest.approx(14.0)  # 7 W for 2 s
        (monitor / "curr1_input").write_text("3000\n")
        meter.joules()
        clock.now = 3.0
        assert meter.joules() == pytest.approx(14.0 + 17.0)
    finally:
        meter.close()


def test_ina3221_counts_the_whole_module_once_where_a_rail_is_its_total(tmp_path: Path) -> None:
    ina_tree(tmp_path, {"VDD_IN": (5000, 2000), "VDD_CPU_GPU_CV": (5000, 900), "VDD_SOC": (5000, 300)})
    clock = Clock()
    meter = Ina3221(tmp_path, clock)
    try:
        clock.now = 1.0
        assert (meter.scope, meter.joules()) == ("rails VDD_IN", pytest.approx(10.0))
    finally:
        meter.close()


def test_nvml_counts_from_when_it_was_opened() -> None:
    library = Library()
    meter = Nvml(0, library)
    library.millijoules += 2500
    assert (meter.joules(), meter.scope) == (2.5, "GPU 0")
    meter.close()
    assert library.ended == 1


@pytest.mark.parametrize("function", ["nvmlInit_v2", "nvmlDeviceGetTotalEnergyConsumption"])
def test_nvml_that_refuses_is_a_reason(function: str) -> None:
    with pytest.raises(NotAvailable, match=f"refused {function}: code 3"):
        Nvml(0, Library(function))


def test_a_board_monitor_goes_before_the_processors_counter(tmp_path: Path) -> None:
    rapl_tree(tmp_path)
    assert find_meter(gpu=False, root=tmp_path).method == "RAPL"
    ina_tree(tmp_path, {"VDD_IN": (5000, 2000)})
    meter = find_meter(gpu=False, root=tmp_path)
    meter.close()
    assert meter.method == "INA3221"


def test_without_a_counter_every_reason_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="no INA3221.*no RAPL counter"):
        find_meter(gpu=False, root=tmp_path)


class Steady:
    """10 W when nothing runs, as read off ``at``."""

    method, scope = "RAPL", "package-0"

    def __init__(self) -> None:
        self.total = 0.0

    def joules(self) -> float:
        return self.total

    def close(self) -> None:
        self.total = -1.0


def test_an_account_tells_joules_per_item_with_and_without_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, meter = Clock(), Steady()
    monkeypatch.setattr(energy.time, "monotonic", clock)
    account = Account(meter, idle_w=10.0)
    for _ in range(2):
        with account.turn(items=5):
            clock.now += 1.0
            meter.total += 30.0
        clock.now += 7.0  # others' turns are not this cell's
        meter.total += 70.0
    assert account.facts() == {
        "method": "RAPL", "scope": "package-0", "joules_per_item": 6.0, "joules_per_item_above_idle": 4.0,
        "mean_w": 30.0, "idle_w": 10.0, "seconds": 2.0,
    }  # fmt: skip


def test_what_counted_nothing_is_unavailable_and_never_0() -> None:
    account = Account(Steady(), idle_w=0.0)
    with account.turn(items=5):
        pass
    facts = account.facts()
    assert list(facts) == ["unavailable"]
    assert "counted nothing" in facts["unavailable"]


def test_idle_is_measured_once_per_meter_and_all_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, meter = Clock(), Steady()

    def sleep(seconds: float) -> None:
        clock.now += seconds
        meter.total += 10.0 * seconds

    monkeypatch.setattr(energy.time, "monotonic", clock)
    monkeypatch.setattr(energy.time, "sleep", sleep)
    meters = Meters(lambda gpu: meter)
    assert [meters.account(gpu=False).idle_w for _ in range(2)] == [10.0, 10.0]
    assert clock.now == energy.IDLE_S
    meters.close()
    assert meter.total == -1.0
