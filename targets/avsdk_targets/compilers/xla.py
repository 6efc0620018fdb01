"""XLA: the host half. ExportedProgram -> StableHLO at fixed sizes, by PyTorch/XLA, in the toolchain ``xla``.

What ships is portable: XLA compiles it for the device, TPU or processor, when it is opened. It asks for full precision
in every convolution and matrix product, since a TPU multiplies floats of 32 bit as bf16 where nothing says otherwise.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from avsdk.errors import NotAvailable
from avsdk.onnx_check import OnnxLimits
from avsdk_targets.compiler import Compiler
from avsdk_targets.toolchain import PackageNeed


class XlaCompiler(Compiler):
    """The program, traced once per set of sizes; its weights stand beside it as plain arrays."""

    engine = "xla"
    package = PackageNeed("torch_xla", "torch-xla", "2.9", "")
    toolchain = "xla"
    onnx_limits = OnnxLimits(ir=13, opset=26)
    dynamic_axes = False
    precisions = ("fp32",)
    devices: Mapping[str, str] = {"cpu": "host", "tpu": "tpu"}
    needs_program = True

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Writes the StableHLO, in the toolchain."""
        return build

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """TPUs, and this processor."""
        if device not in self.devices:
            return f"it compiles for {' and '.join(self.devices)}, not {device}"
        return super().refusal(device, arch, precision)


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Load the program, trace it at the asked sizes on PJRT's processor client, write what it became. In the child."""
    os.environ["PJRT_DEVICE"] = "CPU"  # read when torch_xla is imported; what is traced there serves every device
    import torch
    import torch_xla.backends
    from torch_xla import stablehlo

    torch_xla.backends.set_mat_mul_precision("highest")
    graph, sizes = request["graph"], request["sizes"] or {}
    samples = tuple(torch.zeros(_sized(item, sizes), dtype=getattr(torch, item["dtype"])) for item in graph["inputs"])
    fixed = torch.export.export(torch.export.load(request["program"]).module(), samples)
    try:
        exported = stablehlo.exported_program_to_stablehlo(fixed)
    except RuntimeError as error:
        raise NotAvailable(
            f"PyTorch/XLA cannot lower graph {graph['name']!r}: {error}",
            expected="operations that XLA has",
            fix="choose another target: avsdk doctor",
        ) from error
    name = "-".join([graph["name"], *(f"{axis}{size}" for axis, size in sizes.items())])
    out = Path(request["out"])
    folder = Path(tempfile.mkdtemp(prefix="avsdk-stablehlo-"))
    try:
        exported.save(str(folder))
        inputs, arrays = _arguments(folder, graph["inputs"])
        shutil.copyfile(folder / "functions" / "forward.bytecode", out / f"{name}.stablehlo")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with (out / f"{name}.npz").open("wb") as stream:
        np.savez(stream, **arrays)
    versions = {item: metadata.version(item) for item in ("torch", "torch_xla", "jaxlib")}
    return {"files": [f"{name}.stablehlo", f"{name}.npz"], "options": {"inputs": inputs}, "built_with": versions}


def _arguments(folder: Path, tensors: list[Mapping[str, Any]]) -> tuple[dict[str, int], dict[str, Any]]:
    """The places of the graph's inputs among the program's arguments, and the arrays at the other places.

    PyTorch/XLA's folder holds its own signature as JSON, and each array as a .npy file; it is read without pickles.
    """
    locations = json.loads((folder / "functions" / "forward.meta").read_text(encoding="utf-8"))["input_locations"]
    inputs: dict[str, int] = {}
    arrays: dict[str, Any] = {}
    for place, location in enumerate(locations):
        if location["type_"] == "input_arg":
            inputs[str(tensors[location["position"]]["name"])] = place
            continue
        is_weight = location["type_"] == "parameter"
        file = folder / "data" / location["name"] if is_weight else folder / "constants" / str(location["position"])
        arrays[str(place)] = np.load(file, allow_pickle=False)
    return inputs, arrays


def _sized(tensor: Mapping[str, Any], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in tensor["shape"])
