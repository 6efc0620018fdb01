"""A stand-in for the vendor's runtime module: what the sessions call, recorded; its engine doubles its input."""

from __future__ import annotations

import ctypes
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np

IOMode = Enum("IOMode", "INPUT OUTPUT")
Location = Enum("Location", "DEVICE HOST")
Strategy = Enum("Strategy", "STATIC USER_MANAGED")
Graphs = Enum("Graphs", "DISABLED WHOLE_GRAPH_CAPTURE")


class Context:
    """``queue`` is where the work goes: the driver's stand-in, which captures it or runs it."""

    def __init__(self, engine: Engine, how: Any) -> None:
        self.engine, self.how = engine, how
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.scratch: tuple[int, int] = (0, 0)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = tuple(shape)
        return shape[-1] <= 64

    def infer_shapes(self) -> list[str]:
        return self.engine.lacking

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def update_device_memory_size_for_shapes(self) -> int:
        return 128

    def set_device_memory(self, address: int, size: int) -> None:
        self.scratch = (address, size)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.shape[1:]) if self.engine.by_data else self.shape

    def execute_async_v3(self, stream: int) -> bool:
        self.engine.runs += 1
        if self.engine.fails:
            self.engine.logger.log(Logger.ERROR, "the kernel said no")
            return False
        count, source, to = int(np.prod(self.shape)), self.addresses["x"], self.addresses["y"]
        assert self.scratch[1] == 128

        def double() -> None:
            given = (ctypes.c_float * count).from_address(source)
            made = (ctypes.c_float * count).from_address(to)
            for index in range(count):
                made[index] = 2 * given[index]

        self.engine.cuda.do(double)
        return True


class Engine:
    """Tensors ``x`` and ``y`` of one type."""

    num_io_tensors = 2

    def __init__(self, cuda: Any, logger: Any, kind: str = "float32") -> None:
        self.cuda, self.logger, self.kind = cuda, logger, kind
        self.contexts: list[Context] = []
        self.lacking: list[str] = []
        self.by_data = self.fails = False
        self.host: set[str] = set()
        self.runs = 0
        self.config = SimpleNamespace(cuda_graph_strategy=Graphs.DISABLED, strategy=None, cache=None, loaded=b"")
        self.config.set_execution_context_allocation_strategy = lambda how: setattr(self.config, "strategy", how)
        self.config.set_runtime_cache = lambda cache: setattr(self.config, "cache", cache)
        self.config.create_runtime_cache = lambda: SimpleNamespace(
            deserialize=lambda blob: setattr(self.config, "loaded", blob), serialize=lambda: b"kernels"
        )

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> IOMode:
        return IOMode.INPUT if name == "x" else IOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return self.kind

    def get_tensor_location(self, name: str) -> Location:
        return Location.HOST if name in self.host else Location.DEVICE

    def create_runtime_config(self) -> Any:
        return self.config

    def create_execution_context(self, how: Any) -> Context:
        self.contexts.append(Context(self, how))
        return self.contexts[-1]


class Logger:
    """What a vendor's logger is subclassed from."""

    ERROR, INTERNAL_ERROR, WARNING = "error", "internal", "warning"


class Module:
    """The module. ``made`` is the last engine; ``loads`` whether files are accepted."""

    ILogger = Logger
    TensorIOMode, TensorLocation = IOMode, Location
    ExecutionContextAllocationStrategy, CudaGraphStrategy = Strategy, Graphs
    nptype = staticmethod(np.dtype)

    def __init__(self, cuda: Any, *, loads: bool = True, kind: str = "float32") -> None:
        self.cuda, self.loads, self.kind = cuda, loads, kind
        self.made: Engine
        self.runtime: Any = None

    def Runtime(self, logger: Any) -> Any:
        self.runtime = SimpleNamespace(engine_host_code_allowed=False, logger=logger)
        self.runtime.deserialize_cuda_engine = lambda content: self._engine(logger, content)
        return self.runtime

    def _engine(self, logger: Any, content: bytes) -> Engine | None:
        if not self.loads:
            logger.log(Logger.ERROR, "the version does not match")
            logger.log(Logger.WARNING, "and this is no error")
            return None
        self.made = Engine(self.cuda, logger, self.kind)
        return self.made
