"""Per target: can it be compiled for here? can it run here? if not, why, and the exact line that would fix it."""

from __future__ import annotations

from dataclasses import dataclass

from avsdk import host, plugins
from avsdk.errors import NotAvailable, UnknownName
from avsdk.session import Availability, Session
from avsdk_targets.compiler import Compiler, Verdict
from avsdk_targets.device import load_device
from avsdk_targets.plan import buildable, check
from avsdk_targets.presence import is_here, names_here
from avsdk_targets.proof import proof_for, stood_in_for
from avsdk_targets.target import Candidate, Target, all_targets, baseline_targets, resolve
from avsdk_targets.toolchain import installed, list_toolchains

GRADES = {
    "hardware": "results are compared on the device itself",
    "emulated": "results are compared under emulation of its processor",
    "build-only": "artifacts are made; what is compared is compared elsewhere than on the device, or not at all",
    "contract": "not even the compiler is here; our own logic is tested against a recorded stand-in at the most",
}
"""What may stand behind an engine on a device, strongest first."""

_ANOTHER_DEVICE = "choose another device: avsdk devices"


@dataclass(frozen=True)
class Diagnosis:
    """One target with one of its engines.

    ``verified`` is what stands behind it on this machine, a word of ``GRADES``. ``engine`` is empty for a device that
    its vendor has withdrawn. ``reason`` and ``fix`` are empty where nothing is missing.
    """

    target: str
    engine: str
    device: str
    precisions: tuple[str, ...]
    can_compile: bool
    can_run: bool
    verified: str
    reason: str
    fix: str
    profile: str = ""
    vendor: str = ""
    description: str = ""


def diagnose(name: str | None = None) -> tuple[Diagnosis, ...]:
    """Every known target, or the one named, with each of its engines. Raises ``UnknownName`` for another name."""
    states: dict[tuple[str, str], Availability] = {}
    found: list[Diagnosis] = []
    for text in (name,) if name is not None else (*all_targets(), *baseline_targets()):
        target = resolve(text)
        found += [_withdrawn(target)] if target.withdrawn else []
        found += [_diagnose(target, candidate, states) for candidate in target.candidates]
    return tuple(found)


@dataclass(frozen=True)
class Place:
    """Where a diagnosis holds: this machine's processor and accelerators, and the toolchains that are installed."""

    cpu: str
    accelerators: tuple[str, ...]
    toolchains: tuple[str, ...]


def this_place() -> Place:
    """What the diagnoses of this machine rest on."""
    machine = host.probe()
    toolchains = tuple(item.name for item in list_toolchains() if installed(item) is not None)
    return Place(machine.cpu, machine.accelerators, toolchains)


def _diagnose(target: Target, candidate: Candidate, states: dict[tuple[str, str], Availability]) -> Diagnosis:
    precisions, verdict = _compilation(candidate)
    key = (candidate.engine, candidate.device)
    if key not in states:
        states[key] = _availability(candidate)
    state = _on_the_device(candidate, states[key])
    reasons = {"compile": "" if verdict.ok else verdict.reason, "run": "" if state.ok else state.reason}
    return Diagnosis(
        target=target.name,
        engine=candidate.engine,
        device=candidate.device,
        precisions=precisions,
        can_compile=verdict.ok,
        can_run=state.ok,
        verified=_grade(candidate, verdict, state),
        reason="; ".join(f"{what}: {reason}" for what, reason in reasons.items() if reason),
        # Where nothing can be built, nothing can be copied to the device either.
        fix=state.fix if verdict.ok else verdict.fix or _ANOTHER_DEVICE,
        profile=candidate.profile.name,
        vendor=candidate.profile.vendor,
        description=candidate.profile.description,
    )


def _compilation(candidate: Candidate) -> tuple[tuple[str, ...], Verdict]:
    """The precisions that can be built for the device, and whether the first of them can be built here."""
    try:
        compiler: Compiler = plugins.load("compilers", candidate.engine)()
    except NotAvailable as error:
        return (), Verdict(False, error.failed, error.fix)
    precisions = buildable(candidate, compiler)
    asked = next(iter(precisions or candidate.profile.precisions or compiler.precisions), "fp32")
    return precisions, check(candidate, compiler, asked)


def _grade(candidate: Candidate, verdict: Verdict, state: Availability) -> str:
    if state.ok:
        return "hardware"
    if not verdict.ok:
        return "contract"
    return "emulated" if proof_for(candidate).executed_on == "emulated" else "build-only"


def _availability(candidate: Candidate) -> Availability:
    """Whether the engine runs on what it calls the device, whichever device of the catalogue that is."""
    try:
        session: type[Session] = plugins.load("engines", candidate.engine)
    except (NotAvailable, UnknownName) as error:
        return Availability(False, error.failed, error.fix)
    state = session.availability(candidate.device)
    if state.ok and stood_in_for(session, candidate.device):
        names = ", ".join(session.stand_in(candidate.device))
        return Availability(False, f"this processor stands in for it, as {names} asks", f"unset {names}")
    return state


def _on_the_device(candidate: Candidate, state: Availability) -> Availability:
    """The same for the very device: a Xeon's artifact runs on any x86 processor, but only that Xeon is the device."""
    if is_here(candidate.profile) is not False:
        return state
    here = f"this machine is another ({', '.join(names_here())})"
    fix = "copy the bundle to the device, and there: avsdk doctor"
    if not state.ok:
        return Availability(False, f"{here}, which cannot run what is built for it", fix)
    if proof_for(candidate).executed_on == "emulated":
        return Availability(False, f"{here}; results are compared under emulation", fix)
    return Availability(False, f"{here}; it runs the same files, and results are compared on it", fix)


def _withdrawn(target: Target) -> Diagnosis:
    device = load_device(target.name)
    return Diagnosis(
        target=target.name,
        engine="",
        device=device.name,
        precisions=(),
        can_compile=False,
        can_run=False,
        verified="contract",
        reason=target.withdrawn,
        fix=_ANOTHER_DEVICE,
        profile=device.name,
        vendor=device.vendor,
        description=device.description,
    )
