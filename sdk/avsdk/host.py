"""What this machine is: processor, instruction sets, the cores one may use, memory, accelerators, runtimes."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from avsdk.nvidia import local_gpus

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


_USB = {
    ("03e7", "2485"): "movidius: Myriad X",
    ("03e7", "f63b"): "movidius: Myriad X, with firmware loaded",
    ("1a6e", "089a"): "coral: Edge TPU",
    ("18d1", "9302"): "coral: Edge TPU",
}
_INTEL_NPUS = {
    "7d1d": "NPU 3720", "ad1d": "NPU 3720", "643e": "NPU 4000", "b03e": "NPU 5010", "fd3e": "NPU 5020",
}  # fmt: skip
"""PCI device numbers, from the README of OpenVINO's NPU plugin."""


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
    quotas = [quota for folder in cgroup_folders(root) for quota in (_quota_of(folder),) if quota is not None]
    return min(quotas) if quotas else None


def cgroup_folders(root: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """The folders that may hold this process's CPU limits and their counters: its control group's and those above."""
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
    """Accelerators that a driver or the bus shows; a phrase per device."""
    return (*_nvidia_gpus(), *_on_usb(), *_on_pci(), *_npus())


def _nvidia_gpus(root: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """What NVIDIA's driver says of its GPUs; their models alone where only its kernel half is here."""
    gpus = [
        f"nvidia: {gpu.name}, {gpu.arch}, {gpu.memory_mb} MiB, driver {gpu.driver or 'unknown'}" for gpu in local_gpus()
    ]
    if gpus:
        return gpus
    infos = [_read(info) for info in sorted(root.glob("*/information"))]
    models = [dict(line.split(":", 1) for line in info.splitlines() if ":" in line).get("Model", "") for info in infos]
    return [f"nvidia: {model.strip() or 'unknown'}" for model in models]


def _on_usb(root: Path = Path("/sys/bus/usb/devices")) -> list[str]:
    identities = [(_read(file).strip(), _read(file.parent / "idProduct").strip()) for file in root.glob("*/idVendor")]
    return [_USB[identity] for identity in sorted(identities) if identity in _USB]


def _on_pci(root: Path = Path("/sys/bus/pci/devices")) -> list[str]:
    """Intel's NPUs by their numbers, and its GPUs by their class, whatever their number."""
    found = []
    for file in sorted(root.glob("*/vendor")):
        if _read(file).strip() != "0x8086":
            continue
        device, kind = _read(file.parent / "device").strip().lower()[2:], _read(file.parent / "class").strip()
        if device in _INTEL_NPUS:
            found.append(f"npu: Intel {_INTEL_NPUS[device]} (8086:{device})")
        elif kind.startswith("0x03"):
            found.append(f"intel gpu: 8086:{device}")
    return found


def _npus() -> list[str]:
    return [f"npu: {node.name}" for node in sorted(Path("/dev/accel").glob("accel*"))]


def library_version(runtime: str) -> str:
    """The version of the distribution that brings a runtime here; empty where none does."""
    from importlib import metadata  # slow to import, and rarely needed

    for distribution in _RUNTIMES.get(runtime, ()):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _libraries() -> dict[str, str]:
    versions = {runtime: library_version(runtime) for runtime in _RUNTIMES}
    return {runtime: version for runtime, version in versions.items() if version}
