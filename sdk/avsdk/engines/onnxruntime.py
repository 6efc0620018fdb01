"""ONNX Runtime: the device half. Devices: ``cpu``, ``cuda``.

What executed is read from the profile of the first run: the provider and the tensor types of every node.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from avsdk.errors import ModelRefused, NotAvailable, SilentFallback
from avsdk.session import Array, Availability, Execution, Session
from avsdk.telemetry import refuse_telemetry

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_PRECISIONS = {
    "float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64", "uint8": "int8", "int8": "int8",
}  # fmt: skip
_WEIGHTED = ("Conv", "Gemm", "MatMul")


class OnnxRuntimeSession(Session):
    """Loads the bundle's ONNX file. The CPU provider never stands in for another one."""

    engine = "onnxruntime"
    _session: Any
    _profiled: list[dict[str, Any]] | None

    @classmethod
    def availability(cls, device: str) -> Availability:
        """Whether the package is here and has the provider of ``device``."""
        extra = "onnxruntime-gpu" if device == "cuda" else "onnxruntime"
        if device not in _PROVIDERS:
            return Availability(False, f"ONNX Runtime has no device {device!r}", f"one of: {', '.join(_PROVIDERS)}")
        if util.find_spec("onnxruntime") is None:
            return Availability(False, "the package onnxruntime is not installed", f"pip install 'avsdk[{extra}]'")
        if _PROVIDERS[device] not in _runtime().get_available_providers():
            return Availability(
                False, f"this ONNX Runtime has no {_PROVIDERS[device]}", f"pip install 'avsdk[{extra}]'"
            )
        return Availability(True)

    def _open(self) -> None:
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4  # what goes wrong is raised; its own lines would only repeat it
        options.enable_profiling = True
        self._folder = tempfile.TemporaryDirectory(prefix="avsdk-profile-")
        options.profile_file_prefix = str(Path(self._folder.name) / "run")
        provider = _PROVIDERS[self.artifact.device]
        if provider != "CPUExecutionProvider":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self._profiled = None
        try:
            self._session = runtime.InferenceSession(str(self.file()), options, providers=[provider])
        except _load_errors() as error:
            self._folder.cleanup()
            raise NotAvailable(
                f"ONNX Runtime cannot load {self.file().name} on {self.artifact.device}: {str(error).splitlines()[0]}",
                expected="a model whose every node this provider runs",
                fix="export the model again, or choose another target: avsdk doctor",
            ) from error
        try:
            self._check_opened(provider)
        except BaseException:
            self._close()
            raise
        self.runtime_errors = (*_load_errors(), ValueError, MemoryError)
        self._names = [tensor.name for tensor in self.graph.outputs]

    def _check_opened(self, provider: str) -> None:
        if self._session.get_providers()[0] != provider:
            raise SilentFallback(
                f"ONNX Runtime opened {self._session.get_providers()[0]}",
                expected=provider,
                fix="avsdk doctor onnxruntime",
            )
        self._require_tensors(
            [item.name for item in self._session.get_inputs()], [item.name for item in self._session.get_outputs()]
        )

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        outputs = dict(zip(self._names, self._session.run(self._names, dict(feeds))))
        if self._profiled is None:
            self._profiled = self._end_profile()
        return outputs

    def _execution(self) -> Execution:
        if self._profiled is None:
            self.run(self.example_feeds())
        events = [event["args"] for event in self._profiled or () if event.get("cat") == "Node" and "args" in event]
        kernels = [arguments for arguments in events if arguments.get("provider")]
        providers = Counter(arguments["provider"] for arguments in kernels)
        names = {provider: device for device, provider in _PROVIDERS.items()}
        shares: Counter[str] = Counter()
        for arguments in kernels:
            shares[_precision(arguments)] += _flops(arguments)
        total = sum(shares.values()) or 1
        return Execution(
            device=self.artifact.device,
            placement={names.get(name, name): count / len(kernels) for name, count in providers.items()},
            precision_shares={name: count / total for name, count in shares.items() if count},
        )

    def _end_profile(self) -> list[dict[str, Any]]:
        path = Path(self._session.end_profiling())
        events: list[dict[str, Any]] = json.loads(path.read_text())
        self._folder.cleanup()
        return events

    def _close(self) -> None:
        self._session = None
        self._folder.cleanup()


def reference_outputs(onnx: str, samples: list[dict[str, Array]]) -> list[dict[str, Any]]:
    """The fp32 reference of an ONNX file: no graph optimisation, one answer per sample, on the CPU.

    A sample that the model cannot take is answered by ``{"failed": text}``. Call it in a child process.
    Raises ``ModelRefused`` for a malformed graph and ``NotAvailable`` for one that ONNX Runtime does not know.
    """
    runtime = _runtime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    name = Path(onnx).name
    try:
        session = runtime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except (state.InvalidProtobuf, state.InvalidGraph, state.InvalidArgument) as error:
        raise ModelRefused(f"{name} is malformed: {error}", expected="a valid ONNX graph") from error
    except (state.Fail, state.NotImplemented, state.RuntimeException) as error:
        raise NotAvailable(
            f"ONNX Runtime cannot load {name}: {error}",
            expected="operators and versions that it knows, since it gives the reference outputs",
            fix="export the model with ONNX's own operators at opset 20",
        ) from error
    outputs = [output.name for output in session.get_outputs()]
    answers: list[dict[str, Any]] = []
    for feeds in samples:
        try:
            answers.append(dict(zip(outputs, session.run(outputs, feeds))))
        except (state.Fail, state.InvalidArgument, state.RuntimeException, state.NotImplemented) as error:
            answers.append({"failed": str(error)})
    return answers


def _runtime() -> Any:
    """Import ONNX Runtime with its telemetry off."""
    refuse_telemetry()
    import onnxruntime

    return onnxruntime


def _load_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a model that it cannot load: its own types share no base but ``Exception``."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoSuchFile",
        "NotImplemented",
        "RuntimeException",
    )
    return tuple(getattr(state, name) for name in names)


def _precision(arguments: Mapping[str, Any]) -> str:
    """The precision that a kernel computed in: the narrowest numeric type among its inputs."""
    kinds = [
        _PRECISIONS[kind] for entry in arguments.get("input_type_shape", ()) for kind in entry if kind in _PRECISIONS
    ]
    order = ("int8", "fp16", "bf16", "fp32", "fp64")
    return min(kinds, key=order.index) if kinds else "fp32"


def _flops(arguments: Mapping[str, Any]) -> int:
    """Multiply-adds of a weighted kernel, times two; other kernels count one operation per output element, at least."""
    inputs = [shape for entry in arguments.get("input_type_shape", ()) for shape in entry.values()]
    outputs = [shape for entry in arguments.get("output_type_shape", ()) for shape in entry.values()]
    elements = int(np.prod(outputs[0], dtype=np.int64)) if outputs and outputs[0] else 0
    name = arguments.get("op_name", "")
    if not any(word in name for word in _WEIGHTED) or len(inputs) < 2:
        return elements
    if "Conv" in name:
        kernel = next((shape for shape in inputs[1:] if len(shape) >= 3), None)
        return 2 * elements * int(np.prod(kernel[1:], dtype=np.int64)) if kernel else elements
    return 2 * elements * int(inputs[0][-1])
