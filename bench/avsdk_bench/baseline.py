"""An older report beside the new one: is it really slower, and what was measured then and not now.

A limit of ``--fail-if`` is ``METRIC>+N%`` or ``METRIC<-N%``. It is beyond only when the whole 95 % interval of the
change lies beyond it; what noise may explain is "not shown", and said to be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import NotMet, UsageError
from avsdk.host import Host
from avsdk_bench import statistics
from avsdk_bench.calibration import DRIFT_LIMIT
from avsdk_bench.plan import CellPlan, sizes_text
from avsdk_bench.records import Elsewhere, Judged
from avsdk_bench.report import Report, Row, Status

METRICS = ("p50", "p90", "p99", "throughput", "cold_start", "peak_rss", "size")
_LIMIT = re.compile(rf"({'|'.join(METRICS)})\s*([<>])\s*([+-]\d+(?:\.\d+)?)\s*%")
_RESAMPLES = 1000
_LEAST_COLD_STARTS = 5
_TIMES = {"p50", "p90", "p99", "throughput", "cold_start"}
_MEMORY_SHARE = 0.05

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Limit:
    """One limit: ``share`` is the change that may not be passed, 0.05 for +5 %; ``above``: whether more fails."""

    metric: str
    above: bool
    share: float
    text: str


@dataclass(frozen=True)
class Change:
    """A metric then and now; ``low`` and ``high`` are the ends of the 95 % interval of the change as a share."""

    was: float
    now: float
    low: float
    high: float


def limit_from_text(text: str) -> Limit:
    """Parse ``p50>+5%``. Raises ``UsageError``."""
    found = _LIMIT.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"--fail-if {text!r} is no limit",
            expected=f"METRIC>+N% or METRIC<-N%, METRIC one of {', '.join(METRICS)}",
            fix="--fail-if 'p50>+5%'",
        )
    return Limit(found[1], found[2] == ">", float(found[3]) / 100.0, "".join(text.split()))


def require_same_machine(baseline: Report, here: Host) -> None:
    """Raise ``UsageError`` where the baseline is another machine's: its speed says nothing of this one's."""
    _require_alike(baseline.host, here)


def _require_alike(then: Host, here: Host) -> None:
    for name in ("cpu", "arch", "cores", "cgroup_cpus", "accelerators"):
        was, now = getattr(then, name), getattr(here, name)
        if was != now:
            raise _unlike(f"{name} was {_shown(was)}, is {_shown(now)}")
    if abs(here.memory_mb - then.memory_mb) > _MEMORY_SHARE * max(here.memory_mb, then.memory_mb):
        raise _unlike(f"memory was {then.memory_mb} MB, is {here.memory_mb} MB")


def pairs_of(cells: Sequence[CellPlan | Row], baseline: Report) -> dict[int, int]:
    """Place of each cell -> place of the baseline's row of the same work; the same cell twice takes the next one."""
    found: dict[int, int] = {}
    for place, item in enumerate(cells):
        if isinstance(item, Row) and item.status == "predicted":
            continue
        same = [
            other
            for other, row in enumerate(baseline.rows)
            if row.status == "measured" and other not in found.values() and _key(row) == _key(item)
            if isinstance(item, CellPlan) or row.machine == item.machine
        ]
        named = [other for other in same if _name(baseline.rows[other]) == _name(item)]
        if same:
            found[place] = (named or same)[0]
    return found


def require_pairs(cells: Sequence[CellPlan | Row], baseline: Report) -> None:
    """Raise ``UsageError``, before anything is measured, where the baseline knows none of the cells."""
    if pairs_of(cells, baseline) or not cells:
        return
    rows = [row for row in baseline.rows if row.status == "measured"]
    if not rows:
        raise UsageError("the baseline has no measured row", expected="a report of avsdk bench --out")
    wanted = _key(cells[0])
    nearest = min(rows, key=lambda row: sum(a != b for a, b in zip(_key(row), wanted, strict=True)))
    names = ("graph", "engine", "device", "precision", "sizes", "threads", "scenario", "settings")
    unlike = [
        f"{name} was {_shown(was)}, is {_shown(now)}"
        for name, was, now in zip(names, _key(nearest), wanted, strict=True)
        if was != now
    ]
    raise UsageError(
        f"the baseline has no cell like {_name(cells[0])}: of the nearest, {'; '.join(unlike)}",
        expected="the same graph, engine, device, precision, sizes, threads, scenario and settings",
        fix="repeat the baseline's command: " + baseline.command,
    )


