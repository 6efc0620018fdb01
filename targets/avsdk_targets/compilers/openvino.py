"""OpenVINO: the host half. ONNX -> IR (.xml and .bin) with fp32 weights; the precision is chosen at load.

The native ONNX reader is used, never ``ovc`` or ``convert_model``; and like every child, this one refuses telemetry.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from avsdk.onnx_check import OnnxLimits
from avsdk_targets.compiler import Compiler
from avsdk_targets.toolchain import PackageNeed


class OpenVinoCompiler(Compiler):
    """ONNX -> IR for the CPU plugin, with dynamic axes."""

    engine = "openvino"
    package = PackageNeed("openvino", "openvino", "2025.0", "")
    onnx_limits = OnnxLimits(ir=13, opset=23)
    precisions = ("fp32", "bf16")

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Writes the IR, in the child."""
        return build

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """The CPU plugin is the only one built for here."""
        if device != "cpu":
            return f"it compiles for cpu, not {device}"
        return super().refusal(device, arch, precision)


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Read the ONNX, fix the sizes where asked, write the IR, and read it back once."""
    import openvino

    core = openvino.Core()
    model = core.read_model(request["onnx"])
    if request["sizes"] is not None:
        model.reshape({item["name"]: _sized(item["shape"], request["sizes"]) for item in request["graph"]["inputs"]})
    for index, item in enumerate(request["graph"]["outputs"]):
        model.output(index).get_tensor().set_names({item["name"]})
    name = f"{request['graph']['name']}.xml"
    openvino.save_model(model, Path(request["out"]) / name, compress_to_fp16=False)
    core.read_model(Path(request["out"]) / name)
    version = metadata.version("openvino")
    return {
        "files": [name, name.replace(".xml", ".bin")],
        "options": {"openvino": version},
        "built_with": {"openvino": version},
    }


def _sized(shape: list[int | str], sizes: dict[str, int]) -> list[int]:
    return [axis if isinstance(axis, int) else sizes[axis] for axis in shape]
