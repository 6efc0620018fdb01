"""LiteRT: the host half. PyTorch program or ONNX -> .tflite at fixed sizes, in the toolchain that fits the source.

| source                  | toolchain | converter    |
|-------------------------|-----------|--------------|
| PyTorch program (.pt2)  | litert    | litert-torch |
| bare ONNX file          | onnx2tf   | onnx2tf      |

The program is converted where there is one: on the same network the ONNX route reported success on a file that did not
load. litert-torch has died by signals (on a Conv3d), which the child process absorbs; the ONNX is tried then, and the
bundle says so. Either file is loaded, run once and compared with the reference before it is accepted.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from avsdk.errors import AvsdkError, NotAvailable, ParityFailed, ToolchainCrashed, ToolchainMissing, UsageError
from avsdk.onnx_check import OnnxLimits
from avsdk.worker import call_in_child
from avsdk_targets import edge_tpu, litert_graph, litert_quantiser
from avsdk_targets.compiler import Compiled, CompileJob, Compiler, Verdict
from avsdk_targets.rewrite import RewritePlan
from avsdk_targets.toolchain import Environment, PackageNeed, environment_for

_EDGE_TPU = "edgetpu"
_FINISH_TIMEOUT_S = 600.0
_FINISH_MEMORY_MB = 16_384


class LiteRtCompiler(Compiler):
    """``fp32``; ``fp16w``: weights stored in fp16 and widened when the file is loaded, computed in fp32; ``int8`` by
    calibration, and for the Edge TPU, whose compiler takes over where it is on PATH.
    """

    engine = "litert"
    package = PackageNeed("litert_torch", "litert-torch", "0.9", "")
    toolchain = "litert"
    onnx_limits = OnnxLimits(ir=13, opset=26)
    judged_by = "litert-torch 0.10.0, which publishes no list of operators"
    dynamic_axes = False
    precisions = ("fp32", "fp16w", "int8")
    quantises = True
    settings: Mapping[str, str] = {
        "weight_cache": "yes: keep the packed weights in a file of the user's cache, for a faster second start",
        "edgetpu_partial": "allow: accept a model of which the Edge TPU runs a part, and the processor the rest",
    }

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The function that runs in the toolchain."""
        return build

    def tunables(self, device: str, *, many: bool = False) -> Mapping[str, tuple[str, ...]]:
        """The weight cache, since the file then runs through the runtime's other interface."""
        del many
        return {"weight_cache": ("no", "yes")} if device == "cpu" else {}

    def session_options(self, settings: Mapping[str, str], device: str) -> dict[str, Any]:
        """Whether the weight cache is kept."""
        del device
        _require_settings(settings)
        return {"session": {"weight_cache": True}} if settings.get("weight_cache") == "yes" else {}

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """A .tflite file serves every processor; accelerators need other files."""
        if device == _EDGE_TPU:
            return "" if precision == "int8" else f"the Edge TPU computes in int8, not {precision}"
        if device != "cpu" and not arch.startswith(("arm", "aarch64", "cortex")):
            return f"it compiles for processors and the Edge TPU, not {device}"
        return super().refusal(device, arch, precision)

    def check(self, device: str, arch: str, precision: str) -> Verdict:
        """For the Edge TPU its compiler must be here; where it is not, a try still checks what it would be given."""
        verdict = super().check(device, arch, precision)
        if not verdict.ok or device != _EDGE_TPU or shutil.which(edge_tpu.COMPILER):
            return verdict
        return Verdict(False, f"{edge_tpu.COMPILER} is not on PATH", edge_tpu.INSTALL, explains=True)

    def environment(self, job: CompileJob | None = None) -> Environment:
        """litert-torch's for a program; without a job onnx2tf's will do too, where only that is installed."""
        try:
            return super().environment(job)
        except NotAvailable:
            if job is None:
                try:
                    return _OnnxRoute().environment()
                except NotAvailable:
                    pass
            raise

    def identity(self) -> Mapping[str, str]:
        """The packages of both toolchains, since either may build."""
        found: dict[str, str] = {}
        for need, toolchain in ((self.package, self.toolchain), (_OnnxRoute.package, _OnnxRoute.toolchain)):
            try:
                versions = environment_for(need, toolchain).versions
            except NotAvailable:
                continue
            found.update({f"{toolchain}/{name}": version for name, version in versions.items()})
        return found

    def route(self, *, program: bool) -> Compiler:
        """Without a program the ONNX file is converted, by another converter."""
        return self if program else _OnnxRoute()

    def compile(self, job: CompileJob) -> Compiled:
        """Build by the route of the source; the other one is taken only where the first fails, and is said."""
        kept = self.session_options(job.options, job.device)
        if job.precision == "int8" and job.quantisation is None and job.device != _EDGE_TPU:
            raise NotAvailable(
                f"graph {job.graph.name!r} is not quantised for a processor without calibration",
                expected="the model's own inputs, which the ranges of int8 are fitted to",
                fix="--calibration DIR, or --precision fp32",
            )
        if job.program is None:
            compiled = _OnnxRoute().compile(job)
        else:
            try:
                compiled = super().compile(job)
            except (ToolchainCrashed, ToolchainMissing, ParityFailed) as error:
                compiled = _by_onnx_instead(job, error)
        return _with_options(self._finished(job, compiled), kept)

    def _request(self, job: CompileJob) -> dict[str, Any]:
        """Beside the job the signatures of the ONNX layers, by which the file's operations are told."""
        request = super()._request(job)
        if job.quantisation is not None:
            request["signatures"] = call_in_child(
                "avsdk_targets.onnx_layers:layer_signatures",
                name="layers",
                timeout_s=_FINISH_TIMEOUT_S,
                memory_mb=_FINISH_MEMORY_MB,
                onnx_file=str(job.onnx),
                cache=str(job.quantisation.cache),
            )
        return request

    def _finished(self, job: CompileJob, compiled: Compiled) -> Compiled:
        """Halve or quantise what came from onnx2tf, whose toolchain has no quantiser; then the Edge TPU's compiler."""
        if "route" in compiled.artifact.options and job.precision != "fp32":
            answer = call_in_child(
                finish,
                name=f"compile-{self.engine}",
                python=super().environment(job).python,
                timeout_s=_FINISH_TIMEOUT_S,
                memory_mb=_FINISH_MEMORY_MB,
                request={**self._request(job), "file": compiled.artifact.files[0]},
            )
            compiled = _with_options(compiled, answer["options"], answer["built_with"])
        return edge_tpu.placed(job, compiled) if job.device == _EDGE_TPU else compiled


