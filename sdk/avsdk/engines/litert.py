"""LiteRT, formerly TensorFlow Lite: the device half. Devices: ``cpu``, with the XNNPACK kernels, and ``edgetpu``.

A .tflite file holds fixed sizes. ``resize_tensor_input`` reports no error on one and goes on with the old size, so it
is never called: another size is refused by the base session, and the file's sizes are compared when it is opened.

With ``--set litert.weight_cache=yes`` at export the weights that XNNPACK has packed are kept in the user's cache; only
the runtime's other interface, the compiled model, can do that, so it runs the file then.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

from avsdk import host
from avsdk.errors import BundleRefused, NotAvailable, SilentFallback
from avsdk.files import cache_home, sha256_file
from avsdk.litert_operations import MOVES, delegated_nodes, flops_of, precision_of
from avsdk.opening import compiling
from avsdk.precision import MIXED
from avsdk.session import Array, Availability, Execution, Session
from avsdk.spec import TensorSpec

_EDGE_TPU_LIBRARY = "libedgetpu.so.1"
_EDGE_TPU_OPERATION = "edgetpu-custom-op"


@dataclass(frozen=True)
class _Edge:
    """An input or output of the file: ``scale`` and ``zero`` where it is quantised and the graph's is not, else 0."""

    index: int
    name: str
    dtype: Any
    scale: float = 0.0
    zero: int = 0

    def quantised(self, array: Array) -> Array:
        """What the file takes for ``array``."""
        if not self.scale:
            return np.ascontiguousarray(array)
        limits = np.iinfo(self.dtype)
        found: Array = np.clip(np.round(array / self.scale) + self.zero, limits.min, limits.max).astype(self.dtype)
        return found

    def widened(self, array: Array) -> Array:
        """What the graph gives for the file's ``array``."""
        if not self.scale:
            return array
        found: Array = (array.astype(np.float32) - np.float32(self.zero)) * np.float32(self.scale)
        return found


@dataclass(frozen=True)
class _EdgeTpuRecord:
    """What the Edge TPU's compiler said: operations mapped, and of the others a line each, as ``SOFTMAX 2 REASON``."""

    mapped: int
    left: tuple[str, ...] = ()

    def counts(self) -> list[int]:
        """How many operations each line stands for."""
        counts = [re.match(r"\S+ ([0-9]{1,9})( |$)", line) for line in self.left]
        if self.mapped < 0 or None in counts:
            raise BundleRefused(
                f"the bundle records the operations {self.mapped}, {list(self.left)}"[:200],
                expected="how many the Edge TPU runs, and lines as: SOFTMAX 2 REASON",
                fix="get a whole copy of the bundle, or export it again",
            )
        return [int(count.group(1)) for count in counts if count]


