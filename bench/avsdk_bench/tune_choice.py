"""What was found out about configurations, which of them no other beats, and which is the best within limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from avsdk.errors import NotMet, UsageError
from avsdk.precision import TOLERANCES
from avsdk_bench.report import Row
from avsdk_bench.tune_space import Configuration, sizes_key
from avsdk_targets.limits import Limits as AccuracyLimits

_AS_FP32_DB = TOLERANCES["fp32"].snr_db
"""An SNR above this is fp32's own rounding, in which no configuration is better than another."""

Stage = Literal["rejected", "screened", "final", "predicted"]


@dataclass(frozen=True)
class Tuned:
    """One configuration and what is known of it.

    ``rows``: a row of the bench per graph, or one for the whole pipeline; none where it was rejected, with the
    ``reason``. ``drop``: the share of its fp32 value that the family's metric lost. ``snr_db``: against fp32.
    """

    configuration: Configuration
    stage: Stage
    rows: tuple[Row, ...] = ()
    snr_db: float | None = None
    drop: float | None = None
    reason: str = ""

    @property
    def latency_ms(self) -> float:
        """The median of one pass: of the graphs one after the other where each has a row of its own."""
        return math.fsum(row.p50_ms or math.inf for row in self.rows) if self.rows else math.inf

    @property
    def latency_ci_ms(self) -> tuple[float, float] | None:
        """Its 95 % interval; of several graphs the sums of the ends, which is never too narrow."""
        ends = [row.p50_ci_ms for row in self.rows if row.p50_ci_ms is not None]
        if not ends or len(ends) < len(self.rows):
            return None
        return math.fsum(low for low, _ in ends), math.fsum(high for _, high in ends)

    @property
    def item_ms(self) -> float:
        """The time per item: of a batch its part."""
        return self.latency_ms / self.configuration.sizes.get("batch", 1)

    @property
    def work(self) -> int:
        """How large the input is, a batch left out; 1 at the model's default sizes."""
        return math.prod(size for name, size in self.configuration.sizes.items() if name != "batch")

    @property
    def size_mb(self) -> float | None:
        """What is loaded."""
        return _sum([row.size_mb for row in self.rows])

    @property
    def memory_mb(self) -> float | None:
        """The peak of resident memory; of several graphs the sum, as one process would hold them all."""
        return _sum([row.peak_rss_mb for row in self.rows])

    @property
    def loss(self) -> float | None:
        """How much accuracy it costs, less is better: the drop where it is known, else the SNR, sign reversed."""
        if self.drop is not None:
            return self.drop
        return None if self.snr_db is None else -min(self.snr_db, _AS_FP32_DB)

    def objectives(self) -> tuple[float, ...]:
        """Time per item, latency, loss, size and memory, each to be as low as can be; infinite where it is not known.

        Memory counts in whole MB: what is less than that differs from start to start.
        """
        memory = None if self.memory_mb is None else float(round(self.memory_mb))
        known = (math.inf if value is None else value for value in (self.loss, self.size_mb, memory))
        return (self.item_ms, self.latency_ms, *known)

    @property
    def league(self) -> tuple[str, ...]:
        """What is compared with each other: what this machine measured, at the same sizes; a prediction by device."""
        sizes = sizes_key({name: size for name, size in self.configuration.sizes.items() if name != "batch"})
        return (sizes, self.configuration.target) if self.stage == "predicted" else (sizes,)