def judge(report: Report, baseline: Report, limits: Sequence[Limit]) -> tuple[Judged, ...]:
    """Every limit on every measured row that has its like in the baseline."""
    pairs = pairs_of(report.rows, baseline)
    found = []
    for place, row in enumerate(report.rows):
        if place not in pairs:
            continue
        was = baseline.rows[pairs[place]]
        then, now = _origin(baseline, was), _origin(report, row)
        for limit in limits:
            try:
                _require_alike(then.host, now.host)
                found.append(_judged(place, limit, row, was, _machine_drift(then, now)))
            except UsageError as error:
                found.append(Judged(place, limit.metric, limit.text, "not shown", reason=error.failed))
    return tuple(found)


def require_within(report: Report) -> None:
    """Raise ``NotMet`` with the intervals of the limits that were passed."""
    beyond = [item for item in report.baseline if item.verdict == "beyond"]
    if beyond:
        raise NotMet(
            "; ".join(f"{report.rows[item.row].label}: {sentence(item)}" for item in beyond),
            expected=", ".join(dict.fromkeys(f"not {item.limit}" for item in beyond)),
            fix="find the change that did it, or write a new baseline with --out if it is meant",
        )


def sentence(item: Judged) -> str:
    """What is to be said of one verdict: ``p50 is +6.1 % [+5.4, +6.9], beyond >+5%``."""
    if item.change is None or item.change_ci is None:
        return f"{item.limit} is not shown: {item.reason}"
    low, high = (100 * end for end in item.change_ci)
    spread = f" [{low:+.2f}, {high:+.2f}]" if low != high else ""
    found = f"{item.metric} changed by {100 * item.change:+.2f} %{spread}"
    because = f" ({item.reason})" if item.reason else ""
    return f"{found}: {item.limit} is {item.verdict if item.verdict != 'beyond' else 'passed'}{because}"


def with_replayed(report: Report, baseline: Report, name: str) -> Report:
    """The report with the baseline's rows that were not measured now, marked, and their comparisons."""
    known = {
        other
        for place, other in pairs_of(report.rows, baseline).items()
        if _is_alike(_origin(baseline, baseline.rows[other]).host, _origin(report, report.rows[place]).host)
    }
    places: dict[int, int] = {}
    rows = list(report.rows)
    predicted_now = {_key(row) for row in report.rows if row.status == "predicted"}
    for place, row in enumerate(baseline.rows):
        if row.status == "predicted" and _key(row) in predicted_now:
            continue
        if place not in known and row.status != "unavailable":
            places[place] = len(rows)
            status: Status = "predicted" if row.status == "predicted" else "replayed"
            rows.append(replace(row, status=status, machine=f"{name} {row.machine}".strip()))
    if not places:
        return report
    compared = tuple(
        replace(item, row=places[item.row], reference=places[item.reference])
        for item in baseline.comparisons
        if item.row in places and item.reference in places
    )
    origins = {name: elsewhere_of(baseline)} | {f"{name} {key}": item for key, item in baseline.elsewhere.items()}
    return replace(
        report, rows=tuple(rows), comparisons=report.comparisons + compared, elsewhere={**report.elsewhere, **origins}
    )


def _judged(place: int, limit: Limit, row: Row, was: Row, drift: str) -> Judged:
    bare = Judged(place, limit.metric, limit.text, "not shown")
    if row.status != "measured":
        return replace(bare, reason="it could not be measured now")
    found = _change(limit.metric, row, was)
    if isinstance(found, str):
        return replace(bare, reason=found)
    change = found.now / found.was - 1.0
    facts: dict[str, Any] = {
        "was": found.was, "now": found.now, "change": round(change, 5),
        "change_ci": (round(found.low, 5), round(found.high, 5)),
    }  # fmt: skip
    if drift and limit.metric in _TIMES:
        return replace(bare, **facts, reason=drift)
    passed = found.low > limit.share if limit.above else found.high < limit.share
    kept = found.high <= limit.share if limit.above else found.low >= limit.share
    if passed or kept:
        return replace(bare, **facts, verdict="beyond" if passed else "within")
    return replace(bare, **facts, reason="the interval reaches across the limit")


