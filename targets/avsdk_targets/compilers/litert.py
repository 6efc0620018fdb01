"""LiteRT: the host half. ExportedProgram -> .tflite at fixed sizes, by litert-torch, in the toolchain ``litert``.

The program is converted rather than the ONNX: on the same network the ONNX route reported success on a file that did
not load. The converter has died by signals (on a Conv3d), which the child process absorbs. The file is loaded,
run once and compared with the program before it is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from avsdk.errors import NotAvailable, ParityFailed
from avsdk.onnx_check import OnnxLimits
from avsdk_targets.compiler import Compiled, CompileJob, Compiler
from avsdk_targets.toolchain import PackageNeed

_LEAST_SNR_DB = 20.0
"""Far below every tolerance of the parity record that follows: it only tells a wrong file from a right one."""

_HALF_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED", "EMBEDDING_LOOKUP")


class LiteRtCompiler(Compiler):
    """``fp32``, and ``fp16w``: weights stored in fp16 and widened when the file is loaded, computed in fp32."""

    engine = "litert"
    package = PackageNeed("litert_torch", "litert-torch", "0.9", "")
    toolchain = "litert"
    onnx_limits = OnnxLimits(ir=13, opset=26)
    dynamic_axes = False
    precisions = ("fp32", "fp16w")

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The function that runs in the toolchain."""
        return build

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """A .tflite file serves every processor; accelerators need other files."""
        if device != "cpu" and not arch.startswith(("arm", "aarch64", "cortex")):
            return f"it compiles for processors, not {device}"
        return super().refusal(device, arch, precision)

    def compile(self, job: CompileJob) -> Compiled:
        """Refuses a graph without its program before any process is started."""
        if job.program is None:
            raise NotAvailable(
                f"litert cannot compile {job.graph.name!r}: there is an ONNX file only, no exported program",
                expected="a run, a zoo name or a module, which come with their program",
                fix="export from the model's source; the toolchain onnx2tf, for bare ONNX files, is not offered yet",
            )
        return super().compile(job)


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Convert the program at the asked sizes, halve the weights where asked, load, run, compare. Runs in the child."""
    import litert_torch
    import torch

    graph, sizes = request["graph"], request["sizes"] or {}
    feeds = _sample_feeds(graph, sizes, request.get("golden"))
    samples = tuple(torch.from_numpy(feeds[item["name"]]) for item in graph["inputs"])
    module = torch.export.load(request["program"]).module()
    with torch.no_grad():
        answers = module(*samples)
    answers = answers if isinstance(answers, (tuple, list)) else (answers,)
    name = "-".join([graph["name"], *(f"{axis}{size}" for axis, size in sizes.items())]) + ".tflite"
    path = str(Path(request["out"]) / name)
    litert_torch.convert(module, samples).export(path)
    if request["precision"] == "fp16w":
        _halve_weights(path)
    reference = {item["name"]: answer.numpy() for item, answer in zip(graph["outputs"], answers)}
    options = _load_and_compare(path, graph, feeds, reference)
    packages = ("litert-torch", "torch", "ai-edge-quantizer", "ai-edge-litert")
    return {"files": [name], "options": options, "built_with": {item: metadata.version(item) for item in packages}}


def _sample_feeds(
    graph: Mapping[str, Any], sizes: Mapping[str, int], golden: str | None
) -> dict[str, np.ndarray[Any, Any]]:
    """A golden sample of these sizes if there is one, else seeded noise."""
    shapes = {
        item["name"]: tuple(axis if isinstance(axis, int) else sizes[axis] for axis in item["shape"])
        for item in graph["inputs"]
    }
    if golden is not None:
        with np.load(golden, allow_pickle=False) as stored:
            for number in sorted({key.split(".")[1] for key in stored.files if key.startswith("in.")}):
                feeds = {name: stored[f"in.{number}.{name}"] for name in shapes}
                if all(feeds[name].shape == shape for name, shape in shapes.items()):
                    return feeds
    generator = np.random.default_rng(0)
    dtypes = {item["name"]: np.dtype(item["dtype"]) for item in graph["inputs"]}
    return {
        name: generator.random(shape).astype(dtypes[name])
        if dtypes[name].kind == "f"
        else np.zeros(shape, dtypes[name])
        for name, shape in shapes.items()
    }


def _halve_weights(path: str) -> None:
    """Store the weights of every weighted operation as fp16, each behind a DEQUANTIZE; rewrites the file."""
    from ai_edge_quantizer import qtyping, quantizer

    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    work = quantizer.Quantizer(path)
    for operation in _HALF_WEIGHTS:
        work.update_quantization_recipe(
            regex=".*",
            operation_name=qtyping.TFLOperationName[operation],
            op_config=config,
            algorithm_key="float_casting",
        )
    work.quantize().export_model(path, overwrite=True)


def _load_and_compare(
    path: str,
    graph: Mapping[str, Any],
    feeds: Mapping[str, np.ndarray[Any, Any]],
    reference: Mapping[str, np.ndarray[Any, Any]],
) -> dict[str, dict[str, str]]:
    """Run the file once on ``feeds``; returns the names that the file gives to the graph's inputs and outputs."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path)
    interpreter.allocate_tensors()
    inputs = _in_order(interpreter.get_input_details(), graph["inputs"])
    outputs = _in_order(interpreter.get_output_details(), graph["outputs"])
    for name, detail in inputs.items():
        interpreter.set_tensor(detail["index"], feeds[name])
    interpreter.invoke()
    for name, detail in outputs.items():
        found = interpreter.get_tensor(detail["index"])
        snr = _snr_db(reference[name], found)
        if snr < _LEAST_SNR_DB:
            raise ParityFailed(
                f"the converted file gives {name!r} {list(found.shape)} at {snr:.1f} dB from the program's answer",
                expected=f"{list(reference[name].shape)} at {_LEAST_SNR_DB:g} dB or better",
                fix="choose another target: the converter does not know this network well",
            )
    return {
        "inputs": {name: detail["name"] for name, detail in inputs.items()},
        "outputs": {name: detail["name"] for name, detail in outputs.items()},
    }


def _in_order(details: list[dict[str, Any]], tensors: list[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Match the file's tensors to the graph's: the converter numbers them (``..._args_0``, ``..._output_0``)."""
    if len(details) != len(tensors):
        raise ParityFailed(
            f"the converted file has {len(details)} tensors", expected=str([item["name"] for item in tensors])
        )

    def number(detail: Mapping[str, Any]) -> int:
        found = re.findall(r"\d+", detail["name"].partition(":")[0])
        return int(found[-1]) if found else 0

    return {item["name"]: detail for item, detail in zip(tensors, sorted(details, key=number))}


def _snr_db(reference: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> float:
    if reference.shape != found.shape:
        return float("-inf")
    noise = float(np.sum((reference.astype(np.float64) - found) ** 2))
    signal = float(np.sum(reference.astype(np.float64) ** 2))
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if np.isfinite(noise) and signal > 0 else float("-inf")
