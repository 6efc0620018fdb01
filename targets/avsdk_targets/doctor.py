"""Per target: can it be compiled for here? can it run here? if not, why, and the exact line that would fix it."""

from __future__ import annotations

from dataclasses import dataclass

from avsdk import plugins
from avsdk.errors import NotAvailable
from avsdk.session import Availability, Session
from avsdk_targets.compiler import Compiler
from avsdk_targets.target import Candidate, all_targets, resolve


@dataclass(frozen=True)
class Diagnosis:
    """One target with one of its engines.

    ``verified`` says what stands behind the engine on this machine: ``hardware`` (results are compared on the device
    itself), ``emulated``, ``build-only`` (artifacts are made, nothing here can run them), ``contract`` (neither).
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


def diagnose(name: str | None = None) -> tuple[Diagnosis, ...]:
    """Every known target, or the one named, with each of its engines."""
    found = []
    for text in (name,) if name else all_targets():
        target = resolve(text)
        found += [_diagnose(text, candidate, target.precisions) for candidate in target.candidates]
    return tuple(found)


def _diagnose(target: str, candidate: Candidate, device_precisions: tuple[str, ...]) -> Diagnosis:
    compiler: Compiler = plugins.load("compilers", candidate.engine)()
    precisions = tuple(word for word in compiler.precisions if not device_precisions or word in device_precisions)
    default = precisions[0] if precisions else compiler.precisions[0]
    verdict = compiler.check(candidate.device, candidate.arch, default)
    state = _availability(candidate)
    verified = "hardware" if state.ok else "build-only" if verdict.ok else "contract"
    return Diagnosis(
        target=target,
        engine=candidate.engine,
        device=candidate.device,
        precisions=precisions,
        can_compile=verdict.ok,
        can_run=state.ok,
        verified=verified,
        reason="; ".join(
            text
            for text in (
                "" if verdict.ok else f"compile: {verdict.reason}",
                "" if state.ok else f"run: {state.reason}",
            )
            if text
        ),
        fix=verdict.fix or state.fix,
    )


def _availability(candidate: Candidate) -> Availability:
    try:
        session: type[Session] = plugins.load("engines", candidate.engine)
    except NotAvailable as error:
        return Availability(False, error.failed, error.fix)
    return session.availability(candidate.device)
