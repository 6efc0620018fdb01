"""Arria 10 by way of the FPGA AI Suite: the host half.

Where the suite's ``dla_compiler`` is on PATH: ONNX -> IR -> the file that HETERO:FPGA,CPU imports. Where it is not,
nothing is made; the error carries what can be known without it: which nodes the FPGA takes, the accuracy emulated in
block floating point on the golden samples, an estimate of the speed, and the command that would compile.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from avsdk.errors import NotAvailable, ToolchainCrashed
from avsdk.files import sha256_file
from avsdk.golden import Sample, read_golden
from avsdk.onnx_check import OnnxLimits
from avsdk.openvino_devices import last_line
from avsdk_targets.compiler import Compiled, CompileJob, Compiler, Verdict
from avsdk_targets.operator_table import Finding, NodeFact
from avsdk_targets.prepared import Prepared
from avsdk_targets.rewrite import RewritePlan
from avsdk_targets.toolchain import PackageNeed

_COMPILER = "dla_compiler"
_TIMEOUT_S = 840.0
_REPORT = "report.json"
_SAMPLES = 2
_TAIL_LINES = 30
_FIX = (
    "install FPGA AI Suite (2023.1 to 2025.1 serve Arria 10; licence and download from Altera), source its "
    "setupvars.sh so that dla_compiler is on PATH, and export again"
)


class FpgaCompiler(Compiler):
    """``fp16`` and ``fp11`` are the suite's names of INT12 and INT7 block floating point."""

    engine = "openvino_fpga"
    package = PackageNeed("openvino", "openvino", "2024.4", "")
    onnx_limits = OnnxLimits(ir=13, opset=23)
    dynamic_axes = False
    precisions = ("fp16", "fp11")
    settings: Mapping[str, str] = {"arch": "the .arch file to compile for, in the place of the suite's example"}
    rewrites = RewritePlan(static=True)
    judged_by = "FPGA AI Suite 2025.3"

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Reports, and compiles where the suite is installed; in the child."""
        return build

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """The accelerator of an Arria 10, and no other."""
        if device != "fpga":
            return f"it compiles for fpga, an Arria 10, not {device}"
        return super().refusal(device, arch, precision)

    def check(self, device: str, arch: str, precision: str) -> Verdict:
        """Whether ``dla_compiler`` is on PATH; where it is not, a try still tells what it would do with the model."""
        verdict = super().check(device, arch, precision)
        if not verdict.ok or shutil.which(_COMPILER):
            return verdict
        return Verdict(False, f"{_COMPILER} of the FPGA AI Suite is not on PATH", _FIX, explains=True)

    def findings(
        self, model: Any, graph: str, nodes: Sequence[NodeFact], device: str, arch: str, precision: str
    ) -> Sequence[Finding]:
        """The nodes that HETERO:FPGA,CPU leaves to the processor; where the FPGA gets none there is no path."""
        from avsdk_targets.fpga_architecture import Architecture
        from avsdk_targets.fpga_layers import partition

        del nodes, device, arch
        layers = partition(model, Architecture("any", precision.upper(), k_vector=64, c_vector=16)).layers
        found = [
            Finding(graph, layer.name, layer.op, "elsewhere", f"stays on the processor: {layer.reason}")
            for layer in layers
            if not layer.on_fpga
        ]
        if len(found) == len(layers):
            found.append(Finding(graph, "", "", "operator", "nothing of it is the FPGA's to compute", blocks=True))
        return found

    def identity(self) -> Mapping[str, str]:
        """Beside the packages: which ``dla_compiler`` it is."""
        found = shutil.which(_COMPILER)
        state = Path(found).stat() if found else None
        return {**super().identity(), _COMPILER: f"{found} {state.st_size} {state.st_mtime_ns}" if state else ""}

    def settings_identity(self, settings: Mapping[str, str]) -> Mapping[str, str]:
        """Beside the settings: what the user's .arch file holds."""
        file = Path(settings.get("arch", ""))
        return {**settings, "arch_sha256": sha256_file(file)} if file.is_file() else settings

    def compile(self, job: CompileJob) -> Compiled:
        """Compile; where the suite is not here raise ``Prepared``, with the report to leave beside the ONNX."""
        try:
            return super().compile(job)
        except NotAvailable as error:
            report = job.out / _REPORT
            if not report.is_file():
                raise
            name = f"{job.graph.name}.{job.arch}.json"
            raise Prepared(
                error.failed,
                expected=error.expected,
                fix=error.fix,
                report={name: report.read_text(encoding="utf-8")},
            ) from error


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Report on the graph; compile it where the suite is, else raise ``NotAvailable`` with the report."""
    import onnx

    from avsdk_targets.fpga_architecture import architecture_for
    from avsdk_targets.fpga_report import measured_accuracy, plan_report, with_sizes

    name = request["graph"]["name"]
    options, precision = request["options"], request["precision"]
    model = with_sizes(onnx.load(request["onnx"]), request["graph"], request["sizes"])
    architecture = architecture_for(options, precision)
    others = [] if options.get("arch") else [architecture_for(options, item) for item in ("fp16", "fp11")]
    wanted = [architecture, *(item for item in others if item.arch_precision != architecture.arch_precision)]
    planned = plan_report(model, name, architecture)
    try:
        report = replace(planned, accuracy=measured_accuracy(model, wanted, _samples(request), openvino_runner))
    except RuntimeError as error:  # OpenVINO's: the emulation is worth less than the rest of the report
        report = replace(planned, unmeasured=f"OpenVINO could not run a part of the graph: {last_line(error)}")
    if shutil.which(_COMPILER) is None:
        document = {**report.to_json(), "commands": report.commands()}
        Path(request["out"], _REPORT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        raise NotAvailable(
            "\n  ".join([f"{_COMPILER} is not on PATH, so graph {name!r} was not compiled", *report.lines()]),
            expected=f"{_COMPILER} of the FPGA AI Suite",
            fix=_FIX,
        )
    return _compiled(request, report)


def _compiled(request: Mapping[str, Any], report: Any) -> dict[str, Any]:
    """Write the IR, run the suite's compiler on it, and keep what its session needs."""
    import os

    import openvino

    from avsdk_targets.fpga_report import dla_command

    out, name = Path(request["out"]), request["graph"]["name"]
    march = Path(os.path.expandvars(report.architecture.march))
    if not march.is_file():
        raise NotAvailable(
            f"there is no architecture file {march}",
            expected="COREDLA_ROOT to name the FPGA AI Suite's folder",
            fix="source its setupvars.sh, or give a file: --set openvino_fpga.arch=FILE",
        )
    model = openvino.Core().read_model(request["onnx"])
    model.reshape({item["name"]: _sized(item["shape"], request["sizes"]) for item in request["graph"]["inputs"]})
    for index, item in enumerate(request["graph"]["outputs"]):
        model.output(index).get_tensor().set_names({item["name"]})
    openvino.save_model(model, out / f"{name}.xml", compress_to_fp16=False)
    log = _run(dla_command(str(march), f"{name}.xml", f"{name}.compiled.bin", report.batch), out)
    if not (out / f"{name}.compiled.bin").is_file():
        raise ToolchainCrashed(f"{_COMPILER} ended well and wrote no {name}.compiled.bin:\n{log}", fix=_FIX)
    shutil.copyfile(march, out / f"{name}.arch")
    version = metadata.version("openvino")
    return {
        "files": [f"{name}.compiled.bin", f"{name}.arch", f"{name}.xml", f"{name}.bin"],
        "options": {"arch_precision": report.architecture.arch_precision, "report": report.to_json(), "log": log},
        "built_with": {
            "openvino": version,
            _COMPILER: f"sha256 {sha256_file(Path(str(shutil.which(_COMPILER))))[:12]}",
        },
    }


