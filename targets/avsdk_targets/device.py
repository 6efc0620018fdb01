"""The catalogue of devices: one TOML profile each, every figure with its source and a mark."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import tomllib

from avsdk import plugins
from avsdk.errors import Refused, UnknownName
from avsdk.precision import PRECISIONS
from avsdk.schema import check_schema, decode

_FOLDER = Path(__file__).parent / "devices"

Mark = Literal["datasheet", "computed", "unconfirmed"]

ARCHITECTURES: Mapping[str, str] = {
    "host": "the processor of this machine",
    "host-gpu": "the NVIDIA GPU of this machine; becomes its compute capability, as sm86, when a target is resolved",
    "nvidia": "any NVIDIA GPU: nothing in the artifact depends on which",
    "x86_64": "64-bit x86; the profile's isa names the instruction sets that count",
    "cortex-a72": "64-bit Arm, ARMv8.0",
    "cortex-a76": "64-bit Arm, ARMv8.2 with fp16 and dot products",
    "tpu": "a TPU core, for which XLA compiles when a program is loaded",
    "edgetpu": "Google's Edge TPU",
    "myriad-x": "Movidius Myriad X, platform MA2480/MA2485",
    "npu-3720": "Intel NPU of Meteor Lake and Arrow Lake",
    "npu-4000": "Intel NPU of Lunar Lake",
    "arria10": "Arria 10 FPGA",
    "nnp": "Intel Nervana neural network processor",
}
"""Every word that a profile may give as ``arch``, beside ``sm`` and the digits of an NVIDIA compute capability."""

PEAKS = (*PRECISIONS, "fp8", "int8_sparse")
"""What a peak rate may be given for. Rates are dense, but for ``int8_sparse``: two of four weights are zero."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_COMPUTE_CAPABILITY = re.compile(r"sm[0-9]{2,3}")


@dataclass(frozen=True)
class Figure:
    """One number of a profile, where it was read, and whether it is the datasheet's, computed, or unconfirmed."""

    value: float
    source: str
    mark: Mark


@dataclass(frozen=True)
class Served:
    """The releases of an engine's toolchain that serve a device, both ends included; an empty end is open or unknown.

    ``product`` is whose releases are counted, as ``TensorRT``. A last release of ``10.4`` includes 10.4.1.
    """

    product: str
    first: str
    last: str
    source: str
    mark: Mark


@dataclass(frozen=True)
class Emulation:
    """How a device's processor is emulated: the toolchain that holds the emulator, and its name of the processor."""

    toolchain: str
    cpu: str


@dataclass(frozen=True)
class Device:
    """A concrete piece of hardware.

    ``engines`` in order of preference; ``engine_device`` is what those engines call it (its own name where empty), and
    ``engine_devices`` what single ones call it instead; ``arch`` the instruction set or compute capability that
    artifacts are made for, a word of ``ARCHITECTURES``; ``isa`` its extensions, in the words of ``avsdk.host``;
    ``seen_as`` texts that one of its names contains where the system shows it. ``precisions`` in order of preference,
    the first being the default where fp32 is not among them. ``peaks`` are TFLOP/s (TOP/s for int8) per precision,
    ``memory_mb`` in MiB, ``bandwidth_gb_s`` in GB/s, ``power_w`` in watts; a figure that was not found is absent.
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
    engine_devices: Mapping[str, str] = field(default_factory=dict)
    isa: tuple[str, ...] = ()
    seen_as: tuple[str, ...] = ()
    memory_mb: Figure | None = None
    peaks: Mapping[str, Figure] = field(default_factory=dict)
    bandwidth_gb_s: Figure | None = None
    power_w: Figure | None = None
    served: Mapping[str, Served] = field(default_factory=dict)
    emulation: Emulation | None = None
    withdrawn: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The name and the aliases."""
        return (self.name, *self.aliases)

    @property
    def figures(self) -> dict[str, Figure | None]:
        """Every figure that a profile may have, by what it is and its unit; None where it was not found."""
        peaks = {
            f"peak {name} ({'TOP/s' if name.startswith('int') else 'TFLOP/s'})": self.peaks[name] for name in self.peaks
        }
        return {
            **(peaks or {"peak rate": None}),
            "memory (MiB)": self.memory_mb,
            "memory bandwidth (GB/s)": self.bandwidth_gb_s,
            "power (W)": self.power_w,
        }

    def called_by(self, engine: str) -> str:
        """What that engine calls this device."""
        return self.engine_devices.get(engine) or self.engine_device or self.name


