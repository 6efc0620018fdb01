"""LiteRT, formerly TensorFlow Lite: the device half. Device: ``cpu``, with the XNNPACK kernels.

A .tflite file holds fixed sizes. ``resize_tensor_input`` reports no error on one and goes on with the old size, so it
is never called: another size is refused by the base session, and the file's sizes are compared when it is opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib import util
from typing import Any

import numpy as np

from avsdk.errors import BundleRefused, NotAvailable
from avsdk.session import Array, Availability, Execution, Session
from avsdk.spec import TensorSpec

_PRECISIONS = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float64": "fp64",
    "int8": "int8",
    "uint8": "int8",
}
_ORDER = ("int8", "fp16", "bf16", "fp32", "fp64")
_WEIGHTED = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "CONV_3D": 1,
    "FULLY_CONNECTED": 1,
    "BATCH_MATMUL": 0,
    "TRANSPOSE_CONV": 1,
}
"""Operations that multiply and add, and the place of the operand whose shape says how often."""
_MOVES = {
    "DELEGATE",
    "TRANSPOSE",
    "RESHAPE",
    "DEQUANTIZE",
    "QUANTIZE",
    "MIRROR_PAD",
    "PAD",
    "PADV2",
    "CONCATENATION",
    "CAST",
}
"""Operations that compute nothing; ``DELEGATE`` stands for nodes that are listed as well."""


class LiteRtSession(Session):
    """Loads a .tflite file through ``ai_edge_litert``, or ``tflite_runtime`` where only that is installed."""

    engine = "litert"
    _interpreter: Any
    _inputs: dict[str, int]
    _outputs: dict[str, int]

    @classmethod
    def availability(cls, device: str) -> Availability:
        """The processor of this machine is the only device; one of the two runtimes must be installed."""
        if device != "cpu":
            return Availability(
                False, f"LiteRT runs on this machine's cpu here, not on {device}", "run the bundle on that device"
            )
        if util.find_spec("ai_edge_litert") is not None:
            return Availability(True)
        if util.find_spec("tflite_runtime") is None:
            return Availability(False, "the package ai-edge-litert is not installed", "pip install 'avsdk[litert]'")
        if int(np.__version__.split(".")[0]) >= 2:
            return Availability(
                False, f"tflite-runtime needs numpy 1, here is {np.__version__}", "pip install 'numpy<2'"
            )
        return Availability(True)

    def _open(self) -> None:
        try:
            self._interpreter = _interpreter_class()(model_path=str(self.file()), num_threads=self.threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise NotAvailable(
                f"LiteRT cannot load {self.file().name}: {str(error).strip() or type(error).__name__}",
                expected="a model that this runtime knows every operation of",
                fix="pip install --upgrade ai-edge-litert, or export the bundle again with the one that is here",
            ) from error
        names = self.artifact.options
        inputs = {item["name"]: item for item in self._interpreter.get_input_details()}
        outputs = {item["name"]: item for item in self._interpreter.get_output_details()}
        self._inputs = self._checked(self.graph.inputs, names.get("inputs", {}), inputs)
        self._outputs = self._checked(self.graph.outputs, names.get("outputs", {}), outputs)

    def _checked(
        self, tensors: tuple[TensorSpec, ...], names: Mapping[str, str], found: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, int]:
        """The index of each tensor in the file; refuses a file whose names, dtypes or sizes are not the manifest's."""
        sizes = self.example_sizes()
        indices = {}
        for tensor in tensors:
            detail = found.get(names.get(tensor.name, tensor.name))
            if detail is None:
                raise BundleRefused(
                    f"{self.file().name} has no tensor for {tensor.name!r}", expected=f"one of {list(found)}"
                )
            shape, dtype = [int(size) for size in detail["shape"]], np.dtype(detail["dtype"])
            known = all(isinstance(axis, int) or axis in sizes for axis in tensor.shape)
            wanted = list(tensor.sized(sizes)) if known else shape
            if shape != wanted or dtype != np.dtype(tensor.dtype):
                raise BundleRefused(
                    f"{self.file().name} holds {tensor.name!r} as {dtype} {shape}",
                    expected=f"{tensor.dtype} {wanted}, as the manifest says",
                    fix="export the bundle again",
                )
            indices[tensor.name] = int(detail["index"])
        return indices

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        for name, index in self._inputs.items():
            self._interpreter.set_tensor(index, np.ascontiguousarray(feeds[name]))
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}

    def _execution(self) -> Execution:
        details = {item["index"]: item for item in self._interpreter.get_tensor_details()}
        operations = self._interpreter._get_ops_details()
        shares: Counter[str] = Counter()
        for operation in operations:
            if operation["op_name"] not in _MOVES:
                shares[_precision(operation)] += _flops(operation, details)
        total = sum(shares.values()) or 1
        unpacked = [operation["operand_types"][0] for operation in operations if operation["op_name"] == "DEQUANTIZE"]
        half = sum(np.dtype(kind) == np.float16 for kind in unpacked if isinstance(kind, type))
        return Execution(
            device="cpu",
            # XNNPACK takes what it can and LiteRT's own kernels the rest: both are the processor.
            placement={"cpu": 1.0},
            precision_shares={name: count / total for name, count in shares.items() if count},
            weights="fp16" if half else "",
        )

    def _close(self) -> None:
        self._interpreter = None


def _interpreter_class() -> Any:
    if util.find_spec("ai_edge_litert") is not None:
        from ai_edge_litert.interpreter import Interpreter
    else:
        from tflite_runtime.interpreter import Interpreter
    return Interpreter


def _precision(operation: Mapping[str, Any]) -> str:
    """The precision that an operation computed in: the narrowest numeric type among its data operands and results."""
    kinds = [
        np.dtype(kind).name
        for kind in (*operation["operand_types"], *operation["result_types"])
        if isinstance(kind, type)
    ]
    known = [_PRECISIONS[kind] for kind in kinds if kind in _PRECISIONS]
    return min(known, key=_ORDER.index) if known else "int32"


def _flops(operation: Mapping[str, Any], details: Mapping[int, Mapping[str, Any]]) -> int:
    """Two per multiply-add of a weighted operation; one per output element of the others."""
    outputs = [details[index] for index in operation["outputs"] if index in details]
    elements = int(np.prod(outputs[0]["shape"], dtype=np.int64)) if outputs else 0
    place = _WEIGHTED.get(operation["op_name"])
    if place is None or len(operation["inputs"]) <= place:
        return elements
    weights = details.get(int(operation["inputs"][place]))
    if weights is None or len(weights["shape"]) < 2:
        return elements
    shape = [int(size) for size in weights["shape"]]
    if operation["op_name"] == "DEPTHWISE_CONV_2D":  # 1, height, width, channels: each output sees one channel
        return 2 * elements * int(np.prod(shape[1:-1], dtype=np.int64))
    if operation["op_name"] in {"FULLY_CONNECTED", "BATCH_MATMUL"}:
        return 2 * elements * shape[-1]
    return 2 * elements * int(np.prod(shape[1:], dtype=np.int64))
