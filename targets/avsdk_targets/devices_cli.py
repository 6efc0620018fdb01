"""The commands ``devices`` and ``doctor``; heavy modules are imported inside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from avsdk.console import JsonOption, next_step, print_json, show, table

if TYPE_CHECKING:
    from avsdk_targets.device import Device, Served
    from avsdk_targets.doctor import Diagnosis

_NOT_FOUND = "not published, or not found"


def devices(
    name: Annotated[str | None, typer.Argument(help="A device's name or alias.")] = None, as_json: JsonOption = False
) -> None:
    """This machine, and the catalogue of devices; with NAME one device and what can be done for it from here."""
    from avsdk.host import probe
    from avsdk.schema import encode
    from avsdk_targets.device import list_devices, load_device

    if name is not None:
        _one_device(load_device(name), as_json)
        return
    host = probe()
    if as_json:
        print_json({"host": encode(host), "devices": [encode(device) for device in list_devices()]})
        return
    show(f"This machine: {host.cpu}, {host.cores} cores, {host.memory_mb} MB, {host.system}")
    show(f"  instruction sets: {', '.join(host.isa) or 'none known'}")
    show(f"  accelerators: {', '.join(host.accelerators) or 'none'}")
    show(f"  runtimes: {', '.join(f'{key} {version}' for key, version in host.libraries.items()) or 'none'}")
    by_vendor: dict[str, list[Device]] = {}
    for item in list_devices():
        by_vendor.setdefault(item.vendor or "This machine", []).append(item)
    for vendor in sorted(by_vendor, key=lambda text: (text != "This machine", text)):
        rows = [
            (" ".join(item.names), item.description, " ".join(item.engines) or "withdrawn", " ".join(item.precisions))
            for item in by_vendor[vendor]
        ]
        table(vendor, ("name and aliases", "what it is", "engines, best first", "precisions it has"), rows)
    next_step(
        "avsdk devices NAME shows one with its figures and their sources; avsdk doctor says what can be done here"
    )


def doctor(
    target: Annotated[str | None, typer.Argument(help="A target, as for export --target.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Per target: can it be compiled for here, can it run here, why not, and the line that would fix it."""
    from avsdk.schema import encode
    from avsdk_targets.doctor import GRADES, diagnose, this_place

    found = diagnose(None if target == "all" else target)
    if as_json:
        print_json({"targets": encode(found), "grades": GRADES, "host": encode(this_place())})
    else:
        _show_diagnosis(found)
        next_step(_after(found))
    if not any(item.engine for item in found):
        raise typer.Exit(3)  # the vendor has withdrawn it: nothing that is installed here would change that


def _one_device(device: Device, as_json: bool) -> None:
    from avsdk.schema import encode
    from avsdk_targets.doctor import diagnose

    diagnosis = diagnose(device.name)
    if as_json:
        print_json({"device": encode(device), "targets": encode(diagnosis)})
        return
    _show_device(device)
    _show_diagnosis(diagnosis)
    next_step(_after(diagnosis))


def _after(found: Sequence[Diagnosis]) -> str:
    """Build for the first that can be run here too, else for the first that can be built for; else look around.

    A baseline is measured, since it makes no bundle.
    """
    from avsdk import plugins

    for wanted in (True, False):
        for item in found:
            if item.can_compile and (item.can_run or not wanted):
                verb = "bench" if plugins.load("compilers", item.engine).baseline else "export"
                return f"avsdk {verb} zoo:style_transfer/wave --target {item.target}"
    return "avsdk devices"


def _show_device(device: Device) -> None:
    from avsdk_targets.device import ARCHITECTURES

    show(f"{device.name}: {device.description}")
    arch = ARCHITECTURES.get(device.arch, "an NVIDIA compute capability")
    lines = {
        "also called": ", ".join(device.aliases),
        "engines, best first": ", ".join(f"{name} (as {device.called_by(name)})" for name in device.engines),
        "architecture": f"{device.arch}: {arch}",
        "instruction sets": ", ".join(device.isa),
        "precisions it has": ", ".join(device.precisions),
        "emulated by": f"toolchain {device.emulation.toolchain}, {device.emulation.cpu}" if device.emulation else "",
        "compiler options": ", ".join(_options(device.options)),
    }
    for label, text in lines.items():
        if text:
            show(f"  {label}: {text}")
    if device.arch in ("host", "host-gpu"):
        return  # the catalogue cannot know what this machine's own parts are rated at
    show("Figures")
    for label, figure in device.figures.items():
        if figure is None:
            show(f"  {label}: {_NOT_FOUND}")
        else:
            show(f"  {label}: {figure.value:g}, {figure.mark}")
            show(f"    {figure.source}")
    if device.served:
        show("Toolchain releases that serve it")
    for engine, served in device.served.items():
        show(f"  {engine}: {served.product} {_releases(served)}, {served.mark}")
        show(f"    {served.source}")


def _options(options: Mapping[str, object], within: str = "") -> Iterator[str]:
    """Each option as ``name = value``, those of a table by both names: ``fp11.fmax_mhz = 275``."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _options(value, f"{within}{name}.")
        else:
            yield f"{within}{name} = {value}"


def _releases(served: Served) -> str:
    """Both ends of the releases in words."""
    ends = [f"from {served.first}" if served.first else "", f"to {served.last}" if served.last else ""]
    return " ".join(end for end in ends if end) or "without a known first or last release"


def _show_diagnosis(found: Sequence[Diagnosis]) -> None:
    table(
        "Targets",
        ("target", "engine", "precisions", "compile", "run", "verified"),
        [
            (
                item.target,
                item.engine or "none",
                " ".join(item.precisions) or "none",
                "yes" if item.can_compile else "no",
                "yes" if item.can_run else "no",
                item.verified,
            )
            for item in found
        ],
    )
    alike: dict[tuple[str, str], list[Diagnosis]] = {}
    for item in found:
        if item.reason:
            alike.setdefault((item.reason, _fix_of_any(item)), []).append(item)
    for (reason, fix), items in alike.items():
        show(f"{', '.join(dict.fromkeys(item.target for item in items))}: {reason}")
        if fix:
            show(f"  fix: {items[0].fix if len({item.fix for item in items}) == 1 else fix}")


def _fix_of_any(item: Diagnosis) -> str:
    """The fix without the device's name, so that devices which lack the same thing share a line."""
    return item.fix.replace(item.device, "that device")
