"""What the sessions of TensorRT and of TensorRT for RTX share: an engine file, loaded and run on one GPU.

The vendor's module comes as a parameter; the two have one API but for what their own files add. An engine file is
native code to whoever loads it, so it is opened only when its hash is the one that the bundle's manifest holds.
"""

from __future__ import annotations

import contextlib
import hashlib
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from importlib import util
from typing import Any

import numpy as np

from avsdk.errors import BundleRefused, DiskFull, NotAvailable
from avsdk.files import cache_home, is_ours, sha256_file, write_atomic
from avsdk.nvidia import DRIVER_FIX, GpuStream, local_gpus, why_no_gpu
from avsdk.requirements import gpu_fits
from avsdk.session import Array, Availability, Execution, Session

DEVICES = (
    "a100", "h100", "h200", "jetson-agx-orin", "jetson-nano", "jetson-orin-nano", "quadro-gv100", "quadro-rtx-6000",
    "rtx-3090", "rtx-4090", "rtx-5090", "t4", "tesla-v100", "this-gpu",
)  # fmt: skip
"""The catalogue's words for NVIDIA GPUs. Which of them this machine's is, its compute capability says."""
_DIGEST_BYTES = 32
"""Of the SHA-256 that stands before what is kept."""
_KEPT_SIZES = 4
"""Sets of buffers kept, one per input size; the one unused for longest is freed for a fifth."""