class LiteRtSession(Session):
    """Loads a .tflite file through ``ai_edge_litert``, or ``tflite_runtime`` where only that is installed."""

    engine = "litert"
    _interpreter: Any
    _inputs: dict[str, _Edge]
    _outputs: dict[str, _Edge]
    _model: _CachedModel | None

    @classmethod
    def availability(cls, device: str) -> Availability:
        """The processor of this machine, or an Edge TPU that is attached; one of the two runtimes must be installed."""
        if device not in ("cpu", "edgetpu"):
            return Availability(
                False, f"LiteRT runs on this machine's cpu here, not on {device}", "run the bundle on that device"
            )
        state = _runtime_state()
        return _edge_tpu_state() if state.ok and device == "edgetpu" else state

    def _open(self) -> None:
        self._model = None
        cached = self.option("session", Mapping[str, Any], {}).get("weight_cache") is True
        try:
            with _quiet():
                self._interpreter = self._new_interpreter()
                if cached:
                    with compiling():
                        self._model = _CachedModel(self.file(), self.threads)
                else:
                    with compiling():
                        self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise NotAvailable(
                f"LiteRT cannot load {self.file().name}: {str(error).strip() or type(error).__name__}",
                expected="a model that this runtime knows every operation of",
                fix="pip install --upgrade ai-edge-litert, or export the bundle again with the one that is here",
            ) from error
        inputs = {item["name"]: item for item in self._interpreter.get_input_details()}
        outputs = {item["name"]: item for item in self._interpreter.get_output_details()}
        self._inputs = self._checked(self.graph.inputs, self.option("inputs", Mapping[str, str], {}), inputs)
        self._outputs = self._checked(self.graph.outputs, self.option("outputs", Mapping[str, str], {}), outputs)

    def _new_interpreter(self) -> Any:
        module = _interpreter_module()
        options: dict[str, Any] = {"model_path": str(self.file()), "num_threads": self.threads}
        if self.artifact.device == "edgetpu":
            options["experimental_delegates"] = [module.load_delegate(_EDGE_TPU_LIBRARY)]
        return module.Interpreter(**options)

    def _checked(
        self, tensors: tuple[TensorSpec, ...], names: Mapping[str, str], found: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, _Edge]:
        """Where each tensor is in the file; refuses a file whose names, dtypes or sizes are not the manifest's."""
        sizes = self.example_sizes()
        edges = {}
        for tensor in tensors:
            detail = found.get(names.get(tensor.name, tensor.name))
            if detail is None:
                raise BundleRefused(
                    f"{self.file().name} has no tensor for {tensor.name!r}", expected=f"one of {list(found)}"
                )
            shape, dtype = [int(size) for size in detail["shape"]], np.dtype(detail["dtype"])
            known = all(isinstance(axis, int) or axis in sizes for axis in tensor.shape)
            wanted = list(tensor.sized(sizes)) if known else shape
            scale, zero = self._scaling(tensor, detail)
            if shape != wanted or not (scale or dtype == np.dtype(tensor.dtype)):
                raise BundleRefused(
                    f"{self.file().name} holds {tensor.name!r} as {dtype} {shape}",
                    expected=f"{tensor.dtype} {wanted}, as the manifest says",
                    fix="export the bundle again",
                )
            edges[tensor.name] = _Edge(int(detail["index"]), str(detail["name"]), dtype, scale, zero)
        return edges

    def _scaling(self, tensor: TensorSpec, detail: Mapping[str, Any]) -> tuple[float, int]:
        """The scale and zero point of a tensor that only an int8 file has quantised; else 0."""
        scale, zero = detail.get("quantization", (0.0, 0))
        narrow = np.dtype(detail["dtype"]) in (np.dtype(np.int8), np.dtype(np.uint8))
        quantised = self.artifact.precision in ("int8", MIXED) and narrow and np.dtype(tensor.dtype).kind == "f"
        return (float(scale), int(zero)) if quantised else (0.0, 0)

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        given = {edge.name: (edge, edge.quantised(feeds[name])) for name, edge in self._inputs.items()}
        if self._model is not None:
            answers = self._model.run({name: array for name, (_, array) in given.items()}, self._outputs.values())
            return {name: edge.widened(answers[edge.name]) for name, edge in self._outputs.items()}
        for edge, array in given.values():
            self._interpreter.set_tensor(edge.index, array)
        self._interpreter.invoke()
        return {name: edge.widened(self._interpreter.get_tensor(edge.index)) for name, edge in self._outputs.items()}

    def _execution(self) -> Execution:
        details = {item["index"]: item for item in self._interpreter.get_tensor_details()}
        operations = self._interpreter._get_ops_details()
        shares: Counter[str] = Counter()
        for operation in operations:
            if operation["op_name"] not in MOVES:
                shares[precision_of(operation, details)] += flops_of(operation, details)
        del shares[""]  # whole numbers have no precision to fall short of
        total = sum(shares.values())
        unpacked = [operation["inputs"][0] for operation in operations if operation["op_name"] == "DEQUANTIZE"]
        half = any(np.dtype(details[index]["dtype"]) == np.float16 for index in unpacked if index in details)
        return Execution(
            device=self.artifact.device,
            placement=self._placement(operations),
            precision_shares={name: count / total for name, count in shares.items() if count} or {"fp32": 1.0},
            weights="fp16" if half else "",
        )

    def _placement(self, operations: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Share of operations per device. XNNPACK's kernels and LiteRT's own are both the cpu: ``delegated_share``."""
        if self.artifact.device != "edgetpu":
            return {"cpu": 1.0}
        mapped = sum(operation["op_name"] == _EDGE_TPU_OPERATION for operation in operations)
        if not mapped:
            raise SilentFallback(
                f"no operation of {self.file().name} is one of the Edge TPU's",
                expected="a file made by edgetpu_compiler",
                fix="export the bundle again",
            )
        record = self.option("edgetpu", _EdgeTpuRecord, {"mapped": mapped})
        left = sum(record.counts())
        share = record.mapped / max(1, record.mapped + left)
        return {"edgetpu": share, "cpu": 1 - share} if left else {"edgetpu": 1.0}

    def delegated_share(self) -> float:
        """The share of operations that XNNPACK took, read back from the runtime; the rest ran in LiteRT's kernels."""
        operations = self._interpreter._get_ops_details()
        nodes = [operation for operation in operations if operation["op_name"] != "DELEGATE"]
        return len(delegated_nodes(operations)) / len(nodes) if nodes else 0.0

    def _close(self) -> None:
        self._interpreter = None
        with _quiet():
            self._model = None


class _CachedModel:
    """The same file through the compiled-model interface, with XNNPACK's packed weights in a file of the user's cache.

    Measured with the style network: opened in 20 ms without the file, in 3 ms with it, 6.8 MB.
    """

    def __init__(self, file: Path, threads: int) -> None:
        if util.find_spec("ai_edge_litert") is None or util.find_spec("ai_edge_litert.cpu_options") is None:
            raise NotAvailable(
                "the bundle asks for a weight cache, which this LiteRT runtime does not have",
                expected="ai-edge-litert 2.3 or newer",
                fix="pip install --upgrade ai-edge-litert, or export with --set litert.weight_cache=no",
            )
        from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, HardwareAccelerator, Options

        key = f"{sha256_file(file)[:32]}-{metadata.version('ai-edge-litert')}"
        self.path = cache_home() / "xnnpack" / f"{key}.bin"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _no_cache(self.path, f": {error.strerror}") from error
        # Another process must never see a half-written cache: it is made under a name of its own.
        used = self.path if self.path.exists() else self.path.with_suffix(f".{os.getpid()}")
        cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=str(used))
        options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
        self._model = CompiledModel.from_file(str(file), options=options)
        if not used.exists():  # the runtime goes on without a word where it cannot write
            raise _no_cache(used)
        used.replace(self.path)
        (self._key,) = self._model.get_signature_list()
        details = self._model.get_input_tensor_details(self._key), self._model.get_output_tensor_details(self._key)
        self._inputs, self._outputs = ({item["name"]: name for name, item in side.items()} for side in details)
        self._given = {
            tensor: self._model.create_input_buffer_by_name(self._key, name) for tensor, name in self._inputs.items()
        }
        self._taken = {
            tensor: self._model.create_output_buffer_by_name(self._key, name) for tensor, name in self._outputs.items()
        }
        self._shapes = {item["name"]: tuple(item["shape"]) for item in details[1].values()}

    def run(self, feeds: Mapping[str, Array], outputs: Any) -> dict[str, Array]:
        """Run once; names are those of the file's tensors."""
        for name, array in feeds.items():
            self._given[name].write(array)
        given = {self._inputs[tensor]: buffer for tensor, buffer in self._given.items()}
        taken = {self._outputs[tensor]: buffer for tensor, buffer in self._taken.items()}
        self._model.run_by_name(self._key, given, taken)
        found = {}
        for edge in outputs:
            shape = self._shapes[edge.name]
            read = self._taken[edge.name].read(int(np.prod(shape, dtype=np.int64)), edge.dtype.type)
            found[edge.name] = np.asarray(read).reshape(shape)
        return found


