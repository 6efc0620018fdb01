"""NVIDIA's driver through ctypes: what is here, and that memory, streams and graphs are freed whatever happens."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from tests.sdk.fake_cuda import install

from avsdk import nvidia
from avsdk.errors import NotAvailable
from avsdk.nvidia import Gpu, GpuStream, local_gpus, why_no_gpu

RTX = ("NVIDIA GeForce RTX 3090", (8, 6), 24_576)
T4 = ("Tesla T4", (7, 5), 15_360)


def test_without_a_driver_there_are_no_gpus_and_nothing_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> NoReturn:
        raise OSError(name)

    monkeypatch.setattr(nvidia.ctypes, "CDLL", absent)
    assert local_gpus() == ()
    assert "libcuda.so.1 cannot be loaded" in why_no_gpu()
    with pytest.raises(NotAvailable, match="driver is not here") as caught:
        GpuStream()
    assert caught.value.fix


def test_gpus_are_described_in_the_drivers_order(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, RTX, T4)
    assert local_gpus() == (
        Gpu(0, "NVIDIA GeForce RTX 3090", "sm86", 24_576, "570.86.10"),
        Gpu(1, "Tesla T4", "sm75", 15_360, "570.86.10"),
    )
    assert why_no_gpu() == ""


def test_a_driver_without_gpu_or_that_fails_is_a_reason_and_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert local_gpus() == ()
    assert why_no_gpu() == "the driver finds no NVIDIA GPU"
    install(monkeypatch, RTX, cuInit=100)
    assert local_gpus() == ()
    assert "refused cuInit: out of memory (code 100)" in why_no_gpu()


@pytest.mark.parametrize(
    ("module", "version", "found"),
    [
        ("570.86.10\n", "", "570.86.10"),
        ("", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue\nGCC version: 12.2.0", "550.54.15"),
        ("", "", ""),
    ],
)
def test_the_drivers_version_is_read_from_the_kernel(
    monkeypatch: pytest.MonkeyPatch, module: str, version: str, found: str
) -> None:
    texts = {"/sys/module/nvidia/version": module, "/proc/driver/nvidia/version": version}
    monkeypatch.setattr(nvidia, "_read", lambda path: texts[Path(path).as_posix()])
    assert nvidia.driver_version() == found


def test_bytes_go_in_and_come_out_and_all_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch, RTX)
    stream = GpuStream()
    sent, got = stream.pinned((2, 3), "float32"), stream.pinned((2, 3), "float32")
    sent[:] = np.arange(6).reshape(2, 3)
    address = stream.allocate(sent.nbytes)
    stream.copy_in(address, sent)
    stream.copy_out(got, address)
    stream.wait()
    assert got.tolist() == sent.tolist()
    assert len(cuda.memory) == 3
    stream.free(address)
    stream.free(address)
    stream.close()
    stream.close()
    assert not cuda.memory
    assert cuda.retained == 0


def test_an_empty_array_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, RTX)
    stream = GpuStream()
    assert stream.pinned((0, 4), "float32").shape == (0, 4)
    assert stream.allocate(0) > 0
    stream.close()


def test_a_captured_graph_replays_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch, RTX)
    stream = GpuStream()
    done: list[int] = []
    graph = stream.capture(lambda: cuda.do(lambda: done.append(1)))
    assert done == [], "capturing runs nothing"
    stream.launch(graph)
    stream.launch(graph)
    assert done == [1, 1]
    stream.close()
    assert not cuda.graphs


def test_a_capture_that_fails_leaves_the_stream_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch, RTX)
    stream = GpuStream()

    def fails() -> NoReturn:
        raise NotAvailable("no")

    with pytest.raises(NotAvailable):
        stream.capture(fails)
    assert cuda.queue is None, "the capture was ended"
    stream.close()


@pytest.mark.parametrize("entry", ["cuMemAlloc_v2", "cuMemAllocHost_v2"])
def test_too_little_memory_is_typed_and_names_the_call(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    cuda = install(monkeypatch, RTX, **{entry: 2})
    stream = GpuStream()
    with pytest.raises(NotAvailable, match=rf"refused {entry}: out of memory \(code 2\)"):
        stream.allocate(8) if entry == "cuMemAlloc_v2" else stream.pinned((2,), "float32")
    stream.close()
    assert cuda.retained == 0


def test_a_stream_that_cannot_be_made_gives_its_context_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch, RTX, cuStreamCreate=2)
    with pytest.raises(NotAvailable, match="cuStreamCreate"):
        GpuStream()
    assert cuda.retained == 0


def test_the_second_gpu_is_refused_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, RTX)
    with pytest.raises(NotAvailable, match="finds no NVIDIA GPU"):
        GpuStream(1)
