"""TensorRT for RTX: the device half. Devices: the NVIDIA GPUs whose compute capability an engine file was built for.

The kernels are made on the GPU when a size first runs; they are kept under ``$AVSDK_HOME`` for the next session.
"""

from __future__ import annotations

from typing import Any

from avsdk.tensorrt_execution import EngineFileSession, cached_bytes, keep_bytes

_ROOM = "kernels"


class TensorRtRtxSession(EngineFileSession):
    """Runs an engine file; CUDA graphs are recorded by the runtime itself, and kept per size."""

    engine = "tensorrt_rtx"
    title = "TensorRT for RTX"
    module = "tensorrt_rtx"
    install = "pip install 'avsdk[tensorrt-rtx]'"
    captures = False
    _config: Any = None
    _kernels: Any = None

    def _vendor(self) -> Any:
        import tensorrt_rtx

        return tensorrt_rtx

    def _new_context(self, trt: Any, engine: Any) -> Any:
        if self._config is None:
            self._config = engine.create_runtime_config()
            self._config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            if self._setting("cuda_graph", "on") == "on":
                self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._kernels = self._config.create_runtime_cache()
            kept = cached_bytes(_ROOM, self._cache_name())
            if kept:  # the runtime compares GPU, driver and version itself, and starts afresh where they differ
                self._kernels.deserialize(kept)
            self._config.set_runtime_cache(self._kernels)
        return engine.create_execution_context(self._config)

    def _close(self) -> None:
        kernels, self._kernels, self._config = self._kernels, None, None
        try:
            if kernels is not None:
                keep_bytes(_ROOM, self._cache_name(), bytes(kernels.serialize()))
        finally:
            del kernels
            super()._close()

    def _cache_name(self) -> str:
        gpu = self._here().gpu
        return f"{self.artifact.options['sha256'][:16]}-{gpu.arch}-{gpu.driver or 'driver'}.kernels"
