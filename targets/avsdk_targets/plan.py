"""One target, decided: which of its engines compiles, at which precision, and what was passed over on the way."""

from __future__ import annotations

from dataclasses import dataclass

from avsdk import plugins
from avsdk.errors import NotAvailable, UnknownName
from avsdk.precision import PRECISIONS
from avsdk_targets.compiler import Compiler, Verdict
from avsdk_targets.device import Served
from avsdk_targets.target import Candidate, Target
from avsdk_targets.toolchain import PackageNeed

_NO_GPU = Verdict(
    False,
    "this machine has no NVIDIA GPU that its driver shows",
    "name the GPU that is meant: avsdk devices lists those that can be built for without having one",
)


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
        raise NotAvailable(
            f"nothing can be compiled for {target.name}: {target.withdrawn}",
            expected="a device whose vendor still publishes a compiler or a runtime",
            fix="avsdk devices lists them",
        )
    chosen = target.precision(precision)
    if chosen not in PRECISIONS:
        raise UnknownName.among("precision", chosen, PRECISIONS)
    if target.precisions and chosen not in target.precisions:
        raise NotAvailable(
            f"{target.name} has no {chosen}",
            expected=f"one of: {', '.join(_built(target))}",
            fix=f"--precision {_built(target)[0]}",
        )
    notices = (_unasked_precision(target, chosen),) if precision is None and chosen != "fp32" else ()
    passed: list[str] = []
    fixes: list[str] = []
    for candidate in target.candidates:
        try:
            compiler: Compiler = plugins.load("compilers", candidate.engine)()
        except NotAvailable as error:  # an engine of somebody else's package, which is not whole here
            passed.append(f"{candidate.engine}: {error.failed}")
            fixes.append(error.fix)
            continue
        verdict = check(candidate, compiler, chosen)
        if verdict.ok:
            return Plan(target, candidate, compiler, chosen, tuple(passed), notices)
        if verdict.explains and candidate is target.candidates[-1]:
            return Plan(target, candidate, compiler, chosen, tuple(passed), notices)
        passed.append(f"{candidate.engine}: {verdict.reason}")
        fixes.append(verdict.fix)
    raise NotAvailable(
        f"nothing here can compile for {target.name} at {chosen}: {'; '.join(passed)}",
        expected="an engine whose compiler is installed and serves this device and precision",
        fix=next((fix for fix in fixes if fix), f"avsdk doctor {target.name}"),
    )


def check(candidate: Candidate, compiler: Compiler, precision: str) -> Verdict:
    """Whether the compiler can build for the candidate's device here: its presence where it must be here, the
    toolchain releases that serve it, and the compiler's own word.
    """
    if not candidate.arch:
        return _NO_GPU
    served = candidate.profile.served.get(candidate.engine)
    if served is not None and compiler.package.distribution.startswith(served.product):
        verdict = _in_service(served, compiler, candidate.profile.name)
        if not verdict.ok:
            return verdict
    return compiler.check(candidate.device, candidate.arch, precision)


def buildable(candidate: Candidate, compiler: Compiler) -> tuple[str, ...]:
    """The precisions that the device has and the compiler builds for it, in the profile's order."""
    names = candidate.profile.precisions or compiler.precisions
    return tuple(
        name
        for name in names
        if name in compiler.precisions and not compiler.refusal(candidate.device, candidate.arch, name)
    )


def _in_service(served: Served, compiler: Compiler, device: str) -> Verdict:
    """Whether the releases that serve the device include one that avsdk uses, and the one that is installed."""
    need = compiler.package
    releases = PackageNeed(need.import_name, need.distribution, served.first or "0", _after(served.last))
    too_old = PackageNeed(need.import_name, need.distribution, "0", need.minimum)
    if served.last and too_old.admits(served.last) and not releases.admits(need.minimum):
        return Verdict(False, f"{served.product} {served.last} was the last to serve {device}, and avsdk uses {need}")
    try:
        version = compiler.environment().versions.get(need.distribution, "")
    except NotAvailable:
        return Verdict(True)  # the compiler's own check says what is missing
    if not version or releases.admits(version):
        return Verdict(True)
    limits = " and ".join(
        part
        for part in (served.first and f"{served.first} or newer", served.last and f"{served.last} or older")
        if part
    )
    return Verdict(
        False, f"{served.product} {version} does not serve {device}: it takes {limits}", f"pip install '{releases}'"
    )


def _after(last: str) -> str:
    """The first release after ``last`` and its corrections: 10.4 -> 10.5."""
    head, dot, number = last.rpartition(".")
    return f"{head}{dot}{int(number) + 1}" if last else ""


def _built(target: Target) -> list[str]:
    """The device's precisions that one of its compilers builds, in the profile's order; all where none builds any."""
    compilers: list[Compiler] = [plugins.load("compilers", item.engine)() for item in target.candidates]
    built = [name for name in target.precisions if any(name in item.precisions for item in compilers)]
    return built or list(target.precisions)


def _unasked_precision(target: Target, precision: str) -> str:
    if "fp32" in target.precisions:
        return f"{precision} is built, the first precision of {target.name}'s profile; ask for --precision fp32 instead"
    return f"{target.name} has no fp32: {precision} is built instead, the first precision of its profile"
