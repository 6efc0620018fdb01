"""OpenVINO: the device half. Devices: ``cpu`` (the plugin for Xeon and other x86 or Arm processors).

The precision is asked for, read back from the compiled model, and once more from the graph that executed: on processors
with bf16 the plugin's own default is bf16, and a request it cannot serve is dropped without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib import metadata, util
from typing import Any

import numpy as np

from avsdk.errors import NotAvailable, SilentFallback
from avsdk.session import Array, Availability, Execution, Session
from avsdk.telemetry import refuse_telemetry

_PLUGINS = {"cpu": "CPU"}
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_READ_BACK = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


class OpenVinoSession(Session):
    """Loads the IR that the compiler wrote, tuned for latency, with one stream and a fixed number of threads."""

    engine = "openvino"
    _compiled: Any

    @classmethod
    def availability(cls, device: str) -> Availability:
        """Whether the package is here; the CPU plugin comes with it."""
        if device not in _PLUGINS:
            return Availability(
                False, f"this session knows no OpenVINO device {device!r}", f"one of: {', '.join(_PLUGINS)}"
            )
        if util.find_spec("openvino") is None:
            return Availability(False, "the package openvino is not installed", "pip install 'avsdk[openvino]'")
        return Availability(True)

    def _open(self) -> None:
        refuse_telemetry()
        import openvino

        self._refuse_older(metadata.version("openvino"))
        hint = _HINTS[self.artifact.precision]
        config = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(self.threads),
        }
        try:
            core = openvino.Core()
            self._compiled = core.compile_model(str(self.file()), _PLUGINS[self.artifact.device], config)
        except RuntimeError as error:
            raise NotAvailable(
                f"OpenVINO cannot compile {self.file().name} for {self.artifact.device}: {_last_line(error)}",
                expected="a model that the plugin supports",
                fix="export the bundle again with this OpenVINO, or choose another target: avsdk doctor",
            ) from error
        kind = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if _READ_BACK.get(kind, kind) != hint:
            raise SilentFallback(
                f"OpenVINO was asked for {hint} and set {kind}",
                expected=hint,
                fix=f"export with --precision {_PRECISIONS.get(_READ_BACK.get(kind, kind), 'fp32')}",
            )
        self._require_tensors(_tensor_names(self._compiled.inputs), _tensor_names(self._compiled.outputs))
        self._request = self._compiled.create_infer_request()
        self._names = [tensor.name for tensor in self.graph.outputs]
        self._ran = False

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        given = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
        # By default both ways are copied. The outputs must be, once: the next run writes over the runtime's memory.
        results = self._request.infer(given, share_inputs=True, share_outputs=True)
        self._ran = True
        return {name: results[name].copy() for name in self._names}

    def _execution(self) -> Execution:
        if not self._ran:
            self.run(self.example_feeds())
        shares: Counter[str] = Counter()
        for node in self._compiled.get_runtime_model().get_ops():
            info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
            if info.get("layerType") not in {"Const", "Input", "Output", "Reorder", "Reshape"}:
                shares[_PRECISIONS.get(info["runtimePrecision"], info["runtimePrecision"])] += _flops(
                    node, info["layerType"]
                )
        total = sum(shares.values()) or 1
        devices = self._compiled.get_property("EXECUTION_DEVICES")
        return Execution(
            device=self.artifact.device,
            placement={name.lower(): 1.0 / len(devices) for name in devices},
            precision_shares={name: count / total for name, count in shares.items() if count},
        )

    def _close(self) -> None:
        self._request = None
        self._compiled = None

    def _refuse_older(self, version: str) -> None:
        """An IR is read by the release that wrote it and by later ones, not by earlier ones."""
        wanted = str(self.artifact.options.get("openvino", version))
        if _release(version) < _release(wanted):
            raise NotAvailable(
                f"the artifact was made by OpenVINO {wanted}, here is {version}",
                expected=f"openvino >= {wanted}",
                fix=f"pip install 'openvino>={wanted}', or export the bundle again here",
            )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdigit())


def _flops(node: Any, layer: str) -> int:
    """Multiply-adds of a weighted node times two; one operation per output element for the others."""
    if node.output(0).get_partial_shape().is_dynamic:
        return 0
    elements = int(np.prod(list(node.output(0).get_shape()), dtype=np.int64))
    if layer not in _WEIGHTED or len(node.inputs()) < 2:
        return elements
    kernel = [int(size) for size in node.input(1).get_shape()]
    inner = kernel[1:] if layer in {"Convolution", "Deconvolution"} else kernel[-1:]
    return 2 * elements * int(np.prod(inner, dtype=np.int64))


def _tensor_names(ports: Any) -> list[str]:
    return [str(name) for port in ports for name in port.get_names()]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
