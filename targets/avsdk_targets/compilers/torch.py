"""PyTorch, the baseline row of ``avsdk bench``: the host half. It makes no bundle that ships.

The artifact is the model's own ExportedProgram, which holds pickled parts: the session opens it only because this half
notes its hash in the user's cache, and it stays there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from avsdk.engines.torch import MODES, TorchSession, vouch_for
from avsdk.errors import UnknownName
from avsdk.onnx_check import OnnxLimits
from avsdk.session import Availability
from avsdk_targets.compiler import Compiled, CompileJob, Compiler, Verdict
from avsdk_targets.toolchain import PackageNeed


class TorchCompiler(Compiler):
    """The program as it is, eager and by ``torch.compile``; bf16 and fp16 by autocast."""

    engine = "torch"
    package = PackageNeed("torch", "torch", "2.9", "")
    onnx_limits = OnnxLimits(ir=13, opset=26)
    precisions = ("fp32", "bf16", "fp16")
    settings: Mapping[str, str] = {"mode": f"how PyTorch runs it: {' or '.join(MODES)}"}
    devices: Mapping[str, str] = {"cpu": "host", "cuda": "host"}
    needs_program = True
    baseline = tuple({"mode": mode} for mode in MODES)

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """Takes the program over, in the child."""
        return build

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """A baseline is of this machine."""
        if device not in self.devices or arch != "host":
            return f"it runs models on this machine's cpu or cuda, not on {device}"
        return super().refusal(device, arch, precision)

    def check(self, device: str, arch: str, precision: str) -> Verdict:
        """A baseline is built where it is measured, so the device must be here."""
        verdict = super().check(device, arch, precision)
        state = TorchSession.availability(device) if verdict.ok else Availability(True)
        return verdict if state.ok else Verdict(False, state.reason, state.fix)

    def compile(self, job: CompileJob) -> Compiled:
        """As any compiler, and notes that the program was made here."""
        if job.options.get("mode", MODES[0]) not in MODES:
            raise UnknownName.among("torch.mode", str(job.options["mode"]), MODES)
        compiled = super().compile(job)
        for name in compiled.artifact.files:
            vouch_for(job.out / name)
        return compiled


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Copy the program; it is loaded for the first time when its answers are compared."""
    name = f"{request['graph']['name']}.pt2"
    shutil.copyfile(request["program"], Path(request["out"]) / name)
    mode = request["options"].get("mode", MODES[0])
    version = metadata.version("torch")
    return {"files": [name], "options": {"session": {"mode": mode}}, "built_with": {"torch": version}}
