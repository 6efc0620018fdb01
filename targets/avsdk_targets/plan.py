"""One target, decided: which of its engines compiles, at which precision, and what was passed over on the way."""

from __future__ import annotations

from dataclasses import dataclass

from avsdk import plugins
from avsdk.errors import NotAvailable, UnknownName
from avsdk.precision import PRECISIONS
from avsdk_targets.compiler import Compiler
from avsdk_targets.target import Candidate, Target


@dataclass(frozen=True)
class Plan:
    """One target, decided: which engine, which precision, and what was passed over on the way."""

    target: Target
    candidate: Candidate
    compiler: Compiler
    precision: str
    passed_over: tuple[str, ...]
    notices: tuple[str, ...] = ()


def plan_target(target: Target, precision: str | None) -> Plan:
    """Take the first engine of the target that can compile here. Raises ``NotAvailable`` naming every reason."""
    if target.withdrawn:
        raise NotAvailable(f"{target.name} cannot be compiled for: {target.withdrawn}", fix="avsdk devices")
    chosen = target.precision(precision)
    if chosen not in PRECISIONS:
        raise UnknownName.among("precision", chosen, PRECISIONS)
    if target.precisions and chosen not in target.precisions:
        raise NotAvailable(
            f"{target.name} has no {chosen}",
            expected=f"one of: {', '.join(_served(target))}",
            fix=f"--precision {_served(target)[0]}",
        )
    notices = (_unasked_precision(target, chosen),) if precision is None and chosen != "fp32" else ()
    passed: list[str] = []
    fixes: list[str] = []
    for candidate in target.candidates:
        compiler: Compiler = plugins.load("compilers", candidate.engine)()
        verdict = compiler.check(candidate.device, candidate.arch, chosen)
        if verdict.ok:
            return Plan(target, candidate, compiler, chosen, tuple(passed), notices)
        passed.append(f"{candidate.engine}: {verdict.reason}")
        fixes.append(verdict.fix)
    raise NotAvailable(
        f"nothing here can compile for {target.name} at {chosen}: {'; '.join(passed)}",
        expected="an engine whose compiler is installed and serves this device and precision",
        fix=next((fix for fix in fixes if fix), f"avsdk doctor {target.name}"),
    )


def _served(target: Target) -> list[str]:
    """The device's precisions that one of its compilers builds, in the profile's order; all where none builds any."""
    compilers: list[Compiler] = [plugins.load("compilers", item.engine)() for item in target.candidates]
    built = [name for name in target.precisions if any(name in item.precisions for item in compilers)]
    return built or list(target.precisions)


def _unasked_precision(target: Target, precision: str) -> str:
    return f"{target.name} has no fp32: {precision} is built instead, the first precision of its profile"
