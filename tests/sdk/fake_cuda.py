"""A stand-in for NVIDIA's driver library: the entries that ``avsdk.nvidia`` calls, with memory that is really there.

Copies move bytes and captured work is replayed, so that what a session computes through it can be checked. It stands
for the calls and their order only; no kernel runs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from avsdk import nvidia


class FakeCuda:
    """``gpus``: name, compute capability and MiB of each. ``failing``: entries that return a code, by name."""

    def __init__(self, gpus: Sequence[tuple[str, tuple[int, int], int]], failing: dict[str, int] | None = None) -> None:
        self.gpus = list(gpus)
        self.failing = dict(failing or {})
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}
        self.queue: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.retained = 0
        self._captured: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu"):
            raise AttributeError(name)
        action = getattr(type(self), f"_{name}", None)

        def entry(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.failing:
                return self.failing[name]
            if action is not None:
                action(self, *arguments)
            return 0

        return entry

    def do(self, work: Callable[[], None]) -> None:
        """Run the work, or keep it where a capture is going on."""
        if self.queue is None:
            work()
        else:
            self.queue.append(work)

    def _cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = len(self.gpus)

    def _cuDeviceGet(self, device: Any, index: int) -> None:
        device._obj.value = index

    def _cuDeviceGetName(self, text: Any, size: int, device: Any) -> None:
        text.value = self.gpus[device.value][0].encode()

    def _cuDeviceTotalMem_v2(self, size: Any, device: Any) -> None:
        size._obj.value = self.gpus[device.value][2] << 20

    def _cuDeviceGetAttribute(self, number: Any, attribute: int, device: Any) -> None:
        number._obj.value = self.gpus[device.value][1][attribute - 75]

    def _cuGetErrorString(self, code: int, text: Any) -> None:
        text._obj.value = b"out of memory"

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> None:
        context._obj.value = 7
        self.retained += 1

    def _cuDevicePrimaryCtxRelease_v2(self, device: Any) -> None:
        self.retained -= 1

    def _cuStreamCreate(self, stream: Any, flags: int) -> None:
        stream._obj.value = 99

    def _cuMemAlloc_v2(self, address: Any, size: Any) -> None:
        room = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(room)
        self.memory[ctypes.addressof(room)] = room

    _cuMemAllocHost_v2 = _cuMemAlloc_v2

    def _cuMemFree_v2(self, address: Any) -> None:
        del self.memory[address.value]  # a second time is an error, as on the real one

    _cuMemFreeHost = _cuMemFree_v2

    def _cuMemcpyHtoDAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> None:
        self.do(lambda: ctypes.memmove(to.value, source.value, size.value) and None)

    def _cuMemcpyDtoHAsync_v2(self, to: Any, source: Any, size: Any, stream: Any) -> None:
        self.do(lambda: ctypes.memmove(to.value, source.value, size.value) and None)

    def _cuStreamBeginCapture_v2(self, stream: Any, mode: int) -> None:
        self.queue = []

    def _cuStreamEndCapture(self, stream: Any, graph: Any) -> None:
        self._captured, self.queue = self.queue or [], None
        graph._obj.value = 55

    def _cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> None:
        executable._obj.value = 1000 + len(self.graphs)
        self.graphs[executable._obj.value] = self._captured

    def _cuGraphLaunch(self, graph: Any, stream: Any) -> None:
        for work in self.graphs[graph.value]:
            work()

    def _cuGraphExecDestroy(self, graph: Any) -> None:
        del self.graphs[graph.value]


def install(monkeypatch: pytest.MonkeyPatch, *gpus: tuple[str, tuple[int, int], int], **failing: int) -> FakeCuda:
    """Put the stand-in where ``avsdk.nvidia`` loads the driver's library."""
    cuda = FakeCuda(gpus, failing)
    monkeypatch.setattr(nvidia.ctypes, "CDLL", lambda name: cuda)
    monkeypatch.setattr(nvidia, "driver_version", lambda: "570.86.10")
    return cuda
