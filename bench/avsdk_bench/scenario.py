"""The scenarios: how requests arrive at a cell, the settings of each, and what a row says beside its latencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avsdk.errors import UnknownName, UsageError
from avsdk.spec import ModelSpec, Sizes
from avsdk_bench import inputs, loops, statistics, trend
from avsdk_bench.rounds import Round, Settings

SINGLE_STREAM = "single-stream"
MULTI_STREAM = "multi-stream"
OFFLINE = "offline"
SERVER = "server"
REAL_TIME = "real-time"
SOAK = "soak"

OWN, AUTO = "own", "auto"
LOADGEN_NOTE = "measured with LoadGen {}; not an MLPerf result"
LOADGEN_LEAST_S = 1e-4  # LoadGen's own cost of a query, 1-2 us, is at most 2 % of anything longer

KNOWN: Mapping[str, Mapping[str, str]] = {
    SINGLE_STREAM: {},
    MULTI_STREAM: {"samples": "samples in each query (default 8)"},
    OFFLINE: {},
    SERVER: {
        "qps": "queries per second, on average (default: half of what the slowest cell of the same work can do)",
        "latency_ms": "the bound that 99 % of the latencies are to keep",
    },
    REAL_TIME: {
        "period_ms": "time between two hops or frames (default: 40 for pictures, the sound's own length for sounds)",
        "deadline_ms": "how long after its last sample an answer may come (default: the period)",
    },
    SOAK: {"minutes": "how long (default 10)"},
}
_PICTURES_PER_S = 25.0
_SOAK_ROUNDS = 40
_MOST_RUNS = 20_000
_LONG_TURN_S = 30.0


@dataclass(frozen=True)
class Load:
    """One scenario with its settings. ``loop``: ``own``, ``loadgen``, or ``auto``, LoadGen where it is and can."""

    scenario: str = SINGLE_STREAM
    loop: str = OWN
    samples: int = 8
    qps: float | None = None
    latency_ms: float | None = None
    period_ms: float | None = None
    deadline_ms: float | None = None
    minutes: float = 10.0

    def in_use(
        self,
        items: int,
        typical_s: float,
        version: str,
        natural_period_ms: float | None,
        slowest_s: float | None = None,
    ) -> dict[str, Any]:
        """What a cell's turns use: the settings of this scenario, those not given worked out, and the loop.

        ``items`` per run; a run takes ``typical_s``, and ``slowest_s`` in the slowest cell that does the same work, so
        that all of them get the same load; ``version`` is LoadGen's in the cell's Python, empty for none.
        """
        used: dict[str, Any] = {"scenario": self.scenario, "loop": self._loop_for(typical_s, version)}
        if used["loop"] == loops.LOADGEN:
            used["note"] = LOADGEN_NOTE.format(version)
        if self.scenario == MULTI_STREAM:
            used |= {"samples": self.samples, "runs_per_query": math.ceil(self.samples / items)}
        elif self.scenario == SERVER:
            used |= {"qps": self.qps or float(f"{0.5 / (slowest_s or typical_s):.3g}"), "latency_ms": self.latency_ms}
        elif self.scenario == REAL_TIME:
            period = self.period_ms or natural_period_ms
            if period is None:
                raise UsageError(
                    "how often this model gets a hop or a frame is not known",
                    expected="a period",
                    fix="--set real-time.period_ms=MS",
                )
            used |= {"period_ms": period, "deadline_ms": self.deadline_ms or period}
        elif self.scenario == SOAK:
            used["minutes"] = self.minutes
        return used

    def _loop_for(self, typical_s: float, version: str) -> str:
        if self.scenario in (REAL_TIME, SOAK) or self.loop == OWN:
            return OWN
        if self.loop == loops.LOADGEN:
            return loops.LOADGEN
        return loops.LOADGEN if version and typical_s >= LOADGEN_LEAST_S else OWN

    def method(self, *, budget_s: float, rounds: int, seed: int) -> Settings:
        """How the rounds are made: a soak takes its own time to the end; an offline query is as long as can be."""
        if self.scenario == SOAK:
            least = max(rounds, _SOAK_ROUNDS)
            return Settings(self.minutes * 60.0, least, seed, most_runs=_MOST_RUNS, to_the_end=True)
        if self.scenario == OFFLINE:
            return Settings(budget_s, rounds, seed, most_runs=_MOST_RUNS, turn_s=_LONG_TURN_S)
        return Settings(budget_s, rounds, seed)

    def words(self) -> list[str]:
        """The options of ``avsdk bench`` that ask for this."""
        given = {key: value for key, value in asdict(self).items() if value != getattr(Load(), key)}
        words = ["--scenario", self.scenario] if self.scenario != SINGLE_STREAM else []
        words += ["--loop", self.loop] if self.loop != AUTO else []
        for name in KNOWN[self.scenario]:
            if name in given:
                words += ["--set", f"{self.scenario}.{name}={given[name]:g}"]
        return words


def seconds_per_sample(used: Mapping[str, Any], typical_s: float) -> float:
    """How long a turn lasts per query (per run for ``offline``), for a cell that takes ``typical_s`` per run."""
    if used["scenario"] == MULTI_STREAM:
        return typical_s * int(used["runs_per_query"])
    if used["scenario"] == SERVER:
        return max(typical_s, 1.0 / float(used["qps"]))
    if used["scenario"] == REAL_TIME:
        return max(typical_s, float(used["period_ms"]) / 1e3)
    return typical_s


def load_from(scenario: str, loop: str, settings: Mapping[str, str]) -> tuple[Load, dict[str, str]]:
    """The load of ``--scenario``, ``--loop`` and those ``--set SCENARIO.NAME=VALUE`` that are its; and the other ones.

    Raises ``UsageError`` for LoadGen in a scenario that it does not have, for settings of another scenario, and for
    values that cannot be.
    """
    if loop == loops.LOADGEN and scenario in (REAL_TIME, SOAK):
        raise UsageError(f"LoadGen has no scenario {scenario!r}", expected="--loop own", fix="leave --loop out")
    own: dict[str, float] = {}
    others: dict[str, str] = {}
    for key, value in settings.items():
        owner, _, name = key.partition(".")
        if owner not in KNOWN:
            others[key] = value
            continue
        if owner != scenario:
            raise UsageError(f"--set {key} is a setting of another scenario", expected=f"--scenario {owner}")
        if name not in KNOWN[scenario]:
            raise UnknownName.among(f"setting of {scenario}", name, KNOWN[scenario])
        own[name] = _positive(key, value)
    whole = {"samples": int(own["samples"])} if "samples" in own else {}
    if whole and whole["samples"] != own["samples"]:
        raise UsageError(f"multi-stream.samples is {own['samples']:g}", expected="a whole number")
    return replace(Load(scenario, loop), **{**own, **whole}), others  # type: ignore[arg-type]


def _positive(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"--set {key}={text}", expected="a number above 0")
    return value


def natural_period_ms(spec: ModelSpec, sizes: Sizes) -> float | None:
    """How often a live source fills the model's input: pictures at 25 a second, sounds by their own length."""
    first = spec.preprocess[0] if spec.preprocess else None
    if first is not None and first.op == "image_rgb":
        return 1000.0 / _PICTURES_PER_S
    samples = inputs.sound_samples(spec, sizes)
    return None if samples is None or first is None else 1000.0 * samples / int(first.params["sample_rate_hz"])


