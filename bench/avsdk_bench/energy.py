"""Energy that a cell's turns took, by the counter that this machine has: NVML, RAPL or INA3221; else why none.

A counter covers a whole device, not one process, so what the device takes at idle is measured too and told beside it.
Wall power is the only energy that MLPerf accepts; these are the chips' own figures.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from avsdk import nvidia
from avsdk.errors import NotAvailable

IDLE_S = 1.0
_TOTAL_RAIL = "VDD_IN"  # what a Jetson module takes as a whole; its other rails are parts of it
_SAMPLE_S = 0.005  # INA3221's own conversion takes 1-10 ms; at 1 Hz the error reaches 80 % (arXiv 2206.10377)


class Meter(Protocol):
    """A counter of energy. ``method`` and ``scope`` stand in the report."""

    method: str
    scope: str

    def joules(self) -> float:
        """J since the meter was opened."""

    def close(self) -> None:
        """Stop counting."""


@dataclass
class Account:
    """What a cell's turns took so far by one meter. ``idle_w``: what the device takes when nothing runs."""

    meter: Meter
    idle_w: float
    joules: float = 0.0
    seconds: float = 0.0
    items: int = 0

    @contextlib.contextmanager
    def turn(self, items: int) -> Iterator[None]:
        """Count what happens meanwhile, in which so many items are answered."""
        before, start = self.meter.joules(), time.monotonic()
        yield
        self.joules += self.meter.joules() - before
        self.seconds += time.monotonic() - start
        self.items += items

    def facts(self) -> dict[str, Any]:
        """What the row says: J per item, in all and above idle, and the mean power; no number where nothing counted."""
        if self.joules <= 0 or self.seconds <= 0 or self.items < 1:
            return unavailable(f"{self.meter.method} counted nothing in {self.seconds:.3g} s: measure longer")
        return {
            "method": self.meter.method,
            "scope": self.meter.scope,
            "joules_per_item": self.joules / self.items,
            "joules_per_item_above_idle": (self.joules - self.idle_w * self.seconds) / self.items,
            "mean_w": round(self.joules / self.seconds, 3),
            "idle_w": round(self.idle_w, 3),
            "seconds": round(self.seconds, 3),
        }


class Meters:
    """The meters of one bench, each opened when the first cell needs it, before anything runs: idle is measured then.

    ``find`` is ``find_meter`` but in tests.
    """

    def __init__(self, find: Callable[[bool], Meter] | None = None) -> None:
        self._find = find or (lambda gpu: find_meter(gpu=gpu))
        self._open: dict[bool, tuple[Meter, float]] = {}

    def account(self, *, gpu: bool) -> Account:
        """A new account. Raises ``NotAvailable`` with the reason where nothing here counts energy."""
        if gpu not in self._open:
            meter = self._find(gpu)
            self._open[gpu] = (meter, idle_watts(meter))
        return Account(*self._open[gpu])

    def close(self) -> None:
        """Close what was opened."""
        for meter, _ in self._open.values():
            meter.close()


class Rapl:
    """Intel's and AMD's running counters through the kernel's powercap: all packages of the machine, in uJ.

    They wrap at ``max_energy_range_uj``; a read at least every few minutes sees each wrap. Source: the kernel's
    Documentation/power/powercap/powercap.rst.
    """

    method = "RAPL"

    def __init__(self, root: Path = Path("/")) -> None:
        zones = sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]"))
        # "psys", the whole board, stands beside them on some machines and holds them.
        self._zones = [zone for zone in zones if _text(zone / "name").startswith("package")]
        if not self._zones:
            raise NotAvailable("the kernel shows no RAPL counter: /sys/class/powercap/intel-rapl:0 is not there")
        self._ranges = [self._number(zone / "max_energy_range_uj") for zone in self._zones]
        self._last = [self._number(zone / "energy_uj") for zone in self._zones]
        self._total_uj = 0
        self.scope = "packages " + ", ".join(_text(zone / "name") for zone in self._zones)

    def joules(self) -> float:
        """J of all packages since the meter was opened."""
        for place, zone in enumerate(self._zones):
            now = self._number(zone / "energy_uj")
            self._total_uj += (now - self._last[place]) % (self._ranges[place] + 1)
            self._last[place] = now
        return self._total_uj / 1e6

    def close(self) -> None:
        """Nothing is open."""

    def _number(self, path: Path) -> int:
        try:
            return int(path.read_text())
        except PermissionError as error:
            raise NotAvailable(
                f"RAPL's counter {path} may be read by root only", fix=f"sudo chmod a+r {path}, or run as root"
            ) from error
        except (OSError, ValueError) as error:
            raise NotAvailable(f"RAPL's counter {path} cannot be read: {error}") from error