@dataclass(frozen=True)
class Limits:
    """What the user set; None for no limit. ``max_drop`` is a share: 0.01 for 1 %."""

    max_latency_ms: float | None = None
    max_drop: float | None = None
    min_snr_db: float | None = None
    max_size_mb: float | None = None

    def __post_init__(self) -> None:
        for option, value in (("--max-latency-ms", self.max_latency_ms), ("--max-size-mb", self.max_size_mb)):
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{option} {value:g}", expected="more than 0", fix=f"leave out {option}")

    def of_accuracy(self) -> AccuracyLimits:
        """Those that a build can be held to. Raises ``UsageError`` for ones that nothing can meet."""
        return AccuracyLimits(self.max_drop, self.min_snr_db)

    def excess(self, item: Tuned) -> dict[str, float]:
        """By how much each limit is missed, as a share of it: above 0 where it is; infinite where it is not known."""
        upper = {
            "latency": (item.latency_ms, self.max_latency_ms), "drop": (item.drop, self.max_drop),
            "size": (item.size_mb, self.max_size_mb),
        }  # fmt: skip
        found = {
            name: math.inf if value is None else value / limit - 1.0
            for name, (value, limit) in upper.items()
            if limit is not None
        }
        if self.min_snr_db is not None:
            found["SNR"] = math.inf if item.snr_db is None else 1.0 - item.snr_db / self.min_snr_db
        return found

    def misses(self, item: Tuned) -> tuple[str, ...]:
        """The limits that it misses, each with its value."""
        values = {
            "latency": (item.latency_ms, self.max_latency_ms, "ms", ">"),
            "drop": (_percent(item.drop), _percent(self.max_drop), "%", ">"),
            "size": (item.size_mb, self.max_size_mb, "MB", ">"),
            "SNR": (item.snr_db, self.min_snr_db, "dB", "<"),
        }
        found = []
        for name, share in self.excess(item).items():
            value, limit, unit, sign = values[name]
            if share > 0:
                text = "unknown" if value is None else f"{value:.4g} {unit}"
                found.append(f"{name} {text} {sign if value is not None else 'for'} {limit:.4g} {unit}")
        return tuple(found)

    def words(self) -> list[str]:
        """The options that say this."""
        given = {
            "--max-latency-ms": _text(self.max_latency_ms), "--min-snr-db": _text(self.min_snr_db),
            "--max-size-mb": _text(self.max_size_mb),
            "--max-drop": None if self.max_drop is None else f"{100 * self.max_drop:g}%",
        }  # fmt: skip
        return [word for option, value in given.items() if value is not None for word in (option, value)]


def comparable(items: Sequence[Tuned]) -> list[int]:
    """The places of those whose figures may be ranked: in a league that has paired rounds, those of the rounds alone.

    Another batch was measured at another time, when the machine may have been faster or slower.
    """
    paired = {item.league for item in items if item.rows and item.stage == "final"}
    return [
        place for place, item in enumerate(items) if item.rows and (item.league not in paired or item.stage == "final")
    ]


def front(items: Sequence[Tuned]) -> list[int]:
    """The places of those that no other of their league beats: at least as low in every objective, lower in one."""
    known = [(place, items[place]) for place in comparable(items)]
    return [
        place
        for place, item in known
        if not any(
            dominates(other.objectives(), item.objectives()) for _, other in known if other.league == item.league
        )
    ]


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether ``first`` is nowhere higher than ``second`` and somewhere lower."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and tuple(first) != tuple(second)


def best(items: Sequence[Tuned], limits: Limits) -> int:
    """The place of the best that meets the limits: of those with the largest input the one with least time per item.

    A prediction is taken only where nothing was measured. Raises ``NotMet``, which names the nearest, where none does.
    """
    known = comparable(items)
    measured = [place for place in known if items[place].stage != "predicted"]
    meeting = [place for place in measured or known if not limits.misses(items[place])]
    if meeting:
        return min(meeting, key=lambda place: (-items[place].work, items[place].item_ms))
    raise _unmet([items[place] for place in measured or known], limits)


def nearest(items: Sequence[Tuned], limits: Limits) -> Tuned:
    """The one that misses the limits by the least: the shares of each limit that it misses, added up."""

    def missed(item: Tuned) -> float:
        return math.fsum(max(0.0, share) for share in limits.excess(item).values())

    return min(items, key=lambda item: (missed(item), item.latency_ms))


def _unmet(known: Sequence[Tuned], limits: Limits) -> NotMet:
    if not known:
        return NotMet(
            "no configuration could be measured", expected="one that can", fix="read the reasons above, or avsdk doctor"
        )
    closest = nearest(known, limits)
    return NotMet(
        f"nothing that was tried meets {' '.join(limits.words())}; the nearest is {closest.configuration.label}: "
        f"{'; '.join(limits.misses(closest))}",
        expected="a configuration within every limit",
        fix="loosen the limit that it misses, name more targets, or give more time with --budget-s",
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None


def _percent(share: float | None) -> float | None:
    return None if share is None else 100.0 * share


def _text(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"