def throughput_per_s(used: Mapping[str, Any], items: int, turns: Sequence[Round], cell: int) -> float:
    """Items answered per second; where requests are paced, from the first arrival to the last answer of each turn."""
    found = [turn.samples[cell] for turn in turns]
    n, name = sum(map(len, found)), used.get("scenario")
    if name == SERVER:
        ends = [loops.poisson_arrivals_ns(turn.seed, float(used["qps"]), len(turn.samples[cell])) for turn in turns]
        spans = [int((arrivals + latencies).max()) for arrivals, latencies in zip(ends, found, strict=True)]
    elif name == REAL_TIME:
        spans = [int(latencies[-1] + len(latencies) * float(used["period_ms"]) * 1e6) for latencies in found]
    else:
        spans = [int(latencies.sum()) for latencies in found]
    per_sample = int(used["samples"]) if name == MULTI_STREAM else items
    return per_sample * n / (sum(spans) / 1e9)


def outcome(used: Mapping[str, Any], turns: Sequence[Round], cell: int) -> dict[str, Any]:
    """What the scenario says beside latencies, over the used rounds."""
    found = [turn.samples[cell] for turn in turns]
    if used.get("scenario") == SERVER:
        return _served(used, found)
    if used.get("scenario") == REAL_TIME:
        return _kept_up(used, found)
    if used.get("scenario") == SOAK:
        return _endured(found, [(turn.at_s[cell], turn.rss_mb[cell]) for turn in turns])
    return {}