def recording_logger(trt: Any) -> Any:
    """A logger that keeps the errors, since a refused call returns nothing but logs why."""

    class Lines(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Lines()


class EngineFileSession(Session):
    """Runs an engine file in one stream of the first GPU that it was built for; every run waits for its end.

    Subclasses set ``title``, ``module`` and ``install`` and write ``_vendor`` and ``_context``. ``captures``: whether
    the session records each size's work as a CUDA graph; the alternative is that the vendor's runtime does.
    """

    title: str
    module: str
    install: str
    captures = True
    _gpu: GpuStream | None = None
    _engine: Any = None

    @classmethod
    def availability(cls, device: str) -> Availability:
        """Whether driver, GPU and runtime are here; what the file needs of the GPU is compared when it is opened."""
        if device not in DEVICES:
            return Availability(False, f"{cls.title} knows no GPU {device!r}", f"one of: {', '.join(DEVICES)}")
        absent = why_no_gpu()
        if absent:  # said first: without a GPU the package is of no use
            return Availability(False, absent, DRIVER_FIX)
        if util.find_spec(cls.module) is None:
            return Availability(False, f"the package {cls.module} is not installed", cls.install)
        return Availability(True)

    @abstractmethod
    def _vendor(self) -> Any:
        """Import the vendor's module."""

    @abstractmethod
    def _new_context(self, trt: Any, engine: Any) -> Any:
        """An execution context whose scratch memory is given to it per size: the largest may exceed the GPU."""

    def _open(self) -> None:
        self._refuse_unvouched()
        try:
            trt = self._vendor()
        except (ImportError, OSError) as error:
            raise NotAvailable(
                f"the package {self.module} is installed and cannot be loaded: {error}",
                expected="its own libraries beside it",
                fix=self.install,
            ) from error
        self._logger = recording_logger(trt)
        self._sizes: OrderedDict[tuple[tuple[int, ...], ...], _Buffers] = OrderedDict()
        self._gpu = GpuStream(_index_of(self.requirements().arch))
        self._graphs = self.captures and self._setting("cuda_graph", "on") == "on"
        try:
            self._runtime = trt.Runtime(self._logger)
            if self._setting("version_compatible", "off") == "on":
                self._runtime.engine_host_code_allowed = True  # such a file brings its own runtime, vouched for above
            self._engine = self._runtime.deserialize_cuda_engine(self.file().read_bytes())
            if self._engine is None:
                raise NotAvailable(
                    f"{self.title} cannot load {self.file().name}: {self._why()}",
                    expected="an engine file for this runtime, driver and GPU",
                    fix=f"export the bundle again with this {self.title}: avsdk export BUNDLE --target {self.engine}",
                )
            self._check_tensors(trt)
        except BaseException:
            self._close()
            raise

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        gpu = self._here()
        gpu.make_current()
        buffers = self._buffers_for(feeds)
        for name, array in feeds.items():
            np.copyto(buffers.inputs[name], array)
        buffers.step()
        return {name: array.copy() for name, array in buffers.outputs.items()}

    def _execution(self) -> Execution:
        # The network is strongly typed: its layers have the types that the model says, or the build was refused.
        return Execution(self.artifact.device, {"gpu": 1.0}, self.built_shares())

    def _close(self) -> None:
        if self._gpu is None:
            return
        gpu, self._gpu = self._gpu, None
        self._sizes.clear()
        self._engine = self._runtime = None
        gpu.close()

    def _here(self) -> GpuStream:
        if self._gpu is None:
            raise NotAvailable(f"this session of {self.title} is closed", fix="open it again")
        return self._gpu

    def _setting(self, name: str, default: str) -> str:
        chosen = self.artifact.options.get("session")
        return str(chosen.get(name, default)) if isinstance(chosen, Mapping) else default

    def _why(self) -> str:
        return "; ".join(self._logger.errors[-3:]) or "it gave no reason"

    def _buffers_for(self, feeds: Mapping[str, Array]) -> _Buffers:
        key = tuple(feeds[tensor.name].shape for tensor in self.graph.inputs)
        if key not in self._sizes:
            while len(self._sizes) >= _KEPT_SIZES:
                self._sizes.popitem(last=False)[1].free()
            trt = self._vendor()
            self._sizes[key] = _Buffers(self, trt, self._new_context(trt, self._engine), feeds)
        self._sizes.move_to_end(key)
        return self._sizes[key]

    def _check_tensors(self, trt: Any) -> None:
        """Refuse a file whose tensors are not the manifest's: their sizes decide how many bytes are copied."""
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        taken = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._require_tensors(taken, [name for name in names if name not in taken])
        for tensor in (*self.graph.inputs, *self.graph.outputs):
            found = np.dtype(trt.nptype(self._engine.get_tensor_dtype(tensor.name)))
            if found != np.dtype(tensor.dtype):
                raise BundleRefused(
                    f"{tensor.name!r} of {self.file().name} is {found}",
                    expected=f"{tensor.dtype}, as the manifest says",
                    fix="get a whole copy of the bundle, or export it again",
                )

    def _refuse_unvouched(self) -> None:
        vouched = self.artifact.options.get("sha256")
        if not vouched or sha256_file(self.file()) != vouched:
            raise BundleRefused(
                f"the engine file {self.file().name} is not the one that the manifest vouches for",
                expected=f"SHA-256 {vouched or 'in the manifest'}",
                fix="get a whole copy of the bundle, or export it again",
            )


class _Buffers:
    """One input size: a context, pinned arrays on the host, memory on the GPU, and the recorded graph of its work.

    The graph holds addresses and kernels of its own context, so no context serves two sizes.
    """

    def __init__(self, session: EngineFileSession, trt: Any, context: Any, feeds: Mapping[str, Array]) -> None:
        self._session, self._gpu, self._context = session, session._here(), context
        self._addresses: dict[str, int] = {}
        self._made: list[int] = []
        self._graph: int | None = None
        self._warm = False
        self.inputs: dict[str, Array] = {}
        self.outputs: dict[str, Array] = {}
        try:
            for name, array in feeds.items():
                if not context.set_input_shape(name, array.shape):
                    raise self._refused(f"refuses {name!r} at {list(array.shape)}")
                self.inputs[name] = self._bind(trt, name, array.shape, array.dtype)
            lacking = context.infer_shapes()
            if lacking:
                raise self._refused(f"does not know the size of {lacking[0]!r}")
            self._give_scratch()
            for tensor in session.graph.outputs:
                shape = tuple(context.get_tensor_shape(tensor.name))
                if any(size < 0 for size in shape):
                    raise self._refused(f"makes {tensor.name!r} of a size that depends on the data")
                self.outputs[tensor.name] = self._bind(trt, tensor.name, shape, np.dtype(tensor.dtype))
        except BaseException:
            self.free()
            raise

    def step(self) -> None:
        """Copy in, compute, copy out, and wait; the second time as one recorded graph."""
        if self._graph is not None:
            self._gpu.launch(self._graph)
        else:
            self._queue()
        self._gpu.wait()
        if not self._warm:
            self._warm = True  # the first run did what is done once per size, which a graph must not hold
            self._record()

    def free(self) -> None:
        for address in (*self._made, *([] if self._graph is None else [self._graph])):
            self._gpu.free(address)
        self._context = None
        self.inputs, self.outputs = {}, {}

    def _record(self) -> None:
        if not self._session._graphs:
            return
        try:
            self._graph = self._gpu.capture(self._queue)
        except (
            NotAvailable
        ):  # a graph saves launches and changes no number: what cannot be recorded is queued as before
            self._session._graphs = False

    def _queue(self) -> None:
        for name, array in self.inputs.items():
            if name in self._addresses:
                self._gpu.copy_in(self._addresses[name], array)
        if not self._context.execute_async_v3(self._gpu.stream):
            raise self._refused("could not run it")
        for name, array in self.outputs.items():
            if name in self._addresses:
                self._gpu.copy_out(array, self._addresses[name])

    def _bind(self, trt: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """A pinned array for the tensor, and memory on the GPU unless the engine reads it on the host."""
        array = self._gpu.pinned(shape, dtype)
        address = array.ctypes.data
        self._made.append(address)
        if self._session._engine.get_tensor_location(name) == trt.TensorLocation.DEVICE:
            address = self._addresses[name] = self._gpu.allocate(array.nbytes)
            self._made.append(address)
        self._context.set_tensor_address(name, address)
        return array

    def _give_scratch(self) -> None:
        needed = int(self._context.update_device_memory_size_for_shapes())
        self._made.append(self._gpu.allocate(needed))
        self._context.set_device_memory(self._made[-1], needed)

    def _refused(self, what: str) -> NotAvailable:
        return NotAvailable(
            f"{self._session.title} {what}, in graph {self._session.graph.name!r}: {self._session._why()}",
            expected="a size within the ranges that the engine file was built for, and free memory on the GPU",
            fix="try a smaller size, or export again with other --axis ranges",
        )


def cached_bytes(room: str, name: str) -> bytes:
    """What a vendor's library kept of earlier work under ``$AVSDK_HOME``.

    Empty where there is nothing, and where it is damaged or others may have written it: it holds native code.
    """
    folder = cache_home() / room
    try:
        kept = (folder / name).read_bytes() if is_ours(folder) else b""
    except OSError:
        return b""
    digest, content = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else b""


def keep_bytes(room: str, name: str, content: bytes) -> None:
    """Keep it for the next time; a cache that cannot be written costs time and nothing else."""
    folder = cache_home() / room
    with contextlib.suppress(DiskFull, NotAvailable, OSError):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        write_atomic(folder / name, hashlib.sha256(content).digest() + content)


def _index_of(arch: str) -> int:
    """The first GPU that is what the file was built for; the first of all where the file does not say."""
    return next((gpu.index for gpu in local_gpus() if gpu_fits(arch, gpu.arch)), 0)