def _no_cache(path: Path, reason: str = "") -> NotAvailable:
    return NotAvailable(
        f"LiteRT wrote no weight cache at {path}{reason}",
        expected="a folder that can be written to",
        fix="set AVSDK_HOME to one, or export with --set litert.weight_cache=no",
    )


def _interpreter_module() -> Any:
    if util.find_spec("ai_edge_litert") is not None:
        from ai_edge_litert import interpreter
    else:
        from tflite_runtime import interpreter
    return interpreter


def _runtime_state() -> Availability:
    """Which of the two runtimes is here. tflite-runtime imports with numpy 2, and dies when it is first used."""
    if util.find_spec("ai_edge_litert") is not None:
        return Availability(True)
    if util.find_spec("tflite_runtime") is None:
        return Availability(False, "the package ai-edge-litert is not installed", "pip install 'avsdk[litert]'")
    if int(np.__version__.split(".")[0]) >= 2:
        return Availability(
            False,
            f"tflite-runtime was built for numpy 1, and numpy {np.__version__} is here",
            "pip install 'avsdk[tflite-runtime]' in an environment of its own, or pip install 'avsdk[litert]'",
        )
    return Availability(True)


def _edge_tpu_state() -> Availability:
    """Whether an Edge TPU is attached and its library can be loaded."""
    if not any(name.startswith("coral") for name in host.probe().accelerators):
        return Availability(
            False, "no Edge TPU is attached to this machine", "attach one, or run the bundle where one is"
        )
    try:
        ctypes.CDLL(_EDGE_TPU_LIBRARY)
    except OSError:
        return Availability(
            False, f"{_EDGE_TPU_LIBRARY} cannot be loaded", "install the Edge TPU runtime, the package libedgetpu1-std"
        )
    return Availability(True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the runtime says of itself on standard error while it loads; it has no setting for that."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            lines = said.read().splitlines(keepends=True)
            for line in lines:
                if not line.startswith((b"INFO:", b"WARNING:", b"VERBOSE:")):
                    os.write(2, line)