class _OnnxRoute(LiteRtCompiler):
    """From the ONNX file alone, by onnx2tf, with the sizes written into the model before."""

    package = PackageNeed("onnx2tf", "onnx2tf", "2.6", "3")
    toolchain = "onnx2tf"
    rewrites = RewritePlan(opset=(7, 20), ir=10, static=True)
    judged_by = ""

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The function that runs in the toolchain."""
        return build_from_onnx

    def environment(self, job: CompileJob | None = None) -> Environment:
        """onnx2tf's."""
        return Compiler.environment(self, job)

    def compile(self, job: CompileJob) -> Compiled:
        """One file, fp32; what is made of it is the caller's."""
        return Compiler.compile(self, job)


def _by_onnx_instead(job: CompileJob, error: AvsdkError) -> Compiled:
    """The same graph from its ONNX; where onnx2tf is not installed, the first error and the line that installs it."""
    try:
        _OnnxRoute().environment()
    except ToolchainMissing as missing:
        if isinstance(error, ToolchainMissing):
            raise error from None
        raise type(error)(
            error.failed, expected=error.expected, fix=f"try the other converter: {missing.fix}, then export again"
        ) from error
    first = error.failed.splitlines()[0]
    try:
        compiled = _OnnxRoute().compile(replace(job, program=None))
    except (ToolchainCrashed, ParityFailed, NotAvailable) as second:
        raise type(error)(
            f"{error.failed}\nand onnx2tf, tried after it: {second.failed}", expected=error.expected, fix=error.fix
        ) from second
    notice = f"graph {job.graph.name!r} was converted from its ONNX by onnx2tf, since litert-torch failed: {first}"
    return _with_options(compiled, {"notices": [notice]})