def _run(command: tuple[str, ...], folder: Path) -> str:
    """Run the suite's compiler in ``folder``; the last lines of what it printed."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired as error:
        raise ToolchainCrashed(f"{_COMPILER} did not end within {_TIMEOUT_S:g} s and was killed") from error
    tail = "\n".join(done.stdout.splitlines()[-_TAIL_LINES:])
    if done.returncode:
        raise ToolchainCrashed(
            f"{_COMPILER} ended with exit code {done.returncode}:\n{tail}",
            expected=f"{' '.join(command)} to succeed",
            fix="read its last lines above; avsdk export names the nodes that the FPGA does not take",
        )
    return tail


def _samples(request: Mapping[str, Any]) -> list[Sample]:
    """The golden samples of the size that is built, the first few."""
    if not request["golden"]:
        return []
    shapes = {item["name"]: tuple(_sized(item["shape"], request["sizes"])) for item in request["graph"]["inputs"]}
    fitting = [
        sample
        for sample in read_golden(Path(request["golden"]))
        if all(sample[0][name].shape == shape for name, shape in shapes.items())
    ]
    return fitting[:_SAMPLES]


def openvino_runner(content: bytes) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Load a small ONNX model to be run in fp32 on the processor."""
    import io

    import numpy
    import openvino

    core = openvino.Core()
    model = core.read_model(io.BytesIO(content))
    outputs = [next(iter(port.get_names())) for port in model.outputs]
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [port.get_names() for port in compiled.inputs]

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        given = [next(feeds[name] for name in known if name in feeds) for known in names]
        found = compiled.infer_new_request(given)
        return {name: numpy.array(found[index]) for index, name in enumerate(outputs)}

    return run


def _sized(shape: list[int | str], sizes: Mapping[str, int] | None) -> list[int]:
    return [axis if isinstance(axis, int) else (sizes or {})[axis] for axis in shape]
