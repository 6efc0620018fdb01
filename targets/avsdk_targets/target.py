"""What ``--target`` takes: a device's name or alias, ``engine[:device]``, or ``all``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from avsdk import plugins
from avsdk.errors import NotAvailable, UnknownName, UsageError
from avsdk_targets.device import Device, list_devices, load_device
from avsdk_targets.presence import local_arch

ALIASES = {"tflite": "litert:cpu"}
"""Names that are neither a device's nor an engine's. A device's aliases stand in its profile."""

_HERE = ("this-cpu", "this-gpu")
_PREFIXES = ("hetero",)
"""Words of a compiler's devices that take a list of others after them, and are none on their own."""


@dataclass(frozen=True)
class Candidate:
    """One engine on one device: what a compiler and a session are asked for. An empty ``arch`` is a GPU not here."""

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
        """The precision to build: the one asked for, else the first of the profile, which is fp32 where it serves."""
        return asked or next(iter(self.precisions), "fp32")


def resolve(text: str) -> Target:
    """Resolve one target. Raises ``UnknownName`` with the nearest known name."""
    expanded = ALIASES.get(text, text)
    devices = _devices()
    if expanded in devices:
        device = devices[expanded]
        candidates = tuple(_candidate(engine, device) for engine in device.engines)
        return Target(text, candidates, device.precisions, device.withdrawn)
    engine, colon, unit = expanded.partition(":")
    if engine not in plugins.list_names("compilers"):
        raise UnknownName.among("target", text, known_targets(), fix="avsdk doctor lists them")
    profile = _profile_called(engine, unit) if colon else _first_profile(engine)
    return Target(text, (_candidate(engine, profile),), profile.precisions)


def resolve_list(text: str) -> tuple[Target, ...]:
    """Resolve a comma-separated list, in order, each once; ``all`` is every target of the catalogue."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise UnknownName.among("target", text, known_targets())
    placed = next((name for name in names if "=" in name), "")
    if placed:
        raise UsageError(
            f"--target {placed!r} places one graph on a target of its own, which is not offered",
            expected="a target for all graphs of the model",
            fix=f"--target {placed.partition('=')[2] or 'NAME'}",
        )
    expanded = [name for part in names for name in (all_targets() if part == "all" else (part,))]
    return tuple(resolve(name) for name in dict.fromkeys(expanded))


def all_targets() -> tuple[str, ...]:
    """One name for every engine and device that can be compiled for: engines on this processor, then other devices."""
    here = load_device("this-cpu")
    others = [device.name for device in list_devices() if device.name != here.name]
    return (*(f"{engine}:{here.called_by(engine)}" for engine in here.engines), *others)


def baseline_targets() -> tuple[str, ...]:
    """The engines that serve no device of the catalogue, on what they run on here: they are measured, never shipped."""
    served = {engine for device in list_devices() for engine in device.engines}
    others = [engine for engine in plugins.list_names("compilers") if engine not in served]
    return tuple(f"{engine}:{unit}" for engine in others for unit in _own_devices(engine))


def known_targets() -> tuple[str, ...]:
    """Every name that ``resolve_list`` takes, but for lists of devices, for help and for suggestions."""
    names = [key for device in list_devices() for key in device.names]
    engines = plugins.list_names("compilers")
    units = [f"{engine}:{unit}" for engine in engines for unit in _units(engine) if unit not in _PREFIXES]
    return tuple(dict.fromkeys([*ALIASES, *engines, *all_targets(), *names, *units, "all"]))


def _devices() -> dict[str, Device]:
    return {key: device for device in list_devices() for key in device.names}


def _candidate(engine: str, device: Device) -> Candidate:
    return Candidate(engine, device.called_by(engine), local_arch(device.arch), device)


def _first_profile(engine: str) -> Device:
    """What an engine's name alone means: this processor, else this machine's GPU, else its only or its first device."""
    serving = [device for device in list_devices() if engine in device.engines]
    local = [load_device(name) for name in _HERE if engine in load_device(name).engines]
    if local or len(serving) == 1:
        return (local or serving)[0]
    own = _own_devices(engine)
    if own:
        return _local_device(engine, next(iter(own)))
    raise UnknownName.among("target", engine, [f"{engine}:{unit}" for unit in _units(engine)])


def _profile_called(engine: str, unit: str) -> Device:
    """The device that stands after the colon.

    One of the catalogue, by its name or by what the engine calls it, or one that the engine's compiler lists.
    """
    by_name = _devices()
    if unit in by_name and engine in by_name[unit].engines:
        return by_name[unit]
    for device in (load_device(name) for name in _HERE):
        if engine in device.engines and device.called_by(engine) == unit:
            return device
    if unit.partition(":")[0] in _own_devices(engine):
        return _local_device(engine, unit)
    called = [device for device in list_devices() if engine in device.engines and device.called_by(engine) == unit]
    if len(called) == 1:
        return called[0]
    raise UnknownName.among(f"device of {engine}", unit, _units(engine), fix="avsdk doctor lists the targets")


def _own_devices(engine: str) -> Mapping[str, str]:
    """What the engine's compiler takes beside the catalogue; nothing where it cannot be imported."""
    try:
        found: Mapping[str, str] = plugins.load("compilers", engine).devices
    except NotAvailable:
        return {}
    return found


def _local_device(engine: str, unit: str) -> Device:
    """What the engine calls ``unit`` on this machine, which no profile describes."""
    arch = _own_devices(engine)[unit.partition(":")[0]]
    description = f"{engine}'s own device {unit}, on this machine"
    return Device(f"{engine}:{unit}", description, (engine,), arch, (), engine_device=unit)


def _units(engine: str) -> tuple[str, ...]:
    """Every word that may stand after the engine's colon."""
    serving = [device for device in list_devices() if engine in device.engines]
    local = [device.called_by(engine) for device in serving if device.name in _HERE]
    return tuple(dict.fromkeys([*local, *_own_devices(engine), *(item.name for item in serving)]))
