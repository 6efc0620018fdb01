"""NVIDIA GPUs through the driver's own library: which are here, and memory, a stream and graphs on one of them.

Nothing of the CUDA toolkit is needed: the driver brings ``libcuda.so.1``. Asking which GPUs are here makes no context.
Source: the CUDA driver API reference; the functions named ``..._v2`` are what its headers map the plain names to.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import NotAvailable

DRIVER_FIX = "install NVIDIA's driver, on a machine with an NVIDIA GPU"
_NO_GPU = "the driver finds no NVIDIA GPU"

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no implicit waiting for the legacy stream
_THIS_THREAD = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on calling the driver


@dataclass(frozen=True)
class Gpu:
    """One GPU. ``arch`` is its compute capability as ``sm86``; ``driver`` the driver's version, empty where unknown."""

    index: int
    name: str
    arch: str
    memory_mb: int
    driver: str


def local_gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver shows to this process, in its order; empty without driver or GPU. Never raises."""
    try:
        driver = _Driver()
        return tuple(_describe(driver, index) for index in range(driver.count()))
    except NotAvailable:
        return ()


def why_no_gpu() -> str:
    """Why no GPU can be used here; empty where one can."""
    try:
        return "" if _Driver().count() else _NO_GPU
    except NotAvailable as error:
        return error.failed


def driver_version() -> str:
    """The version of NVIDIA's kernel driver, as ``570.86.10``; empty where there is none."""
    text = _read(Path("/sys/module/nvidia/version")) or _read(Path("/proc/driver/nvidia/version"))
    found = re.search(r"\d+\.\d+(?:\.\d+)?", text)
    return found.group() if found else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _describe(driver: _Driver, index: int) -> Gpu:
    device, name, size = driver.device(index), ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.call("cuDeviceGetName", name, len(name), device)
    driver.call("cuDeviceTotalMem_v2", ctypes.byref(size), device)
    return Gpu(index, name.value.decode(errors="replace"), driver.arch(device), size.value >> 20, driver_version())


class _Driver:
    """The driver's library, initialised. Raises ``NotAvailable`` where it cannot be loaded or has no GPU."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise NotAvailable("NVIDIA's driver is not here: libcuda.so.1 cannot be loaded", fix=DRIVER_FIX) from error
        self.call("cuInit", 0)

    def call(self, function: str, *arguments: Any) -> None:
        try:
            entry = getattr(self._library, function)
        except AttributeError as error:
            raise NotAvailable(f"NVIDIA's driver has no {function}: it is too old", fix=DRIVER_FIX) from error
        code = entry(*arguments)
        if code != 0:
            raise NotAvailable(f"NVIDIA's driver refused {function}: {self._meaning(code)}", fix=DRIVER_FIX)

    def count(self) -> int:
        number = ctypes.c_int()
        self.call("cuDeviceGetCount", ctypes.byref(number))
        return number.value

    def device(self, index: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(device), index)
        return device

    def arch(self, device: ctypes.c_int) -> str:
        numbers = (ctypes.c_int(), ctypes.c_int())
        for number, attribute in zip(numbers, (_MAJOR, _MINOR)):
            self.call("cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
        return f"sm{numbers[0].value}{numbers[1].value}"

    def _meaning(self, code: int) -> str:
        text = ctypes.c_char_p()
        known = getattr(self._library, "cuGetErrorString", None)
        if known is None or known(code, ctypes.byref(text)) != 0 or not text.value:
            return f"code {code}"
        return f"{text.value.decode(errors='replace')} (code {code})"


class GpuStream:
    """One GPU's primary context with one stream. What was allocated and captured on it is freed when it is closed.

    Copies and kernels queue in order; ``wait`` waits for them. Raises ``NotAvailable`` without driver or GPU, and
    where the driver refuses, as for want of memory.
    """

    def __init__(self, index: int = 0) -> None:
        self._driver = _Driver()
        if self._driver.count() <= index:
            raise NotAvailable(_NO_GPU, fix=DRIVER_FIX)
        self.gpu = _describe(self._driver, index)
        self._device = self._driver.device(index)
        self._context, self._stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._freed_by: dict[int, str] = {}
        self._closed = False
        self._driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        try:
            self.make_current()
            self._driver.call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)
        except NotAvailable:
            self._driver.call("cuDevicePrimaryCtxRelease_v2", self._device)
            raise

    @property
    def stream(self) -> int:
        """The stream's address, as the vendor's libraries take it."""
        return int(self._stream.value or 0)

    def make_current(self) -> None:
        """Make the context this thread's own; due before every use, for callers may change threads."""
        self._driver.call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """The address of ``size`` bytes of the GPU's memory."""
        address = ctypes.c_uint64()
        self._driver.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        self._freed_by[int(address.value)] = "cuMemFree_v2"
        return int(address.value)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array in page-locked memory, which the GPU reads and writes without a copy in between."""
        empty = np.empty(shape, dtype)
        address, size = ctypes.c_void_p(), max(empty.nbytes, 1)
        self._driver.call("cuMemAllocHost_v2", ctypes.byref(address), ctypes.c_size_t(size))
        start = int(address.value or 0)
        self._freed_by[start] = "cuMemFreeHost"
        held: Any = (ctypes.c_ubyte * size).from_address(start)
        array: NDArray[Any] = np.frombuffer(held, empty.dtype, empty.size).reshape(shape)
        return array

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """Queue the copy of a pinned array to the GPU."""
        self._driver.call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), self._stream,
        )  # fmt: skip

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Queue the copy from the GPU into a pinned array."""
        self._driver.call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes), self._stream,
        )  # fmt: skip

    def wait(self) -> None:
        """Wait until all that is queued is done."""
        self._driver.call("cuStreamSynchronize", self._stream)

    def capture(self, work: Callable[[], None]) -> int:
        """Record what ``work`` queues, without running it, and return the address of the graph to ``launch``."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._driver.call("cuStreamBeginCapture_v2", self._stream, _THIS_THREAD)
        try:
            work()
        finally:  # the capture must end even when the work failed: a capturing stream takes no other work
            self._driver.call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        try:
            flags = ctypes.c_uint64(0)
            self._driver.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, flags)
        finally:
            self._driver.call("cuGraphDestroy", graph)
        address = int(executable.value or 0)
        self._freed_by[address] = "cuGraphExecDestroy"
        return address

    def launch(self, graph: int) -> None:
        """Queue a recorded graph."""
        self._driver.call("cuGraphLaunch", ctypes.c_void_p(graph), self._stream)

    def free(self, address: int) -> None:
        """Free what ``allocate``, ``pinned`` (its array's address) or ``capture`` gave. Freeing twice is fine."""
        function = self._freed_by.pop(address, "")
        if function:
            self._driver.call(function, ctypes.c_void_p(address))

    def close(self) -> None:
        """Free everything. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        self.make_current()
        for address in list(self._freed_by):
            self.free(address)
        self._driver.call("cuStreamDestroy_v2", self._stream)
        self._driver.call("cuDevicePrimaryCtxRelease_v2", self._device)
