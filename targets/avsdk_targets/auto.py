"""``--precision auto``: every precision that the device has and that meets the limits, timed; the fastest is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from avsdk.errors import NotAvailable, NotMet, UsageError
from avsdk.timing import Timed, load_timer
from avsdk_targets.plan import buildable, plan_target
from avsdk_targets.proof import proof_for
from avsdk_targets.target import Target

if TYPE_CHECKING:
    from avsdk_targets.build import Exported

AUTO = "auto"
_BUDGET_S = 60.0


@dataclass(frozen=True)
class Candidates:
    """What was built, and why other precisions were not."""

    built: tuple[Exported, ...]
    passed_over: tuple[str, ...]


def fastest(target: Target, build: Callable[[Target, str], Exported], notice: Callable[[str], None]) -> Exported:
    """The fastest build on this machine. ``build`` makes one at a precision and raises where limits do not hold.

    Raises ``NotAvailable`` where the device is not here or nothing that times bundles is installed, and what the last
    build raised where none was made.
    """
    plan = plan_target(target, None)
    if proof_for(plan.candidate).executed_on != "device":
        raise NotAvailable(
            f"--precision auto takes what is fastest, and {plan.target.name} is not here to be measured",
            expected="a target that is this machine",
            fix="name the precision: --precision P",
        )
    timer = load_timer()
    found = _candidates(target, buildable(plan.candidate, plan.compiler), build, notice)
    if len(found.built) == 1:
        return _chosen(found, 0, ())
    notice(f"measuring {len(found.built)} precisions side by side")
    timed = tuple(timer([item.bundle.path for item in found.built], _BUDGET_S))
    return _chosen(found, min(range(len(timed)), key=lambda place: timed[place].p50_ms), timed)


def _candidates(
    target: Target, precisions: tuple[str, ...], build: Callable[[Target, str], Exported], notice: Callable[[str], None]
) -> Candidates:
    built: list[Exported] = []
    passed: list[str] = []
    last: NotAvailable | NotMet | None = None
    for precision in precisions:
        try:
            item = build(target, precision)
        except (NotAvailable, NotMet) as error:
            last = error
            passed.append(f"{precision}: {error.failed}")
            notice(f"passed over {passed[-1]}")
            continue
        if item.bundle.manifest.parity.verdict == "pass":
            built.append(item)
        else:
            passed.append(f"{precision}: {item.bundle.manifest.parity.reason}")
    if not built:
        raise last or UsageError(f"no precision of {target.name} runs here: {'; '.join(passed)}")
    return Candidates(tuple(built), tuple(passed))


def _chosen(found: Candidates, place: int, timed: tuple[Timed, ...]) -> Exported:
    """The build with what decided for it."""
    taken = found.built[place]
    times = [f"{item.bundle.manifest.precision} {one.p50_ms:.1f} ms" for item, one in zip(found.built, timed)]
    name = taken.bundle.manifest.precision
    reason = f"the fastest here: {', '.join(times)}" if times else "the only one that can be built within the limits"
    return replace(
        taken,
        notices=(f"auto took {name}, {reason}", *taken.notices),
        passed_over=(*taken.passed_over, *found.passed_over),
    )
