"""One engine under test: a case's model through our compiler and our session, in the worker's process.

What ``avsdk export`` and ``avsdk run`` do with a model is done here by the same calls. One thing differs: the steps
that they do in a fresh child process are done in this one, which is a child already, for a start per step and case
would take hours. A compiler that needs a toolchain's Python keeps one child there.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tests.conformance.cases import read_case

import avsdk_targets.compiler as compiling
from avsdk import plugins
from avsdk.dtypes import PLAIN
from avsdk.errors import AvsdkError
from avsdk.golden import write_golden
from avsdk.session import session_class
from avsdk.spec import AxisRange, GraphSpec, TensorSpec
from avsdk.worker import Worker, name_of
from avsdk_targets.compiler import Compiled, CompileJob, Compiler
from avsdk_targets.examine import examine
from avsdk_targets.preflight import findings_of, verdict_of

_LARGEST = 1 << 31
_workers: dict[tuple[str, ...], Worker] = {}


class EngineUnderTest:
    """Opened in a worker: ``run`` takes one case's name and answers what came of it."""

    def __init__(self, engine: str, cases: str) -> None:
        self._compiler: Compiler = plugins.load("compilers", engine)()
        self._cases = Path(cases)
        _stay_in_process()

    def run(self, name: str) -> dict[str, Any]:
        """``stage`` is where it ended: compile, open, run, compare, or passed; ``reason`` the error's first line."""
        started = time.perf_counter()
        predicted, why = self._predicted(name)
        stage, reason = self._outcome(name)
        seconds = time.perf_counter() - started
        return {"stage": stage, "reason": reason, "predicted": predicted, "why": why, "seconds": seconds}

    def close(self) -> None:
        """End the toolchains' children."""
        for worker in _workers.values():
            worker.close()
        _workers.clear()

    def _predicted(self, name: str) -> tuple[str, str]:
        """The preflight's verdict, by the function that serves ``avsdk check``, and its first reason for no path."""
        file, content = read_case(self._cases, name)
        graph = graph_of(onnx.load(file), content["samples"][0][0])
        build = {
            "engine": self._compiler.engine,
            "device": "cpu",
            "arch": "host",
            "precision": "fp32",
            "program": False,
            "shapes": {item.name: list(item.sized(graph.default_sizes())) for item in graph.inputs},
        }
        (answer,) = examine({"onnx": str(file), "graph": "model", "builds": [build]})
        findings = findings_of(answer)
        return verdict_of(findings), next((item.text for item in findings if item.blocks), "")

    def _outcome(self, name: str) -> tuple[str, str]:
        file, content = read_case(self._cases, name)
        stage = "compile"
        with tempfile.TemporaryDirectory(prefix="avsdk-conformance-") as folder:
            try:
                graph = graph_of(onnx.load(file), content["samples"][0][0])
                sizes = None if self._compiler.dynamic_axes or not graph.axes else graph.default_sizes()
                compiled = self._compile(file, graph, sizes, Path(folder), content["samples"][0][0])
                stage = "open"
                root = Path(folder, "artifact")
                listed = tuple(compiled.artifact.files) or (_copied(file, root),)
                artifact = compiling.Artifact(**{**vars(compiled.artifact), "files": listed})
                with session_class(artifact.engine).open(root, artifact, graph, 1) as session:
                    for inputs, wanted in content["samples"]:
                        stage = "run"
                        feeds = {tensor.name: item for tensor, item in zip(graph.inputs, inputs, strict=True)}
                        outputs = session.run(feeds)
                        stage = "compare"
                        for tensor, reference in zip(graph.outputs, wanted, strict=False):
                            require_close(tensor.name, reference, outputs[tensor.name], content)
            except AvsdkError as error:
                return stage, _line(error.failed)
            except Exception as error:  # noqa: BLE001  (an exception that our code let through is a finding, not a crash)
                return stage, _line(f"{type(error).__name__}: {error}")
        return "passed", ""

    def _compile(
        self, file: Path, graph: GraphSpec, sizes: Mapping[str, int] | None, out: Path, inputs: list[Any]
    ) -> Compiled:
        golden = None
        if all(tensor.dtype in PLAIN for tensor in graph.inputs):  # what a file of arrays can hold
            golden = out / "golden.npz"
            write_golden(golden, [({item.name: array for item, array in zip(graph.inputs, inputs, strict=True)}, {})])
        (out / "artifact").mkdir()
        job = CompileJob(
            onnx=file,
            graph=graph,
            device="cpu",
            arch="host",
            precision="fp32",
            out=out / "artifact",
            golden=golden,
            sizes=sizes,
        )
        return self._compiler.compile(job)


