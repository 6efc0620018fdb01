"""The execution providers of ONNX Runtime that a device may name, what each needs here, and its options.

The package ``onnxruntime`` comes as a parameter: which module of that name is installed decides which providers exist.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path
from typing import Any

from avsdk.errors import NotAvailable
from avsdk.files import cache_home
from avsdk.nvidia import DRIVER_FIX, why_no_gpu
from avsdk.session import Availability

_KERNELS = {"fp16": "trt_fp16_enable", "bf16": "trt_bf16_enable", "int8": "trt_int8_enable"}
"""This provider's networks are weakly typed: a precision that is not admitted is computed in fp32."""


@dataclass(frozen=True)
class Provider:
    """One provider: its own name, the line that installs it, and the module that brings it as a library, if one does.

    ``fused``: it runs whole subgraphs as one node, so the profile does not show the types inside.
    """

    name: str
    install: str
    gpu: bool = True
    fused: bool = False
    plugin: str = ""


PROVIDERS: Mapping[str, Provider] = {
    "cpu": Provider("CPUExecutionProvider", "pip install 'avsdk[onnxruntime]'", gpu=False),
    "cuda": Provider("CUDAExecutionProvider", "pip install 'avsdk[onnxruntime-gpu]'"),
    "tensorrt": Provider("TensorrtExecutionProvider", "pip install 'avsdk[onnxruntime-gpu,tensorrt]'", fused=True),
    "nv_tensorrt_rtx": Provider(
        "NvTensorRTRTXExecutionProvider",
        "pip install onnxruntime-ep-nv-tensorrt-rtx-cu12 nvidia-cuda-runtime-cu12",
        fused=True,
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
    ),
}


def provider_state(device: str, runtime: Any | None) -> Availability:
    """Whether the device's provider can be used here; ``runtime`` is None where the package is not installed."""
    if device not in PROVIDERS:
        return Availability(False, f"ONNX Runtime has no device {device!r}", f"one of: {', '.join(PROVIDERS)}")
    provider = PROVIDERS[device]
    no_gpu = why_no_gpu() if provider.gpu else ""
    if runtime is None:
        lacking = "the package onnxruntime is not installed"
    elif provider.name in runtime.get_available_providers() or (provider.plugin and util.find_spec(provider.plugin)):
        lacking = ""
    elif provider.plugin:
        lacking = f"this ONNX Runtime has no {provider.name}, and the package {provider.plugin} is not installed"
    else:
        lacking = f"this ONNX Runtime has no {provider.name}"
    reason = "; ".join(text for text in (no_gpu, lacking) if text)
    return Availability(not reason, reason, "" if not reason else DRIVER_FIX if no_gpu else provider.install)


def provider_options(device: str, precision: str) -> dict[str, str]:
    """The options of the device's provider: fp32 without TF32, and what it builds kept under ``$AVSDK_HOME``."""
    if device == "cpu":
        return {}
    if device == "cuda":
        return {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}
    kept = str(cache_home() / "providers" / device)
    if device == "nv_tensorrt_rtx":
        return {"device_id": "0", "nv_runtime_cache_path": kept}
    return {
        "device_id": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": kept,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": kept,
        **({_KERNELS[precision]: "1"} if precision in _KERNELS else {}),
    }


def add_provider(
    runtime: Any,
    options: Any,
    device: str,
    precision: str,
    *,
    fallback: bool,
    errors: tuple[type[Exception], ...] = (RuntimeError,),
) -> list[Any] | None:
    """Put the device's provider into the session's options, or return it for the session's ``providers``.

    Without ``fallback`` no node may go to the CPU provider: the session refuses to open. ``errors`` are the package's.
    Raises ``NotAvailable`` where the provider's own library cannot be loaded.
    """
    provider, given = PROVIDERS[device], provider_options(device, precision)
    if device == "cpu":
        return [provider.name]
    if provider.fused:  # its networks take TF32 by default, and no option of its own says otherwise
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    if not fallback:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    _load_cuda(runtime)
    if provider.name in runtime.get_available_providers():
        return [(provider.name, given), *(["CPUExecutionProvider"] if fallback else [])]
    options.add_provider_for_devices(_plugin_devices(runtime, provider, (*errors, OSError))[:1], given)
    return None


def _load_cuda(runtime: Any) -> None:
    """Load the CUDA libraries that pip installed, which no search path names. The provider reports those it lacks."""
    preload = getattr(runtime, "preload_dlls", None)  # since ONNX Runtime 1.21
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            preload()
    packages = util.find_spec("nvidia")
    for folder in packages.submodule_search_locations or () if packages else ():
        for library in sorted(Path(folder).glob("*/lib/libcudart.so.*")):  # the plug-in's, whatever this package is
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def _plugin_devices(runtime: Any, provider: Provider, errors: tuple[type[Exception], ...]) -> list[Any]:
    """Register the provider's library, once in a process, and list the GPUs that it serves."""
    plugin = import_module(provider.plugin)
    name = plugin.get_ep_name()

    def served() -> list[Any]:
        return [item for item in runtime.get_ep_devices() if item.ep_name == name]

    found = served()
    if found:
        return found
    try:
        runtime.register_execution_provider_library(name, plugin.get_library_path())
    except errors as error:
        raise NotAvailable(
            f"the library of {provider.name} cannot be loaded: {str(error).splitlines()[0]}",
            expected="its CUDA runtime beside it, and an RTX GPU",
            fix=provider.install,
        ) from error
    found = served()
    if not found:
        raise NotAvailable(
            f"{provider.name} serves no GPU here", expected="an RTX GPU, Ampere or newer", fix=DRIVER_FIX
        )
    return found
