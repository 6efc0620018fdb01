"""What the machine is, and how many threads one may use on it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avsdk import host
from avsdk.nvidia import Gpu


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


# -- accelerators ------------------------------------------------------------------------------------------------------


def test_gpus_are_named_with_what_decides_what_runs_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(0, "NVIDIA GeForce RTX 3090", "sm86", 24_576, "570.86.10")
    monkeypatch.setattr(host, "local_gpus", lambda: (gpu,))
    assert host._nvidia_gpus() == ["nvidia: NVIDIA GeForce RTX 3090, sm86, 24576 MiB, driver 570.86.10"]
    assert host.probe().accelerators[0].startswith("nvidia: NVIDIA GeForce RTX 3090")


def test_without_the_drivers_library_its_kernel_half_still_names_the_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "information").write_text("Model: \t Quadro RTX 6000\nIRQ: 12\n")
    monkeypatch.setattr(host, "local_gpus", lambda: ())
    assert host._nvidia_gpus(tmp_path) == ["nvidia: Quadro RTX 6000"]


def test_sticks_are_known_by_their_usb_numbers(tmp_path: Path) -> None:
    for index, (vendor, product) in enumerate([("03e7", "2485"), ("1a6e", "089a"), ("046d", "c52b")]):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "idVendor").write_text(vendor + "\n")
        (tmp_path / str(index) / "idProduct").write_text(product + "\n")
    assert host._on_usb(tmp_path) == ["movidius: Myriad X", "coral: Edge TPU"]


@pytest.mark.parametrize(
    ("vendor", "device", "kind", "found"),
    [
        ("0x8086", "0x7d1d", "0x120000", ["npu: Intel NPU 3720 (8086:7d1d)"]),
        ("0x8086", "0xad1d", "0x120000", ["npu: Intel NPU 3720 (8086:ad1d)"]),
        ("0x8086", "0x643e", "0x120000", ["npu: Intel NPU 4000 (8086:643e)"]),
        ("0x8086", "0xb03e", "0x120000", ["npu: Intel NPU 5010 (8086:b03e)"]),
        ("0x8086", "0xfd3e", "0x120000", ["npu: Intel NPU 5020 (8086:fd3e)"]),
        ("0x8086", "0x56a0", "0x030000", ["intel gpu: 8086:56a0"]),
        ("0x8086", "0x1533", "0x020000", []),
        ("0x10de", "0x2204", "0x030000", []),
    ],
)
def test_intels_npus_and_gpus_are_known_by_their_pci_numbers(
    tmp_path: Path, vendor: str, device: str, kind: str, found: list[str]
) -> None:
    (tmp_path / "0000:00:0b.0").mkdir()
    for name, text in (("vendor", vendor), ("device", device), ("class", kind)):
        (tmp_path / "0000:00:0b.0" / name).write_text(text + "\n")
    assert host._on_pci(tmp_path) == found


def test_a_machine_without_a_pci_bus_has_none(tmp_path: Path) -> None:
    assert host._on_pci(tmp_path / "absent") == []
    assert host._on_usb(tmp_path / "absent") == []
