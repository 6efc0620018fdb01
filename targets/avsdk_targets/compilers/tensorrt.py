"""TensorRT 10 and 11: the host half. ONNX -> engine file, timed on the GPU that it is for.

The builder measures kernels on a GPU of the target's class, so there is no build without one. What it measured is kept
in a timing cache under ``$AVSDK_HOME``, one file per GPU, driver and version.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

from avsdk.errors import NotAvailable
from avsdk.nvidia import Gpu, local_gpus, why_no_gpu
from avsdk.onnx_check import OnnxLimits
from avsdk.tensorrt_execution import cached_bytes, keep_bytes
from avsdk_targets.compiler import Compiler, Verdict
from avsdk_targets.rewrite import RewritePlan
from avsdk_targets.tensorrt_network import (
    LACKING,
    PRECISIONS,
    SETTINGS,
    EngineBuild,
    Vendor,
    choice_setting,
    number_setting,
)
from avsdk_targets.toolchain import PackageNeed

_ROOM = "timing"
_OLDEST = 75
_VOLTA = frozenset({"sm70", "sm72"})
_VOLTA_BELOW = (10, 5)
"""Release notes of TensorRT 10.5: "Volta support removed"."""
_HARDWARE = {"none": "NONE", "ampere_plus": "AMPERE_PLUS", "same_compute_capability": "SAME_COMPUTE_CAPABILITY"}


class TensorRtCompiler(Compiler):
    """``fp16`` and ``bf16``: cast before the build, norms kept in fp32; ``fp32`` without TF32; ``int8`` by Q/DQ."""

    engine = "tensorrt"
    package = PackageNeed("tensorrt", "tensorrt", "10.0", "12")
    onnx_limits = OnnxLimits(ir=12, opset=22)
    precisions = PRECISIONS
    takes_qdq = True
    needs_ranges = True
    settings = {
        **SETTINGS,
        "workspace_mb": "the most scratch memory, in MiB, that a layer may take; by default all that the GPU has",
        "optimization_level": "0 to 5: how long the builder searches; its own default is 3",
        "version_compatible": "on: the file also runs with later versions (off by default)",
        "hardware_compatibility": "none (default), ampere_plus, same_compute_capability: which GPUs may run it",
    }
    rewrites = RewritePlan(opset=(7, 22), ir=12, lacking=LACKING)

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        """The function that runs in the child."""
        return build

    def refusal(self, device: str, arch: str, precision: str) -> str:
        """TensorRT 10 and 11 serve compute capability 7.5 and newer; Volta up to 10.4."""
        number = int(arch[2:]) if re.fullmatch(r"sm\d+", arch) else 0
        if not number and arch:  # empty is this machine's GPU where it has none: ``check`` says so
            return f"TensorRT builds for NVIDIA GPUs, not for {device} ({arch})"
        if 0 < number < _OLDEST and arch not in _VOLTA:
            return f"TensorRT 10 does not serve {device} ({arch}): compute capability 7.5 (sm75) is the oldest"
        if precision == "bf16" and 0 < number < 80:
            return f"{device} ({arch}) has no bf16: --precision fp16"
        return super().refusal(device, arch, precision)

    def check(self, device: str, arch: str, precision: str) -> Verdict:
        """As every compiler's, and a GPU of the target's class must be here."""
        usual = super().check(device, arch, precision)
        if not usual.ok and self.refusal(device, arch, precision):
            return usual
        here = local_gpus()
        if not any(gpu.arch == arch for gpu in here):
            where = device if arch else "an NVIDIA GPU"
            found = ", ".join(f"{gpu.name} ({gpu.arch})" for gpu in here) or why_no_gpu()
            also = "" if usual.ok else f"; {usual.reason}"
            return Verdict(
                False,
                f"TensorRT's builder times kernels on a GPU of the target class; there is none here: {found}{also}",
                f"pip install 'avsdk[tensorrt]' on a machine with {where}, and export there",
            )
        if usual.ok and arch in _VOLTA:
            version = self.environment().versions[self.package.distribution]
            if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= _VOLTA_BELOW:
                return Verdict(
                    False, f"TensorRT {version} no longer serves Volta ({arch})", "pip install 'tensorrt<10.5'"
                )
        return usual


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Cast where asked, parse, set the profile, time and build. Runs in the child, on a machine with the GPU."""
    import tensorrt

    version, options = str(tensorrt.__version__), request["options"]
    gpu = _gpu_for(request["arch"])
    with TemporaryDirectory(prefix="avsdk-network-") as folder:
        made = EngineBuild(Vendor(tensorrt, "TensorRT", "tensorrt"), request, folder)
        requires = _compatibility(tensorrt, made.config, options, gpu, version)
        limit = number_setting(options, "workspace_mb", 1, 1 << 20)
        if limit is not None:
            made.config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, limit << 20)
        level = number_setting(options, "optimization_level", 0, 5)
        if level is not None:
            made.config.builder_optimization_level = level
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{gpu.name}-{gpu.arch}-{gpu.driver}-{version}") + ".timing"
        cache = made.config.create_timing_cache(cached_bytes(_ROOM, name)) or made.config.create_timing_cache(b"")
        made.config.set_timing_cache(cache, ignore_mismatch=False)
        answer = made.finish(requires, {"version_compatible": "on" if "minimum" in requires else "off"})
        keep_bytes(_ROOM, name, bytes(cache.serialize()))
    return {**answer, "options": {**answer["options"], "gpu": gpu.name}}


def _gpu_for(arch: str) -> Gpu:
    for gpu in local_gpus():
        if gpu.arch == arch:
            return gpu
    raise NotAvailable(
        f"no GPU of {arch} is here to time kernels on", fix=f"run this on a machine with a GPU of {arch}"
    )


def _compatibility(trt: Any, config: Any, options: Any, gpu: Gpu, version: str) -> dict[str, str]:
    """Set what the file is to be compatible with; returns what it will ask of the machine that loads it.

    A driver is asked for as the oldest that serves: the one that the kernels were timed with.
    """
    requires = {"arch": gpu.arch, "driver": gpu.driver}
    if choice_setting(options, "version_compatible", ("off", "on")) == "on":
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        requires["minimum"] = version
    else:
        requires["exact"] = version
    hardware = choice_setting(options, "hardware_compatibility", tuple(_HARDWARE))
    if hardware == "ampere_plus" and int(gpu.arch[2:]) < 80:
        raise NotAvailable(
            f"hardware_compatibility=ampere_plus is built on Ampere or newer, not on {gpu.name} ({gpu.arch})",
            fix="leave out --set tensorrt.hardware_compatibility",
        )
    if hardware != "none":
        level = getattr(trt.HardwareCompatibilityLevel, _HARDWARE[hardware], None)
        if level is None:
            raise NotAvailable(f"TensorRT {version} has no {hardware}", fix="pip install 'tensorrt>=10.9'")
        config.hardware_compatibility_level = level
    if hardware == "ampere_plus":
        requires["arch"] = "sm80+"
    return requires