def _require_settings(options: Mapping[str, Any]) -> None:
    for name, known in (("weight_cache", ("yes", "no")), ("edgetpu_partial", ("allow", "refuse"))):
        if options.get(name, known[0]) not in known:
            raise UsageError(f"litert.{name} is {options[name]!r}", expected=" or ".join(known))


def _with_options(
    compiled: Compiled, options: Mapping[str, Any], built_with: Mapping[str, str] | None = None
) -> Compiled:
    artifact = replace(compiled.artifact, options={**compiled.artifact.options, **options})
    return Compiled(artifact, {**compiled.built_with, **(built_with or {})})


# -- in the child ------------------------------------------------------------------------------------------------------


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Convert the program at the asked sizes, narrow it where asked, load, run, compare. Runs in the child."""
    import litert_torch
    import torch

    graph, sizes = request["graph"], request["sizes"] or {}
    feeds = litert_graph.sample_feeds(graph, sizes, request.get("golden"))
    samples = tuple(torch.from_numpy(feeds[item["name"]]) for item in graph["inputs"])
    module = torch.export.load(request["program"]).module()
    with torch.no_grad():
        answers = module(*samples)
    answers = answers if isinstance(answers, (tuple, list)) else (answers,)
    name = litert_graph.file_name(graph, sizes)
    path = str(Path(request["out"]) / name)
    litert_torch.convert(module, samples).export(path)
    reference = {item["name"]: answer.numpy() for item, answer in zip(graph["outputs"], answers)}
    options = _load_and_compare(path, graph, feeds, reference)
    finished = finish({**request, "file": name})
    built_with = {item: metadata.version(item) for item in ("litert-torch", "torch", "ai-edge-litert")}
    return {
        "files": [name],
        "options": {**options, **finished["options"]},
        "built_with": {**built_with, **finished["built_with"]},
    }


def build_from_onnx(request: dict[str, Any]) -> dict[str, Any]:
    """Convert an ONNX file whose sizes are fixed; accept the first result that agrees with ONNX Runtime's answer.

    onnx2tf turns tensors channels-last: inputs are held by name, and where an output comes back in another layout than
    the spec's, a second try holds the outputs too, by a reshape there and back behind each.
    """
    graph, sizes = request["graph"], request["sizes"] or {}
    feeds = litert_graph.sample_feeds(graph, sizes, request.get("golden"))
    reference = litert_graph.onnx_answers(request["onnx"], feeds)
    name = litert_graph.file_name(graph, sizes)
    path = Path(request["out"]) / name
    plain = litert_graph.plain_names(graph)
    asked = litert_graph.renamed_graph(graph, plain)
    feeds, reference = ({plain[key]: array for key, array in side.items()} for side in (feeds, reference))
    failures = []
    for held in (False, True):
        with tempfile.TemporaryDirectory(prefix="avsdk-onnx2tf-") as folder:
            try:
                source = litert_graph.renamed_onnx(request["onnx"], Path(folder, "plain.onnx"), plain)
                shutil.copyfile(_converted_onnx(source, feeds, reference, Path(folder), held), path)
                found = _load_and_compare(str(path), asked, feeds, reference, by_name=True)
            except (ParityFailed, RuntimeError, ValueError) as error:
                failures.append(str(getattr(error, "failed", error)).strip().splitlines()[0])
                path.unlink(missing_ok=True)
                continue
        options = {side: {key: held[plain[key]] for key in plain if plain[key] in held} for side, held in found.items()}
        versions = {item: metadata.version(item) for item in ("onnx2tf", "ai-edge-litert")}
        return {"files": [name], "options": {**options, "route": "onnx2tf"}, "built_with": versions}
    raise ParityFailed(
        f"onnx2tf made no file of graph {graph['name']!r} that agrees with its ONNX: {'; then: '.join(failures)}",
        expected=f"every output at {litert_graph.LEAST_SNR_DB:g} dB or better, in the layout of the spec",
        fix="choose another target, or export from the PyTorch source, which goes another way",
    )


def finish(request: dict[str, Any]) -> dict[str, Any]:
    """Store weights in fp16, or compute in int8, as the precision says; for the Edge TPU check the result."""
    path, graph, sizes = str(Path(request["out"]) / request["file"]), request["graph"], request["sizes"] or {}
    if request["precision"] == "fp32":
        return {"options": {}, "built_with": {}}
    options: dict[str, Any] = {}
    quantisation = request.get("quantisation")
    if request["precision"] == "fp16w":
        litert_quantiser.halve_weights(path)
    else:
        golden = quantisation["samples"] if quantisation else request.get("golden")
        samples = litert_graph.golden_feeds(graph, sizes, golden) or [litert_graph.sample_feeds(graph, sizes, None)]
        if request["device"] == _EDGE_TPU or not quantisation:
            litert_quantiser.quantise_all(path, _load(path), samples, graph)
        else:
            options["layers"] = litert_quantiser.quantise_layers(
                path, _load(path), samples, graph, request["signatures"], quantisation["kept"]
            )
    _load(path)
    if request["device"] == _EDGE_TPU:
        options.update(_edge_tpu_facts(path))
    return {"options": options, "built_with": {"ai-edge-quantizer": metadata.version("ai-edge-quantizer")}}


def _edge_tpu_facts(path: str) -> dict[str, Any]:
    """What the check without the Edge TPU's compiler finds in a file, and how its inputs and outputs are scaled."""
    interpreter = _load(path)
    operations = [
        {"name": item["op_name"], "kinds": [_kind(kind) for kind in (*item["operand_types"], *item["result_types"])]}
        for item in interpreter._get_ops_details()
    ]
    edges = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    tensors = [
        {"name": item["name"], "kind": _kind(item["dtype"]), "shape": [int(size) for size in item["shape_signature"]]}
        for item in edges
    ]
    return {"operations": len(operations), "edgetpu_unfit": edge_tpu.unfit_operations(operations, tensors)}