def _change(metric: str, row: Row, was: Row) -> Change | str:
    """The change, or why none can be stated."""
    if metric in ("peak_rss", "size"):
        then, now = ((item.peak_rss_mb if metric == "peak_rss" else item.size_mb) for item in (was, row))
        if not then or now is None:
            return "it is not known for both"
        return Change(then, now, now / then - 1.0, now / then - 1.0)
    if metric == "cold_start":
        return _change_of([np.asarray(item.starts_ms) for item in (was, row)], np.median, _LEAST_COLD_STARTS)
    rounds = [[np.asarray(part) for part in item.samples_ms if part] for item in (was, row)]
    if metric == "p50":
        return _change_of([np.array([np.median(part) for part in item]) for item in rounds], np.median, 2)
    if metric == "throughput":
        means = [np.array([1e3 / part.mean() for part in item]) for item in rounds]
        return _change_of(means, lambda values, axis=None: 1.0 / np.mean(1.0 / values, axis=axis), 2)
    return _change_of_tail(int(metric[1:]) / 100.0, rounds)


def _change_of(values: Sequence[Floats], middle: Callable[..., Any], least: int) -> Change | str:
    """The change of a middle over rounds; rounds are resampled, each side by itself."""
    if any(len(side) < least for side in values):
        counts = " and ".join(str(len(side)) for side in values)
        return f"{counts} values then and now, {least} are needed for an interval"
    random = np.random.default_rng(0)
    drawn = [middle(side[random.integers(0, len(side), (_RESAMPLES, len(side)))], axis=1) for side in values]
    return _interval(float(middle(values[0])), float(middle(values[1])), drawn[1] / drawn[0])


def _change_of_tail(share: float, rounds: Sequence[Sequence[Floats]]) -> Change | str:
    needed = statistics.minimum_samples(share)
    counts = [sum(map(len, side)) for side in rounds]
    if min(counts) < needed or min(map(len, rounds)) < 2:
        return f"{counts[0]} samples then and {counts[1]} now, p{100 * share:.0f} needs {needed} in two rounds or more"
    random = np.random.default_rng(0)
    drawn = []
    for side in rounds:
        chosen = random.integers(0, len(side), (_RESAMPLES // 4, len(side)))
        drawn.append(np.array([np.quantile(np.concatenate([side[at] for at in places]), share) for places in chosen]))
    was, now = (float(np.quantile(np.concatenate(list(side)), share)) for side in rounds)
    return _interval(was, now, drawn[1] / drawn[0])


def _interval(was: float, now: float, ratios: Floats) -> Change:
    tail = (1.0 - statistics.CONFIDENCE) / 2.0
    low, high = np.quantile(ratios, [tail, 1.0 - tail])
    low, high = float(low) * (1.0 - statistics.PLACEMENT), float(high) * (1.0 + statistics.PLACEMENT)
    return Change(round(was, 6), round(now, 6), low - 1.0, high - 1.0)


def _machine_drift(then: Elsewhere, now: Elsewhere) -> str:
    """Says so where the calibration kernel took another time then: the machine changed, whatever the model did."""
    if not then.calibration_ms or not now.calibration_ms:
        return ""
    change = now.calibration_ms / then.calibration_ms - 1.0
    if abs(change) <= DRIFT_LIMIT:
        return ""
    return f"the machine itself took {change:+.0%} of time for the calibration kernel: measure both again in quiet"


def _is_alike(then: Host, here: Host) -> bool:
    try:
        _require_alike(then, here)
    except UsageError:
        return False
    return True


def _origin(report: Report, row: Row) -> Elsewhere:
    """Where a row was measured."""
    return report.elsewhere[row.machine] if row.machine else elsewhere_of(report)


def elsewhere_of(report: Report) -> Elsewhere:
    """What a report says of its machine and its making, to stand in another one."""
    kernel = [before for before, _ in report.method.calibration_ms]
    return Elsewhere(
        host=report.host,
        date=report.date,
        command=report.command,
        avsdk=report.avsdk,
        noise=report.noise,
        rounds=report.method.rounds,
        void_rounds=report.method.void_rounds,
        stopped_by=report.method.stopped_by,
        machine=report.machine,
        calibration_ms=float(np.median(kernel)) if kernel else None,
    )


def _key(item: CellPlan | Row) -> tuple[object, ...]:
    sizes = item.shapes if isinstance(item, Row) else item.sizes
    scenario = item.scenario if isinstance(item, Row) else item.load.scenario
    return (
        item.graph, item.engine, item.device, item.precision, sizes_text(sizes), item.threads, str(scenario),
        tuple(sorted(item.settings.items())),
    )  # fmt: skip


def _name(item: CellPlan | Row) -> str:
    return str(item.bundle).rstrip("/").rpartition("/")[2]


def _shown(value: object) -> str:
    return str(value) if value not in (None, "", ()) else "none"


def _unlike(text: str) -> UsageError:
    return UsageError(
        f"the baseline was measured on another machine: {text}",
        expected="a baseline of this machine",
        fix="measure one here with --out; without --fail-if the old rows are shown beside the new, as replayed",
    )
