"""The commands ``devices`` and ``doctor``; heavy modules are imported inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from avsdk.console import JsonOption, next_step, print_json, show, table

if TYPE_CHECKING:
    from avsdk_targets.device import Device


def devices(
    name: Annotated[str | None, typer.Argument(help="A device's name or alias.")] = None, as_json: JsonOption = False
) -> None:
    """This machine, and the catalogue of devices; with NAME one device and what can be done for it from here."""
    from avsdk.host import probe
    from avsdk.schema import encode
    from avsdk_targets.device import list_devices, load_device
    from avsdk_targets.doctor import diagnose

    if name is not None:
        device = load_device(name)
        diagnosis = diagnose(device.name)
        if as_json:
            print_json({"device": encode(device), "targets": encode(diagnosis)})
            return
        _show_device(device)
        _show_diagnosis(diagnosis)
        next_step(f"avsdk export zoo:style_transfer/wave --target {device.name}")
        return
    host = probe()
    if as_json:
        print_json({"host": encode(host), "devices": [encode(device) for device in list_devices()]})
        return
    show(f"This machine: {host.cpu}, {host.cores} cores, {host.memory_mb} MB, {host.system}")
    show(f"  instruction sets: {', '.join(host.isa) or 'none known'}")
    show(f"  accelerators: {', '.join(host.accelerators) or 'none'}")
    show(f"  runtimes: {', '.join(f'{key} {version}' for key, version in host.libraries.items()) or 'none'}")
    table(
        "Devices",
        ("name", "what", "engines", "precisions", "aliases"),
        [
            (item.name, item.description, ", ".join(item.engines), ", ".join(item.precisions), ", ".join(item.aliases))
            for item in list_devices()
        ],
    )
    next_step("avsdk doctor")


def doctor(
    target: Annotated[str | None, typer.Argument(help="A target, as for export --target.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Per target: can it be compiled for here, can it run here, why not, and the line that would fix it."""
    from avsdk.schema import encode
    from avsdk_targets.doctor import diagnose

    found = diagnose(None if target == "all" else target)
    if as_json:
        print_json({"targets": encode(found)})
        return
    _show_diagnosis(found)
    ready = next((item.target for item in found if item.can_compile and item.can_run), None)
    next_step(f"avsdk export zoo:style_transfer/wave --target {ready}" if ready else found[0].fix or "avsdk devices")


def _show_device(device: Device) -> None:
    show(f"{device.name}: {device.description}")
    show(
        f"  engines: {', '.join(device.engines)}; architecture {device.arch}; precisions {', '.join(device.precisions)}"
    )
    figures = [(f"peak {name}", figure, "T(FL)OP/s") for name, figure in device.peaks.items()]
    figures += [("memory", device.memory_mb, "MiB")] if device.memory_mb else []
    figures += [("bandwidth", device.bandwidth_gb_s, "GB/s")] if device.bandwidth_gb_s else []
    figures += [("power", device.power_w, "W")] if device.power_w else []
    for label, figure, unit in figures:
        show(f"  {label}: {figure.value:g} {unit} ({figure.mark}: {figure.source})")


def _show_diagnosis(found: Any) -> None:
    table(
        "Targets",
        ("target", "engine", "precisions", "compile", "run", "verified"),
        [
            (
                item.target,
                item.engine,
                ", ".join(item.precisions),
                "yes" if item.can_compile else "no",
                "yes" if item.can_run else "no",
                item.verified,
            )
            for item in found
        ],
    )
    for reason, fix in dict.fromkeys((item.reason, item.fix) for item in found if item.reason):
        targets = ", ".join(dict.fromkeys(item.target for item in found if item.reason == reason))
        show(f"{targets}: {reason}")
        show(f"  fix: {fix}")