def _kind(found: Any) -> str:
    return np.dtype(found).name if isinstance(found, type) else "int32"


def _load(path: str) -> Any:
    """The file in an interpreter without XNNPACK, whose nodes would stand among the operations."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=path, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter.allocate_tensors()
    return interpreter


def _load_and_compare(
    path: str,
    graph: Mapping[str, Any],
    feeds: Mapping[str, np.ndarray[Any, Any]],
    reference: Mapping[str, np.ndarray[Any, Any]],
    *,
    by_name: bool = False,
) -> dict[str, dict[str, str]]:
    """Run the file once as a session will; returns the names that it gives to the graph's inputs and outputs."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path)
    interpreter.allocate_tensors()
    return litert_graph.names_of_compared(interpreter, graph, feeds, reference, by_name=by_name)


def _converted_onnx(
    onnx: str, feeds: Mapping[str, Any], reference: Mapping[str, np.ndarray[Any, Any]], folder: Path, held: bool
) -> Path:
    """The file that onnx2tf makes of a model, with the layout of its inputs, and where asked of its outputs, kept."""
    import onnx2tf

    source = onnx
    if held:
        source = str(
            litert_graph.hold_outputs(
                onnx, folder / "held.onnx", {name: item.shape for name, item in reference.items()}
            )
        )
    onnx2tf.convert(
        input_onnx_file_path=source,
        output_folder_path=str(folder / "out"),
        keep_shape_absolutely_input_names=list(feeds),
        non_verbose=True,
        verbosity="error",
    )
    made = sorted((folder / "out").glob("*_float32.tflite"))
    if not made:
        text = "onnx2tf reported success and wrote no float32 file"
        raise ValueError(text)
    return made[0]
