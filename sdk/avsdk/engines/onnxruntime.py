"""ONNX Runtime: the device half. Devices: ``cpu``, ``cuda``, ``tensorrt``, ``nv_tensorrt_rtx``, one per provider.

What executed is read from the profile of the first run: the provider and the tensor types of every node.
"""

from __future__ import annotations

import ctypes
import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

from avsdk.dtypes import EXTENDED, from_stored, is_extended, stored
from avsdk.errors import BundleRefused, ModelRefused, NotAvailable, SilentFallback
from avsdk.onnx_check import check_onnx
from avsdk.onnxruntime_profile import kernels_of, placement_of, precision_shares_of
from avsdk.onnxruntime_providers import PROVIDERS, add_provider, provider_state
from avsdk.onnxruntime_settings import chosen_settings, configure, require_settings
from avsdk.opening import compiling
from avsdk.session import Array, Availability, Execution, Session
from avsdk.telemetry import refuse_telemetry

_MOST_ANSWER_BYTES = 2 << 30
"""Of the reference's outputs for one sample."""


class OnnxRuntimeSession(Session):
    """Loads an ONNX file. The CPU provider stands in for another one only where the bundle was exported to allow it."""

    engine = "onnxruntime"
    _session: Any
    _profiled: list[dict[str, Any]] | None

    @classmethod
    def availability(cls, device: str) -> Availability:
        """Whether the package is here and has the provider of ``device``."""
        found = util.find_spec("onnxruntime") is not None
        return provider_state(device, _runtime() if found else None)

    @classmethod
    def opens_onnx(cls, device: str, precision: str) -> bool:
        """On the CPU in fp32; other providers and precisions get a model of their own."""
        return device == "cpu" and precision == "fp32"

    @classmethod
    def build(cls) -> str:
        """The branch, commit and flags of the build."""
        return str(_runtime().get_build_info())

    def _open(self) -> None:
        self._refuse_strangers()
        runtime = _runtime()
        device = self.artifact.device
        options = self._session_options(runtime)
        try:
            providers = add_provider(
                runtime,
                options,
                device,
                self.artifact.precision,
                fallback=self._fallback(),
                errors=_load_errors(),
            )
            with compiling():  # reading the file is part of the same call
                self._session = runtime.InferenceSession(str(self.file()), options, providers=providers)
        except NotAvailable:
            self._folder.cleanup()
            raise
        except _load_errors() as error:
            self._folder.cleanup()
            raise NotAvailable(
                f"ONNX Runtime cannot load {self.file().name} on {device}: {str(error).splitlines()[0]}",
                expected="a model whose every node this provider runs",
                fix="export it again with --set onnxruntime.fallback=allow, which lets the CPU run the rest, "
                "or choose another target: avsdk doctor"
                if device != "cpu"
                else "export the model again, or choose another target: avsdk doctor",
            ) from error
        try:
            self._check_opened(PROVIDERS[device].name)
        except BaseException:
            self._close()
            raise
        self.runtime_errors = (*_load_errors(), ValueError, MemoryError)
        self._names = [tensor.name for tensor in self.graph.outputs]

    def _session_options(self, runtime: Any) -> Any:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        configure(runtime, options, self._settings())
        options.log_severity_level = 4  # what goes wrong is raised; its own lines would only repeat it
        options.enable_profiling = True
        self._profiled = None
        self._folder = tempfile.TemporaryDirectory(prefix="avsdk-profile-")
        options.profile_file_prefix = str(Path(self._folder.name) / "run")
        return options

    def _fallback(self) -> bool:
        """Whether the bundle was exported with leave for the CPU provider to run what this device's cannot."""
        chosen = self.artifact.options.get("session")
        return isinstance(chosen, Mapping) and chosen.get("fallback") == "allow"

    def _settings(self) -> dict[str, str]:
        """How the bundle says that its session is to be made."""
        return chosen_settings(self.option("session", Mapping[str, Any], {}), refused=BundleRefused)

    def _refuse_strangers(self) -> None:
        """A model may keep weights in another file only where the artifact lists it, and so the manifest hashes it."""
        if self.file().parent == self.root / "model":
            return  # the bundle's own models are looked through when it is opened
        listed = {self.file(index) for index in range(len(self.artifact.files))}
        for name in check_onnx(self.file()).external:
            if self.file().parent / name not in listed:
                raise BundleRefused(
                    f"{self.file().name} keeps weights in {name!r}", expected="only files that the manifest hashes"
                )

    def _check_opened(self, provider: str) -> None:
        if self._session.get_providers()[0] != provider:
            raise SilentFallback(
                f"ONNX Runtime opened {self._session.get_providers()[0]}",
                expected=provider,
                fix="avsdk doctor onnxruntime",
            )
        require_settings(self._session.get_session_options(), self._settings())
        self._require_tensors(
            [item.name for item in self._session.get_inputs()], [item.name for item in self._session.get_outputs()]
        )

    def _run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        tensors = (*self.graph.inputs, *self.graph.outputs)
        if any(tensor.dtype in EXTENDED for tensor in tensors):
            found = _run_stored(_runtime(), self._session, self._names, feeds)
        else:
            found = self._session.run(self._names, dict(feeds))
        outputs = dict(zip(self._names, found))
        if self._profiled is None:
            self._profiled = self._end_profile()
        return outputs

    def _execution(self) -> Execution:
        if self._profiled is None:
            self.run(self.example_feeds())
        kernels = kernels_of(self._profiled or ())
        shares = precision_shares_of(kernels, self.option("products", Mapping[str, int], {}))
        if PROVIDERS[self.artifact.device].fused:  # its nodes hide what they hold: the model's own types say it
            shares = self.built_shares()
        return Execution(
            device=self.artifact.device,
            placement=placement_of(kernels, {provider.name: device for device, provider in PROVIDERS.items()}),
            precision_shares=shares,
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
            answers.append(_holdable(dict(zip(outputs, session.run(outputs, feeds)))))
        except (state.Fail, state.InvalidArgument, state.RuntimeException, state.NotImplemented) as error:
            answers.append({"failed": str(error)})
    return answers


def _holdable(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, or that it is too large for the process that asked: a small model can make a large one."""
    size = sum(getattr(found, "nbytes", 0) for found in answer.values())
    if size > _MOST_ANSWER_BYTES:
        return {"failed": f"its outputs have {size} bytes, more than {_MOST_ANSWER_BYTES}"}
    return answer


def _runtime() -> Any:
    """Import ONNX Runtime with its telemetry off."""
    refuse_telemetry()
    import onnxruntime

    return onnxruntime


def _run_stored(runtime: Any, session: Any, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Any]:
    """Run with values of types that its Python binding does not take from numpy: their bytes go in and come out."""
    given, kept = {}, []
    for name, array in feeds.items():
        if not is_extended(array.dtype):
            given[name] = runtime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
            continue
        content, (number, bits) = stored(array), EXTENDED[array.dtype.name]
        room = np.zeros(array.shape, np.uint16 if bits == 16 else np.uint8)  # it asks for one element per element
        room.reshape(-1).view(np.uint8)[: content.size] = content
        kept.append(room)  # the value refers to this memory
        given[name] = runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(room, number)
    known = {number: name for name, (number, _) in EXTENDED.items()}
    answers = []
    for value in session.run_with_ort_values(list(names), given):
        name = known.get(value.element_type(), "") if value.is_tensor() else ""
        if name:
            raw = value._ortvalue
            held = ctypes.string_at(raw.data_ptr(), raw.tensor_size_in_bytes()) if 0 not in value.shape() else b""
            answers.append(from_stored(held, name, tuple(value.shape())))
        else:
            answers.append(value.numpy())
    return answers


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