class Ina3221:
    """The power monitor of Jetson boards, through hwmon: mV times mA of each rail, read by a thread and added up.

    The carrier board is not included. Source: the kernel's Documentation/hwmon/ina3221.rst.
    """

    method = "INA3221"

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rails = _total_or_all(
            {
                _text(label): (label.parent / f"in{channel}_input", label.parent / f"curr{channel}_input")
                for name in sorted((root / "sys/class/hwmon").glob("hwmon*/name"))
                if _text(name) == "ina3221"
                for label in sorted(name.parent.glob("in[1-3]_label"))
                for channel in (label.name[2],)
            }
        )
        if not self._rails:
            raise NotAvailable("no INA3221 power monitor is in /sys/class/hwmon")
        self.scope = "rails " + ", ".join(self._rails)
        self._lock = threading.Lock()
        self._total, self._at, self._power = 0.0, clock(), self._watts()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def joules(self) -> float:
        """J of the rails since the meter was opened, by the trapezoids between the samples."""
        with self._lock:
            now, power = self._clock(), self._watts()
            self._total += 0.5 * (power + self._power) * (now - self._at)
            self._at, self._power = now, power
            return self._total

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        with contextlib.suppress(NotAvailable):  # who asks next is told
            while not self._ended.wait(_SAMPLE_S):
                self.joules()

    def _watts(self) -> float:
        try:
            return sum(float(volt.read_text()) * float(amp.read_text()) for volt, amp in self._rails.values()) / 1e6
        except (OSError, ValueError) as error:
            raise NotAvailable(f"the INA3221 power monitor cannot be read: {error}") from error


class Nvml:
    """NVIDIA's total energy counter of one GPU, in mJ since its driver was loaded (Volta and newer).

    On A100 and H100 power is sampled in a quarter of the time only (arXiv 2312.02741): measure 10 s or more. Source:
    the NVML API reference, ``nvmlDeviceGetTotalEnergyConsumption``.
    """

    method = "NVML"

    def __init__(self, index: int = 0, library: Any = None) -> None:
        self._library = library or _nvml()
        self._device = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(self._device))
        self.scope = f"GPU {index}"
        self._first_mj = self._millijoules()

    def joules(self) -> float:
        """J of the GPU since the meter was opened."""
        return (self._millijoules() - self._first_mj) / 1e3

    def close(self) -> None:
        """Let the library go."""
        self._call("nvmlShutdown")

    def _millijoules(self) -> int:
        total = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(total))
        return total.value

    def _call(self, function: str, *arguments: Any) -> None:
        try:
            code = getattr(self._library, function)(*arguments)
        except AttributeError as error:
            raise NotAvailable(f"NVIDIA's management library has no {function}: the driver is too old") from error
        if code != 0:
            raise NotAvailable(f"NVIDIA's management library refused {function}: code {code}")


def counts_gpu(devices: Collection[str]) -> bool:
    """Whether the GPU's counter is meant for what executed on these devices, and not the processor's."""
    return set(devices) != {"cpu"} and bool(nvidia.local_gpus())


def find_meter(*, gpu: bool, root: Path = Path("/")) -> Meter:
    """The counter for what runs on an NVIDIA GPU, or on the processor. Raises ``NotAvailable`` with every reason."""
    reasons = []
    for kind in (Ina3221, *((Nvml,) if gpu else (Rapl,))):
        try:
            return kind() if kind is Nvml else kind(root)
        except NotAvailable as error:
            reasons.append(error.failed)
    raise NotAvailable("; ".join(reasons))


def idle_watts(meter: Meter) -> float:
    """What the device takes while this process sleeps, in W."""
    before, start = meter.joules(), time.monotonic()
    time.sleep(IDLE_S)
    return (meter.joules() - before) / (time.monotonic() - start)


def unavailable(reason: str) -> dict[str, Any]:
    """What stands where no energy is known: the reason, and no number."""
    return {"unavailable": reason}


def _total_or_all(rails: dict[str, tuple[Path, Path]]) -> dict[str, tuple[Path, Path]]:
    return {_TOTAL_RAIL: rails[_TOTAL_RAIL]} if _TOTAL_RAIL in rails else rails


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _nvml() -> Any:
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise NotAvailable("NVIDIA's management library is not here: libnvidia-ml.so.1 cannot be loaded") from error
