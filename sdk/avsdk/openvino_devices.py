"""OpenVINO's devices: our words for them, the plugins' names, and which of them are here.

``cpu``, ``gpu`` and ``npu`` are one plugin each; ``hetero:gpu+cpu`` splits a graph, the first device taking what it
can. AUTO is not among them: it compiles on the processor, without a word, when the accelerator is missing.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib import util
from typing import Any

from avsdk.errors import AvsdkError
from avsdk.session import Availability
from avsdk.telemetry import refuse_telemetry
from avsdk.worker import call_in_child

PLUGINS = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}
_HETERO = "hetero:"
_TIMEOUT_S = 60.0
_FOLDER = re.compile(r'"/(?:[^"/]*/)*([^"/]+)"')
_FIXES = {
    "GPU": "install Intel's GPU driver with its OpenCL part (Debian: intel-opencl-icd), then: avsdk doctor",
    "NPU": "a Core Ultra processor with Intel's NPU driver (package intel-driver-compiler-npu), then: avsdk doctor",
}


def device_units(device: str) -> tuple[str, ...]:
    """The plugins' words of a device, in order of preference; empty where the device is unknown."""
    units = tuple(device[len(_HETERO) :].split("+")) if device.startswith(_HETERO) else (device,)
    known = all(unit in PLUGINS for unit in units) and len(set(units)) == len(units)
    return units if known else ()


def is_hetero(device: str) -> bool:
    """Whether the device is a list of several."""
    return device.startswith(_HETERO)


def plugin_name(device: str) -> str:
    """What OpenVINO calls the device: ``hetero:gpu+cpu`` is ``HETERO:GPU,CPU``."""
    names = ",".join(PLUGINS[unit] for unit in device_units(device))
    return f"HETERO:{names}" if is_hetero(device) else names


def availability(device: str) -> Availability:
    """Whether every plugin of the device finds its hardware; other plugins than the CPU's are asked in a child."""
    units = device_units(device)
    if not units:
        known = f"one of: {', '.join(PLUGINS)}, {_HETERO}gpu+cpu"
        return Availability(False, f"this session knows no OpenVINO device {device!r}", known)
    if util.find_spec("openvino") is None:
        return Availability(False, "the package openvino is not installed", "pip install 'avsdk[openvino]'")
    for unit in units:
        reason = _absence(PLUGINS[unit]) if unit != "cpu" else ""
        if reason:
            return Availability(False, reason, _FIXES[PLUGINS[unit]])
    return Availability(True)


@cache
def _absence(plugin: str) -> str:
    """Why a plugin finds no hardware here, in its own words; empty where it finds some.

    In a child: a driver that dies takes nothing along.
    """
    try:
        found: dict[str, Any] = call_in_child(
            probe, name=f"openvino {plugin}", python=sys.executable, timeout_s=_TIMEOUT_S, plugin=plugin
        )
    except AvsdkError as error:
        return f"looking for OpenVINO's {plugin} failed: {error.failed}"
    if found["devices"]:
        return ""
    listed = ", ".join(found["available"]) or "nothing"
    reason = found["reason"] or f"its {plugin} plugin finds no device"
    return f"OpenVINO has {listed} here, no {plugin}: {reason}"


def probe(plugin: str) -> dict[str, Any]:
    """In the child: the plugin's devices, or why it has none."""
    refuse_telemetry()
    import openvino

    core = openvino.Core()
    available = [str(name) for name in core.available_devices]
    try:
        devices, reason = [str(name) for name in core.get_property(plugin, "AVAILABLE_DEVICES")], ""
    except RuntimeError as error:
        devices, reason = [], last_line(error)
    return {"available": available, "devices": devices, "reason": reason}


def last_line(error: Exception) -> str:
    """The last line of an OpenVINO error, libraries without their folder: the lines above name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return _FOLDER.sub(r'"\1"', lines[-1]) if lines else type(error).__name__
