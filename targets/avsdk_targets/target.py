"""What ``--target`` takes: a device's name or alias, ``engine[:device]``, or ``all``."""

from __future__ import annotations

from dataclasses import dataclass

from avsdk import plugins
from avsdk.errors import UnknownName
from avsdk_targets.device import Device, list_devices, load_device

ALIASES = {"tflite": "litert:cpu", "litert": "litert:cpu", "openvino": "openvino:cpu", "onnxruntime": "onnxruntime:cpu"}
_PROFILE_OF_UNIT = {"cpu": "this-cpu", "cuda": "this-gpu"}


@dataclass(frozen=True)
class Candidate:
    """One engine on one device: what a compiler and a session are asked for."""

    engine: str
    device: str
    arch: str
    profile: Device


@dataclass(frozen=True)
class Target:
    """A resolved target. ``candidates`` are its engines in order of preference; ``precisions`` what the device has.

    ``withdrawn`` says why nothing can be built for it, where its vendor has given it up.
    """

    name: str
    candidates: tuple[Candidate, ...]
    precisions: tuple[str, ...]
    withdrawn: str = ""

    def precision(self, asked: str | None) -> str:
        """The precision to build: the one asked for, else fp32, else the device's first."""
        if asked is not None:
            return asked
        return "fp32" if not self.precisions or "fp32" in self.precisions else self.precisions[0]


def resolve(text: str) -> Target:
    """Resolve one target. Raises ``UnknownName`` with the nearest known name."""
    expanded = ALIASES.get(text, text)
    devices = {key: device for device in list_devices() for key in (device.name, *device.aliases)}
    if expanded in devices:
        return _of_device(text, devices[expanded])
    engine, colon, unit = expanded.partition(":")
    if engine not in plugins.list_names("compilers"):
        raise UnknownName.among("target", text, known_targets(), fix="avsdk doctor lists them")
    if unit in devices and engine not in devices[unit].engines:
        serving = [device.name for device in devices.values() if engine in device.engines]
        raise UnknownName.among(f"device of the engine {engine!r}", unit, serving)
    if unit in devices:
        device = devices[unit]
        return Target(text, (Candidate(engine, device.runs_as, device.arch, device),), device.precisions)
    units = {device.runs_as for device in list_devices() if engine in device.engines}
    if not colon and len(units) == 1:
        unit = units.pop()
    elif unit not in units:
        raise UnknownName.among("target", text, [*known_targets(), *(f"{engine}:{name}" for name in units)])
    profile = next(device for device in list_devices() if device.runs_as == unit and engine in device.engines)
    return Target(text, (Candidate(engine, unit, profile.arch, profile),), profile.precisions)


def resolve_list(text: str) -> tuple[Target, ...]:
    """Resolve a comma-separated list, in order, each once; ``all`` is every target of the catalogue."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise UnknownName.among("target", text, known_targets())
    expanded = [name for part in names for name in (all_targets() if part == "all" else (part,))]
    return tuple(resolve(name) for name in dict.fromkeys(expanded))


def all_targets() -> tuple[str, ...]:
    """One name for every engine and device that can be compiled for: engines on this processor, then other devices."""
    here = load_device("this-cpu")
    others = [device.name for device in list_devices() if device.name != here.name]
    return (*(f"{engine}:{here.runs_as}" for engine in here.engines), *others)


def known_targets() -> tuple[str, ...]:
    """Every name that ``resolve`` takes, for help and for suggestions."""
    names = [key for device in list_devices() for key in (device.name, *device.aliases)]
    return tuple(dict.fromkeys([*ALIASES, *all_targets(), *names, "all"]))


def _of_device(text: str, device: Device) -> Target:
    candidates = tuple(Candidate(engine, device.runs_as, device.arch, device) for engine in device.engines)
    return Target(text, candidates, device.precisions, device.withdrawn)