@cache
def list_devices() -> tuple[Device, ...]:
    """Every profile of the catalogue, by name. Raises ``Refused`` for a profile that is unsound."""
    devices = tuple(device_from_file(file) for file in sorted(_FOLDER.glob("*.toml")))
    require_distinct(devices)
    return devices


def load_device(name: str) -> Device:
    """The profile with this name or alias; an unknown one gets the nearest known name."""
    known = {key: device for device in list_devices() for key in device.names}
    if name not in known:
        raise UnknownName.among("device", name, known, fix="avsdk devices lists them")
    return known[name]


def device_from_file(file: Path) -> Device:
    """Read one profile. Raises ``Refused`` for unknown keys, engines, precisions and architectures, and bad figures."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refused(f"{file.name} is not TOML: {error}") from error
    device = decode(Device, check_schema(document, where=file.name), where=file.name)
    if device.name != file.stem:
        raise Refused(f"{file.name} names the device {device.name!r}", expected=f"the file's name, {file.stem!r}")
    _require_words(device, file.name)
    _require_figures(device, file.name)
    return device


def require_distinct(devices: Iterable[Device]) -> None:
    """Raise ``Refused`` where two profiles share a name or an alias."""
    owner: dict[str, str] = {}
    for device in devices:
        for name in device.names:
            if name in owner:
                raise Refused(
                    f"the profiles {owner[name]} and {device.name} both answer to {name!r}",
                    expected="every name and alias once in the catalogue",
                    fix=f"remove it from {device.name}.toml",
                )
            owner[name] = device.name


def _require_words(device: Device, where: str) -> None:
    """Every name must be one that something answers to; a profile without an engine must say why."""
    engines = plugins.list_names("compilers")
    named = (*device.engines, *device.engine_devices, *device.served)
    for kind, words, known in (
        ("engine", named, engines),
        ("precision", device.precisions, PRECISIONS),
        ("peak", device.peaks, PEAKS),
    ):
        for word in words:
            if word not in known:
                raise Refused(f"{where} has the unknown {kind} {word!r}", expected=f"one of: {', '.join(known)}")
    if device.arch not in ARCHITECTURES and not _COMPUTE_CAPABILITY.fullmatch(device.arch):
        raise Refused(
            f"{where} has the unknown arch {device.arch!r}",
            expected=f"one of: {', '.join(ARCHITECTURES)}; or a compute capability, as sm86",
        )
    for name in device.names:
        if not _NAME.fullmatch(name):
            raise Refused(f"{where} has the name {name!r}", expected="small letters, digits and single dashes")
    if not device.engines and not device.withdrawn:
        raise Refused(f"{where} has no engine", expected="engines, or the reason under 'withdrawn'")
    if not device.precisions or not device.description:
        raise Refused(f"{where} has no precision or no description", expected="at least one, and a sentence")


def _require_figures(device: Device, where: str) -> None:
    for label, figure in device.figures.items():
        if figure is None:
            continue
        if not (math.isfinite(figure.value) and figure.value > 0):
            raise Refused(f"{where} gives {figure.value:g} as {label}", expected="a number above zero")
        if not figure.source:
            raise Refused(f"{where} gives {label} without a source", expected="where the number was read")
    for engine, served in device.served.items():
        if not served.source or not served.product:
            raise Refused(f"{where}: served.{engine} lacks its product or its source", expected="both")