def graph_of(model: Any, inputs: list[Any]) -> GraphSpec:
    """The spec of a case's model: fixed sizes as it says, axes of any size where it does not."""
    held = {item.name for item in model.graph.initializer}
    axes: dict[str, AxisRange] = {}

    def tensor(value: Any, array: Any) -> TensorSpec:
        kind = value.type.tensor_type
        dims = kind.shape.dim if kind.HasField("shape") else [None] * getattr(array, "ndim", 0)
        shape: list[int | str] = []
        for place, dim in enumerate(dims):
            if dim is not None and dim.HasField("dim_value"):
                shape.append(int(dim.dim_value))
                continue
            name = (dim.dim_param if dim is not None else "") or f"{value.name}_{place}"
            shape.append(name)
            if array is not None:
                axes[name] = AxisRange(0, _LARGEST, 1, array.shape[place])
        return TensorSpec(value.name, dtype_of(value), tuple(shape))

    def dtype_of(value: Any) -> str:
        if not value.type.HasField("tensor_type"):
            return str(value.type.WhichOneof("value")).replace("_type", "")
        number = value.type.tensor_type.elem_type
        if number == onnx.TensorProto.STRING:
            return "string"
        return str(onnx.helper.tensor_dtype_to_np_dtype(number).name) if number else "float32"

    wanted = [value for value in model.graph.input if value.name not in held]
    if len(wanted) != len(inputs):
        wanted = list(model.graph.input)[: len(inputs)]
    taken = tuple(tensor(value, item) for value, item in zip(wanted, inputs, strict=True))
    given = tuple(tensor(value, None) for value in model.graph.output)
    return GraphSpec("model", taken, given, axes)


def require_close(name: str, reference: Any, found: Any, content: Mapping[str, Any]) -> None:
    """The suite's own rule: shape and type exactly, values within its tolerances."""
    if isinstance(reference, list):
        assert isinstance(found, (list, tuple)), f"{name}: {type(found).__name__} in place of a sequence"
        assert len(found) == len(reference), f"{name}: {len(found)} items, expected {len(reference)}"
        for part, item in zip(reference, found, strict=True):
            require_close(name, part, item, content)
        return
    if reference is None:
        assert found is None, f"{name}: {type(found).__name__}, expected nothing"
        return
    assert found.shape == reference.shape, f"{name}: shape {list(found.shape)}, expected {list(reference.shape)}"
    if reference.dtype.kind in "OSU":
        assert found.tolist() == reference.tolist(), f"{name}: other strings"
        return
    assert found.dtype == reference.dtype, f"{name}: dtype {found.dtype}, expected {reference.dtype}"
    relative, kind = content["rtol"], reference.dtype.name
    if reference.dtype.name not in np.sctypeDict or reference.dtype.kind == "V":
        relative = max(relative, 2**-6) if reference.dtype.name == "bfloat16" else relative
        found, reference = found.astype(np.float32), reference.astype(np.float32)
    if not np.allclose(found, reference, rtol=relative, atol=content["atol"], equal_nan=True):
        apart = np.nan_to_num(np.abs(found.astype(np.float64) - reference.astype(np.float64)), nan=np.inf)
        worst, most = apart.max(), np.nan_to_num(np.abs(reference.astype(np.float64)), nan=np.inf, posinf=np.inf).max()
        message = f"{name}: largest error {worst:.3g} on {kind} values up to {most:.3g}"
        raise AssertionError(message)


def _copied(file: Path, folder: Path) -> str:
    (folder / "model.onnx").write_bytes(file.read_bytes())
    return "model.onnx"


def _line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:300]


# -- staying in one process --------------------------------------------------------------------------------------------


def _stay_in_process() -> None:
    """Replace the one child per step by this process, in every module that starts one on the way to an artifact."""
    import avsdk_targets.rewrite as rewriting

    for module in (compiling, rewriting):
        if hasattr(module, "call_in_child"):
            module.call_in_child = _call_here


def _call_here(function: Callable[..., Any] | str, /, *, name: str, python: Any = None, **rest: Any) -> Any:
    limits = {key: rest.pop(key) for key in ("timeout_s", "memory_mb", "env", "packages", "log") if key in rest}
    words = tuple([str(python)] if python is None or isinstance(python, (str, Path)) else map(str, python))
    if python is None or words == (sys.executable,):
        if isinstance(function, str):
            from avsdk.worker_child import _find

            return _find(function)(**rest)
        return function(**rest)
    if words not in _workers:
        _workers[words] = Worker(name, words, timeout_s=60, memory_mb=limits.get("memory_mb"), env=limits.get("env"))
    try:
        return _workers[words].call(function, **rest)
    except AvsdkError:
        if _workers[words]._ended:
            _workers.pop(words).close()
        raise


__all__ = ["EngineUnderTest", "graph_of", "name_of", "require_close"]
