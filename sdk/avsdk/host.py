"""What this machine is: processor, instruction sets, the cores one may use, memory, accelerators, runtimes."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_ISA_FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16",
    "asimddp", "i8mm", "bf16", "sve", "fphp",
)  # fmt: skip
_RUNTIMES = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "litert": ("ai-edge-litert", "tflite-runtime"),
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt_rtx_cu12"),
    "torch": ("torch",),
}


@dataclass(frozen=True)
class Host:
    """This machine. ``cores`` are those the process may run on, ``cgroup_cpus`` the quota of its control group."""

    cpu: str
    arch: str
    isa: tuple[str, ...]
    cores: int
    cgroup_cpus: float | None
    memory_mb: int
    accelerators: tuple[str, ...]
    libraries: Mapping[str, str] = field(default_factory=dict)
    python: str = platform.python_version()
    system: str = ""


def probe() -> Host:
    """Read the machine's description from the system; imports no runtime."""
    name, flags = _cpu_info()
    return Host(
        cpu=name,
        arch=platform.machine(),
        isa=tuple(flag for flag in _ISA_FLAGS if flag in flags),
        cores=_affinity(),
        cgroup_cpus=cgroup_quota(),
        memory_mb=_memory_mb(),
        accelerators=_accelerators(),
        libraries=_libraries(),
        system=f"{platform.system()} {platform.release()}",
    )


def default_threads() -> int:
    """Threads to run with: the cores one may use, or the control group's quota where that is less."""
    quota = cgroup_quota()
    return _affinity() if quota is None else max(1, min(_affinity(), math.ceil(quota)))


def cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The CPU quota of this process in cores (cgroup v2 ``cpu.max``, v1 ``cpu.cfs_quota_us``), or None without one."""
    quotas = [quota for folder in _cgroup_folders(root) for quota in (_quota_of(folder),) if quota is not None]
    return min(quotas) if quotas else None


def _cgroup_folders(root: Path) -> list[Path]:
    folders = [root, root / "cpu"]
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            base = root if controllers == "" else root / "cpu"
            current = base / path.lstrip("/")
            while current != base and base in current.parents:
                folders.append(current)
                current = current.parent
    return folders


def _quota_of(folder: Path) -> float | None:
    unified = _read(folder / "cpu.max").split()
    if len(unified) == 2 and unified[0] != "max":
        return int(unified[0]) / int(unified[1])
    quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    if quota and period and int(quota) > 0:
        return int(quota) / int(period)
    return None


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _cpu_info() -> tuple[str, frozenset[str]]:
    fields: dict[str, str] = {}
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return fields.get("model name") or platform.processor() or platform.machine(), frozenset(flags)


def _affinity() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_mb() -> int:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return 0


def _accelerators() -> tuple[str, ...]:
    """Accelerators whose kernel driver shows itself; a name per device."""
    found = []
    for info in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = dict(line.split(":", 1) for line in _read(info).splitlines() if ":" in line)
        found.append(f"nvidia: {lines.get('Model', 'unknown').strip()}")
    for product in sorted(Path("/sys/bus/usb/devices").glob("*/idVendor")):
        identity = (_read(product).strip(), _read(product.parent / "idProduct").strip())
        if identity == ("03e7", "2485"):
            found.append("movidius: Myriad X")
        if identity in {("1a6e", "089a"), ("18d1", "9302")}:
            found.append("coral: Edge TPU")
    found += [f"npu: {node.name}" for node in sorted(Path("/dev/accel").glob("accel*"))]
    return tuple(found)


def _libraries() -> dict[str, str]:
    from importlib import metadata  # slow to import, and rarely needed

    versions = {}
    for runtime, distributions in _RUNTIMES.items():
        for distribution in distributions:
            try:
                versions[runtime] = metadata.version(distribution)
                break
            except metadata.PackageNotFoundError:
                continue
    return versions