def _served(used: Mapping[str, Any], turns_ns: Sequence[NDArray[np.int64]]) -> dict[str, Any]:
    pooled = np.concatenate(turns_ns) / 1e6
    bound, p99 = used.get("latency_ms"), statistics.percentile_bound(pooled, 0.99)
    found: dict[str, Any] = {"arrivals": "poisson", "qps": used["qps"]}
    if bound is not None:
        over = float(np.mean(pooled > bound))
        found |= {"over_bound_share": round(over, 6), "p99_within_bound": None if p99 is None else p99 <= bound}
    return found


def _kept_up(used: Mapping[str, Any], turns_ns: Sequence[NDArray[np.int64]]) -> dict[str, Any]:
    """Deadlines, backlog and jitter; all follow from the latencies, since item i was complete at (i + 1) periods."""
    period, deadline = float(used["period_ms"]), float(used["deadline_ms"])
    turns = [turn / 1e6 for turn in turns_ns]
    pooled = np.concatenate(turns)
    waiting = np.floor(pooled / period)  # items that came while this one was not yet answered
    gaps = np.concatenate([period + np.diff(turn) for turn in turns])
    return {
        "period_ms": period,
        "deadline_ms": deadline,
        "items": len(pooled),
        "misses": int(np.sum(pooled > deadline)),
        "miss_rate": round(float(np.mean(pooled > deadline)), 6),
        "backlog_max": int(waiting.max()),
        "backlog_mean": round(float(waiting.mean()), 4),
        "jitter_ms": round(float(np.std(gaps)), 6) if gaps.size else None,
        "worst_ms": round(float(pooled.max()), 6),
    }


def _endured(turns_ns: Sequence[NDArray[np.int64]], memory: Sequence[tuple[float, float | None]]) -> dict[str, Any]:
    """Slopes over the rounds: of resident memory in MB per hour, of the median latency in percent per hour."""
    hours = [at_s / 3600.0 for at_s, _ in memory]
    medians = [float(np.median(turn)) / 1e6 for turn in turns_ns]
    latency = trend.slope(hours, medians)
    known = [(hour, rss) for hour, (_, rss) in zip(hours, memory, strict=True) if rss is not None]
    resident = trend.slope([hour for hour, _ in known], [rss for _, rss in known])
    level = float(np.median(medians)) / 100.0
    found: dict[str, Any] = {"minutes": round((hours[-1] - hours[0]) * 60.0, 3) if hours else 0.0}
    for name, slope, unit in (("rss_mb_per_h", resident, 1.0), ("latency_percent_per_h", latency, level)):
        found[name] = None if slope is None else round(slope.value / unit, 4)
        found[f"{name}_ci"] = None if slope is None else [round(slope.low / unit, 4), round(slope.high / unit, 4)]
        found[f"{name.partition('_')[0]}_verdict"] = "not known" if slope is None else trend.verdict(slope)
    return found
