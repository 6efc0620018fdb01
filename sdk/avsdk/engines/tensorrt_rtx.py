"""TensorRT for RTX: the device half. Devices: the NVIDIA GPUs whose compute capability an engine file was built for.

An engine file is native code to whoever loads it, so it is opened only when its hash is the one that the bundle's
manifest holds. The GPU's memory is reached through the driver's own library, so no CUDA toolkit is needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from importlib import metadata, util
from typing import Any

import numpy as np

from avsdk.errors import BundleRefused, NotAvailable
from avsdk.files import sha256_file
from avsdk.session import Array, Availability, Execution, Session

_INSTALL = "pip install 'avsdk[tensorrt-rtx]'"
_DRIVER_FIX = "install NVIDIA's driver, on a machine with a GeForce or Quadro RTX GPU"


class TensorRtRtxSession(Session):
    """Runs an engine file on the first GPU, in one stream; every run waits for its end."""

    engine = "tensorrt_rtx"
    _gpu: _Gpu
    _engine: Any
    _context: Any
    _loaded = False

    @classmethod
    def availability(cls, device: str) -> Availability:
        """Whether the runtime, the driver and a GPU are here; ``device`` is compared when the engine file is opened."""
        absent = util.find_spec("tensorrt_rtx") is None
        try:
            with _Gpu():
                pass
        except NotAvailable as error:  # said first: without a GPU the package is of no use
            return Availability(False, error.failed, error.fix)
        if absent:
            return Availability(False, "the package tensorrt-rtx-cu12 is not installed", _INSTALL)
        return Availability(True)

    def _open(self) -> None:
        self._refuse_unvouched()
        self._refuse_other_version(_runtime_version())
        self._gpu = _Gpu()
        try:
            self._load()
        except BaseException:
            self._gpu.close()
            raise

    def _load(self) -> None:
        import tensorrt_rtx as trt

        wanted = str(self.artifact.options.get("arch", ""))
        if wanted != self._gpu.arch:
            raise NotAvailable(
                f"the engine file was built for {wanted or 'an unknown GPU'}, the GPU here is {self._gpu.arch}",
                expected=f"a GPU of {wanted}",
                fix="export the bundle for this GPU: avsdk devices lists the names",
            )
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(self.file().read_bytes())
        if self._engine is None:
            raise NotAvailable(
                f"TensorRT for RTX cannot load {self.file().name}",
                expected="an engine file for this runtime, driver and GPU",
                fix="export the bundle again with this TensorRT for RTX",
            )
        # The scratch memory of the largest admitted size may exceed the GPU, so it is given per size, below.
        self._context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        self._loaded = True

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        context, gpu = self._context, self._gpu
        gpu.make_current()
        addresses: list[int] = []
        try:
            for name, array in feeds.items():
                context.set_input_shape(name, array.shape)
                addresses.append(gpu.copy_in(np.ascontiguousarray(array)))
                context.set_tensor_address(name, addresses[-1])
            needed = int(context.update_device_memory_size_for_shapes())
            addresses.append(gpu.allocate(needed))
            context.set_device_memory(addresses[-1], needed)
            outputs = {}
            for tensor in self.graph.outputs:
                outputs[tensor.name] = np.empty(tuple(context.get_tensor_shape(tensor.name)), tensor.dtype)
                addresses.append(gpu.allocate(outputs[tensor.name].nbytes))
                context.set_tensor_address(tensor.name, addresses[-1])
            if not context.execute_async_v3(gpu.stream):
                raise NotAvailable(f"TensorRT for RTX could not run {self.graph.name!r}", fix="see its messages above")
            gpu.wait()
            for array, address in zip(outputs.values(), addresses[-len(outputs) :]):
                gpu.copy_out(array, address)
            return outputs
        finally:
            for address in addresses:
                gpu.free(address)

    def _execution(self) -> Execution:
        # The network was strongly typed: its layers have the types that they were built with, or the build was refused.
        shares = self.artifact.options.get("precision_shares", {})
        return Execution(
            device=self.artifact.device,
            placement={"gpu": 1.0},
            precision_shares={str(name): float(share) for name, share in shares.items()},
        )

    def _close(self) -> None:
        if self._loaded:
            self._loaded = False
            self._context = self._engine = self._runtime = None
            self._gpu.close()

    def _refuse_unvouched(self) -> None:
        vouched = self.artifact.options.get("sha256")
        if not vouched or sha256_file(self.file()) != vouched:
            raise BundleRefused(
                f"the engine file {self.file().name} is not the one that the manifest vouches for",
                expected=f"SHA-256 {vouched or 'in the manifest'}",
                fix="get a whole copy of the bundle, or export it again",
            )

    def _refuse_other_version(self, version: str) -> None:
        """An engine file is read by the very release that wrote it, and by no other."""
        wanted = str(self.artifact.options.get("tensorrt_rtx", ""))
        if version != wanted:
            raise NotAvailable(
                f"the engine file was made by TensorRT for RTX {wanted or '(unknown)'}, here is {version}",
                expected=f"TensorRT for RTX {wanted}",
                fix=f"export the bundle again with {version}, or pip install tensorrt-rtx-cu12=={wanted}",
            )


class _Gpu:
    """The first GPU through the driver's library: context, stream, memory, copies."""

    def __init__(self) -> None:
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise NotAvailable("NVIDIA's driver is not here: libcuda.so.1 cannot be loaded", fix=_DRIVER_FIX) from error
        self._check("cuInit", 0)
        count = ctypes.c_int()
        self._check("cuDeviceGetCount", ctypes.byref(count))
        if count.value == 0:
            raise NotAvailable("the driver finds no NVIDIA GPU", fix=_DRIVER_FIX)
        self._device = ctypes.c_int()
        self._check("cuDeviceGet", ctypes.byref(self._device), 0)
        self.arch = f"sm{self._attribute(75)}{self._attribute(76)}"
        self._context = ctypes.c_void_p()
        self._check("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.make_current()
        self._stream = ctypes.c_void_p()
        self._check("cuStreamCreate", ctypes.byref(self._stream), 0)

    @property
    def stream(self) -> int:
        return int(self._stream.value or 0)

    def make_current(self) -> None:
        self._check("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        address = ctypes.c_uint64()
        self._check("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return int(address.value)

    def copy_in(self, array: Array) -> int:
        address = self.allocate(array.nbytes)
        source = array.ctypes.data_as(ctypes.c_void_p)
        self._check("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(array.nbytes))
        return address

    def copy_out(self, array: Array, address: int) -> None:
        result = array.ctypes.data_as(ctypes.c_void_p)
        self._check("cuMemcpyDtoH_v2", result, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))

    def wait(self) -> None:
        self._check("cuStreamSynchronize", self._stream)

    def free(self, address: int) -> None:
        self._check("cuMemFree_v2", ctypes.c_uint64(address))

    def close(self) -> None:
        self._check("cuStreamDestroy_v2", self._stream)
        self._check("cuDevicePrimaryCtxRelease_v2", self._device)

    def __enter__(self) -> _Gpu:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._check("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return int(value.value)

    def _check(self, function: str, *arguments: Any) -> None:
        code = getattr(self._driver, function)(*arguments)
        if code != 0:
            raise NotAvailable(f"NVIDIA's driver refused {function} with code {code}", fix=_DRIVER_FIX)


def _runtime_version() -> str:
    for distribution in ("tensorrt-rtx-cu12", "tensorrt-rtx"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "of an unknown version"
