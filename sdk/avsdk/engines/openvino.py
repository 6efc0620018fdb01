"""OpenVINO: the device half. Devices: ``cpu`` (Xeon and other x86 or Arm processors), ``gpu``, ``npu``, ``hetero:a+b``.

The precision and every setting is asked for, read back from the compiled model, and the precision once more from the
graph that executed: on processors with bf16 the plugin's own default is bf16, and a request it cannot serve is dropped
without a word.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np

from avsdk.dtypes import PLAIN
from avsdk.errors import BundleRefused, NotAvailable, SilentFallback
from avsdk.opening import compiling
from avsdk.openvino_cache import KeptModels
from avsdk.openvino_devices import (
    PLUGINS,
    availability,
    device_units,
    is_hetero,
    last_line,
    plugin_name,
)
from avsdk.openvino_settings import checked_settings, properties_for, require_settings
from avsdk.openvino_tensors import array_from_tensor, value_from_array
from avsdk.precision import MIXED
from avsdk.requirements import Requirements
from avsdk.session import Array, Availability, Execution, Session
from avsdk.telemetry import refuse_telemetry

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32", MIXED: "f32"}
_ON_NPU = {"int8": "f16", MIXED: "f16"}
_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_READ_BACK = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_WEIGHTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_NO_WORK = {"Const", "Input", "Output", "Reorder", "Reshape"}
_TRIES = 10
_NO_OPERATION = {"Parameter", "Constant", "Result"}


class OpenVinoSession(Session):
    """Loads what the compiler wrote: an IR, or for an NPU a blob; as many requests at once as it has streams for.

    ``loaded_from_cache``: whether the compiled model came from the cache that ``--set openvino.cache=yes`` keeps.
    ``run`` may be called from several threads; with one stream they wait for each other.
    """

    engine = "openvino"
    memory_factor = 1.3
    loaded_from_cache = False
    _compiled: Any

    @classmethod
    def availability(cls, device: str) -> Availability:
        """Whether the package is here, and the hardware of every device named; the CPU plugin comes with it."""
        return availability(device)

    @classmethod
    def opens_onnx(cls, device: str, precision: str) -> bool:
        """OpenVINO reads ONNX beside its IR, and rounds to bf16 by itself."""
        return device == "cpu" and precision in ("fp32", "bf16")

    @classmethod
    def build(cls) -> str:
        """The version with its commit and branch."""
        import openvino

        return str(openvino.get_version())

    def requirements(self) -> Requirements:
        """An IR is read by the release that wrote it and by later ones; for a blob its compiler says which."""
        made_by = self.option("openvino", str, "")
        if "requires" in self.artifact.options or not made_by:
            return super().requirements()
        minimum = ".".join(made_by.split("-")[0].split(".")[:2])
        return Requirements.of({"requires": {"engine": "openvino", "minimum": minimum}})

    def _open(self) -> None:
        refuse_telemetry()
        import openvino

        self._units = device_units(self.artifact.device)
        recorded = self.artifact.options.get("session", {})
        self._settings = checked_settings(recorded, self.artifact.device, refused=BundleRefused)
        self._require_precision()
        self._placement: dict[str, float] = {}
        self._kept: KeptModels | None = None
        try:
            self._compiled = self._load(openvino.Core())
        except RuntimeError as error:
            raise NotAvailable(
                f"OpenVINO cannot compile {self.file().name} for {self.artifact.device}: {last_line(error)}",
                expected="a model that the plugin supports",
                fix="export the bundle again with this OpenVINO, or choose another target: avsdk doctor",
            ) from error
        self._require_as_asked()
        self._unread = frozenset(self.option("unread", tuple[str, ...], ()))  # the reader drops what decides nothing
        self._require_tensors(
            [*_tensor_names(self._compiled.inputs), *self._unread], _tensor_names(self._compiled.outputs)
        )
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self._request_count()):
            self._requests.put(self._compiled.create_infer_request())
        self._names = [tensor.name for tensor in self.graph.outputs]
        self._plain = all(tensor.dtype in PLAIN for tensor in self.graph.outputs)
        self._ran = False

    def _require_precision(self) -> None:
        if self.artifact.precision not in _HINTS:
            raise BundleRefused(
                f"the artifact's precision is {self.artifact.precision!r}",
                expected=f"one that OpenVINO computes in: {', '.join(_HINTS)}",
                fix="get a whole copy of the bundle, or export it again",
            )

    def _hint(self, unit: str) -> str:
        precision = self.artifact.precision
        return _ON_NPU.get(precision, _HINTS[precision]) if unit == "npu" else _HINTS[precision]

    def _load(self, core: Any) -> Any:
        """Compile the IR, or import the blob, with the settings of each device."""
        plugin, file = plugin_name(self.artifact.device), str(self.file())
        words = {unit: properties_for(unit, self._settings, self._hint(unit), self.threads) for unit in self._units}
        if is_hetero(self.artifact.device):
            config = {"DEVICE_PROPERTIES": {PLUGINS[unit]: words[unit] for unit in self._units}}
            model = core.read_model(file)
            self._placement = self._split(model, core.query_model(model, plugin))
            with compiling():
                return core.compile_model(model, plugin, {**config, **self._kept_in(config)})
        if file.endswith(".blob"):
            return core.import_model(self.file().read_bytes(), plugin, words[self._units[0]])
        own = words[self._units[0]]
        kept = self._kept_in(own)
        with compiling():
            return core.compile_model(file, plugin, {**own, **kept})

    def _kept_in(self, words: Mapping[str, object]) -> dict[str, str]:
        """Where the compiled model is kept, if the settings ask for it."""
        if self._settings.get("cache") != "yes":
            return {}
        self._kept = KeptModels(self.file(), metadata.version("openvino"), words)
        return {"CACHE_DIR": str(self._kept.folder)}

    def _split(self, model: Any, assigned: Mapping[str, str]) -> dict[str, float]:
        """Fix each operation to the device that HETERO gave it; the shares. Raises where the first one got nothing."""
        counts: Counter[str] = Counter({unit: 0 for unit in self._units})
        for node in model.get_ops():
            name = assigned.get(node.get_friendly_name())
            if name is not None:
                node.get_rt_info()["affinity"] = name
                if node.get_type_name() not in _NO_OPERATION:
                    counts[name.partition(".")[0].lower()] += 1
        total = sum(counts.values()) or 1
        shares = {unit: count / total for unit, count in counts.items()}
        first = self._units[0]
        if not shares[first]:
            others = ", ".join(f"{unit} {share:.0%}" for unit, share in shares.items() if share)
            raise SilentFallback(
                f"HETERO placed no operation on {first}: {others or 'nothing was placed'}",
                expected=f"at least one operation on {first}, the first device of {self.artifact.device}",
                fix=f"--target openvino:{self._units[-1]}, which is what would execute",
            )
        return shares

    def _property(self, unit: str, name: str) -> object:
        """A property of the compiled model, of one of its devices where it has several."""
        if is_hetero(self.artifact.device):
            return self._compiled.get_property("DEVICE_PROPERTIES")[PLUGINS[unit]][name]
        return self._compiled.get_property(name)

    def _require_as_asked(self) -> None:
        """Read the precision and every setting back. Raises ``SilentFallback`` with both values."""
        for unit in self._units:
            if is_hetero(self.artifact.device) and not self._placement[unit]:
                continue
            hint = self._hint(unit)
            kind = self._hint_read_back(unit)
            if kind != hint:
                raise SilentFallback(
                    f"OpenVINO was asked for {hint} and set {kind}",
                    expected=hint,
                    fix=f"export with --precision {_PRECISIONS.get(kind, 'fp32')}",
                )
            require_settings(unit, self._settings, partial(self._property, unit), self.threads)
        if self._kept is not None:
            self.loaded_from_cache = bool(self._compiled.get_property("LOADED_FROM_CACHE"))
            self._kept.record()
        self.remarks = tuple(self._remarks())

    def _remarks(self) -> Iterator[str]:
        if self._kept is not None and self._kept.removed:
            yield f"OpenVINO's kept model of graph {self.graph.name!r} was damaged, and was made again"
        if self.loaded_from_cache:
            yield f"OpenVINO loaded graph {self.graph.name!r} from its cache (LOADED_FROM_CACHE)"
        if "cpu" in self._units and self._placement.get("cpu", 1.0):
            threads = int(str(self._property("cpu", "INFERENCE_NUM_THREADS")))
            if threads < self.threads:
                yield f"OpenVINO runs graph {self.graph.name!r} with {threads} threads, not {self.threads}"

    def _hint_read_back(self, unit: str) -> str:
        kind: Any = self._property(unit, "INFERENCE_PRECISION_HINT")
        name = kind.to_string() if hasattr(kind, "to_string") else str(kind)
        return _READ_BACK.get(name, name)

    def requests(self) -> int:
        """As many as the plugin has streams for."""
        return self._request_count()

    def _request_count(self) -> int:
        if self._settings.get("hint") != "throughput" and "streams" not in self._settings:
            return 1
        return max(1, int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))

    def _given(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        return {name: value_from_array(array) for name, array in feeds.items() if name not in self._unread}

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        given = self._given(feeds)
        request = self._requests.get()
        try:
            # By default both ways are copied. The outputs must be, once: the next run writes over the runtime's memory.
            results = request.infer(given, share_inputs=True, share_outputs=True)
            self._ran = True
            if self._plain:
                return {name: results[name].copy() for name in self._names}
            return {
                item.name: array_from_tensor(request.get_tensor(item.name), item.dtype) for item in self.graph.outputs
            }
        finally:
            self._requests.put(request)

    def _execution(self) -> Execution:
        if not self._ran:
            self.run(self.example_feeds())
        devices = {str(name).partition(".")[0].lower() for name in self._compiled.get_property("EXECUTION_DEVICES")}
        if not devices <= set(self._units):
            raise SilentFallback(
                f"OpenVINO executes on {', '.join(sorted(devices))}",
                expected=self.artifact.device,
                fix=f"--target openvino:{min(devices)}, which is what executes",
            )
        return Execution(self.artifact.device, self._placement or {self._units[0]: 1.0}, self._executed_shares())

    def _executed_shares(self) -> dict[str, float]:
        """The shares of the executed graph. With dynamic sizes the plugin shows one stream's graph, which knows its
        sizes once that stream has run; so all are made to run at once, should it not be the one that did. An NPU shows
        no executed graph, only what its blob was compiled for.
        """
        if self._units == ("npu",):
            return {_PRECISIONS[self._hint_read_back("npu")]: 1.0}
        shares = _precision_shares(self._compiled.get_runtime_model())
        count = self._request_count()
        given = self._given(self.example_feeds()) if count > 1 and not shares else {}
        for _ in range(_TRIES if count > 1 else 0):
            if shares:
                break
            taken = [self._requests.get() for _ in range(count)]
            try:
                for request in taken:
                    request.start_async(given, share_inputs=True)
                for request in taken:
                    request.wait()
            finally:
                for request in taken:
                    self._requests.put(request)
            shares = _precision_shares(self._compiled.get_runtime_model())
        return shares

    def _close(self) -> None:
        self._requests = queue.SimpleQueue()
        self._compiled = None


def _precision_shares(executed: Any) -> dict[str, float]:
    """Share of the work per precision, by the graph as the plugin executes it."""
    shares: Counter[str] = Counter()
    for node in executed.get_ops():
        info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        if info.get("layerType") not in _NO_WORK:
            shares[_PRECISIONS.get(info["runtimePrecision"], info["runtimePrecision"])] += _flops(
                node, info["layerType"]
            )
    total = sum(shares.values()) or 1
    return {name: count / total for name, count in shares.items() if count}


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
