"""TensorRT 10 and 11: the device half. Devices: the GPU model that an engine file was built and timed on."""

from __future__ import annotations

from typing import Any

from avsdk.tensorrt_execution import EngineFileSession


class TensorRtSession(EngineFileSession):
    """Runs an engine file; from the second run of a size on, its work is launched as one CUDA graph."""

    engine = "tensorrt"
    title = "TensorRT"
    module = "tensorrt"
    install = "pip install 'avsdk[tensorrt]'"

    def _vendor(self) -> Any:
        import tensorrt

        return tensorrt

    def _new_context(self, trt: Any, engine: Any) -> Any:
        return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
