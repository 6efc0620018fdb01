"""The catalogue of devices: one TOML profile each, every figure with its source and a mark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tomllib

from avsdk.errors import UnknownName
from avsdk.schema import check_schema, decode

_FOLDER = Path(__file__).parent / "devices"


@dataclass(frozen=True)
class Figure:
    """One number of a profile, where it was read, and whether it is the datasheet's, computed, or unconfirmed."""

    value: float
    source: str
    mark: Literal["datasheet", "computed", "unconfirmed"]


@dataclass(frozen=True)
class Served:
    """The releases of an engine's toolchain that serve a device, both ends included; an empty end is open."""

    first: str
    last: str
    source: str
    mark: Literal["datasheet", "computed", "unconfirmed"]


@dataclass(frozen=True)
class Emulation:
    """How a device's processor is emulated: the toolchain that holds the emulator, and its name of the processor."""

    toolchain: str
    cpu: str


@dataclass(frozen=True)
class Device:
    """A concrete piece of hardware.

    ``engines`` in order of preference; ``engine_device`` is what those engines call it (its own name where empty);
    ``arch`` the instruction set or compute capability that artifacts are made for, ``host`` being this machine's;
    ``precisions`` in order of preference, the first being the default where fp32 is not among them. ``peaks`` are
    TFLOP/s (TOP/s for int8) per precision, ``memory_mb`` in MiB, ``bandwidth_gb_s`` in GB/s, ``power_w`` in watts.
    ``served`` says per engine which toolchain releases know the device; ``emulation`` how it is emulated where it is
    not at hand; ``withdrawn`` why nothing can be built for it; ``options`` go to its compilers.
    """

    name: str
    description: str
    engines: tuple[str, ...]
    arch: str
    precisions: tuple[str, ...]
    vendor: str = ""
    aliases: tuple[str, ...] = ()
    engine_device: str = ""
    memory_mb: Figure | None = None
    peaks: Mapping[str, Figure] = field(default_factory=dict)
    bandwidth_gb_s: Figure | None = None
    power_w: Figure | None = None
    served: Mapping[str, Served] = field(default_factory=dict)
    emulation: Emulation | None = None
    withdrawn: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs_as(self) -> str:
        """What the engines call this device."""
        return self.engine_device or self.name


@cache
def list_devices() -> tuple[Device, ...]:
    """Every profile of the catalogue, by name."""
    return tuple(_device_from_file(file) for file in sorted(_FOLDER.glob("*.toml")))


def load_device(name: str) -> Device:
    """The profile with this name or alias; an unknown one gets the nearest known name."""
    known = {key: device for device in list_devices() for key in (device.name, *device.aliases)}
    if name not in known:
        raise UnknownName.among("device", name, known, fix="avsdk devices lists them")
    return known[name]


def _device_from_file(file: Path) -> Device:
    document = tomllib.loads(file.read_text(encoding="utf-8"))
    return decode(Device, check_schema(document, where=file.name), where=file.name)
