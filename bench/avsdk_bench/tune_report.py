"""What a tuner found, as a document, a table and a picture."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from avsdk import console, host
from avsdk.files import write_atomic
from avsdk.schema import SCHEMA, encode
from avsdk_bench import statistics
from avsdk_bench.plan import sizes_text
from avsdk_bench.printing import printed_number
from avsdk_bench.report import Report, Row
from avsdk_bench.scenario import SINGLE_STREAM
from avsdk_bench.statistics import PairedRatio
from avsdk_bench.tune import Found
from avsdk_bench.tune_build import Asked
from avsdk_bench.tune_choice import Limits, Tuned, front
from avsdk_bench.tune_space import Configuration, Space

_COLUMNS = (
    "", "target", "precision", "threads", "size", "settings", "latency ms", "95 % interval", "drop %", "SNR dB",
    "size MB", "peak MB", "state",
)  # fmt: skip


@dataclass(frozen=True)
class Words:
    """What a command line needs to say the same again."""

    model: str
    out: Path
    asked: Asked = Asked()
    scenario: str = SINGLE_STREAM

    def build(self, item: Configuration) -> str:
        """The line that builds this configuration's bundle."""
        words = ["avsdk", "export", self.model, "--target", item.target, "--precision", item.precision]
        return shlex.join([*words, *_axis(item), *_set(item), *self.asked.words(item), "--out", str(self.out)])

    def measure(self, item: Configuration, bundle: Path) -> str:
        """The line that measures the bundle as it was measured."""
        words = ["avsdk", "bench", str(bundle), *_axis(item), "--threads", str(item.threads), *self.scenario_words()]
        return shlex.join([*words, "--loop", "own"])

    def scenario_words(self) -> list[str]:
        """The option that says how requests arrive."""
        return ["--scenario", self.scenario] if self.scenario != SINGLE_STREAM else []


@dataclass(frozen=True)
class Rival:
    """One that was measured in the same rounds as the best, and how it compares: the best's time over its own."""

    place: int
    ratio: PairedRatio


def rivals(items: Sequence[Tuned], best: int, final: Report | None) -> list[Rival]:
    """The others of the paired rounds beside the best, the nearest first; none where there were no such rounds."""
    if final is None or items[best].stage != "final":
        return []
    found = []
    for place, item in enumerate(items):
        if place == best or item.stage != "final" or item.league != items[best].league:
            continue
        ratio = paired(items[best], item, final.method.seed)
        if ratio is not None:
            found.append(Rival(place, ratio))
    return sorted(found, key=lambda rival: -rival.ratio.ratio.value)


def paired(first: Tuned, second: Tuned, seed: int = 0) -> PairedRatio | None:
    """The time per item of the first over the second's, round by round; of two that were measured in one bench."""

    def per_round(item: Tuned) -> list[float]:
        batch = item.configuration.sizes.get("batch", 1)
        rounds = zip(*([float(np.median(part)) for part in row.samples_ms] for row in item.rows), strict=True)
        return [sum(parts) / batch for parts in rounds]

    return statistics.paired_ratio(per_round(first), per_round(second), seed=seed)


def claim(items: Sequence[Tuned], best: int, compared: Sequence[Rival]) -> str:
    """What the intervals support saying of the best."""
    if items[best].stage == "predicted":
        return "predicted: this machine is not that device"
    if not compared:
        return "the fastest of what was screened; nothing else was measured in the same rounds"
    alike = [rival for rival in compared if rival.ratio.verdict != "faster"]
    slower = [rival for rival in compared if rival.ratio.verdict == "faster"]
    texts = []
    if slower:
        low, high = slower[0].ratio.ratio.low, slower[0].ratio.ratio.high
        texts.append(
            f"faster than {items[slower[0].place].configuration.label}: {slower[0].ratio.ratio.value:.3f} x its time "
            f"[{low:.3f}, {high:.3f}]" + (f", and than {len(slower) - 1} others" if len(slower) > 1 else "")
        )
    if alike:
        names = "; ".join(items[rival.place].configuration.label for rival in alike)
        texts.append(f"no difference shown to: {names}")
    return ", ".join(texts)


def document(
    found: Found, items: Sequence[Tuned], limits: Limits, space: Space, words: Words, *,
    command: str, best: Mapping[str, Any] | None, picture: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """The document that ``--json`` prints."""
    shown = set(front(items))
    rows = [
        {
            **encode(row), "drop": item.drop, "snr_db": item.snr_db, "command": words.build(item.configuration),
            "threads": item.configuration.threads, "stage": item.stage, "front": place in shown,
            "misses": list(limits.misses(item)), "latency_ms": item.latency_ms, "item_ms": item.item_ms,
        }
        for place, item in enumerate(items)
        for row in item.rows
    ]  # fmt: skip
    return {
        "schema": SCHEMA,
        "host": encode(host.probe()),
        "model": words.model,
        "limits": encode(limits),
        "rows": rows,
        "best": best,
        "rejected": [
            {"configuration": item.configuration.label, "reason": item.reason} for item in items if not item.rows
        ],
        "left_out": list(space.left_out),
        "search": {"configurations": found.size, "tried": len(items), "stopped_by": found.stopped_by,
                   "elapsed_s": found.elapsed_s},
        "noise": encode(found.final.noise) if found.final is not None else None,
        "method": encode(found.final.method) if found.final is not None else None,
        "picture": None if picture is None else str(picture),
        "command": command,
    }  # fmt: skip


def print_table(items: Sequence[Tuned], limits: Limits, best: int | None) -> None:
    """The front, the fastest first; then how many others there are."""
    places = sorted({*front(items), *([] if best is None else [best])}, key=lambda place: items[place].latency_ms)
    rows = [_cells(items[place], limits, place == best) for place in places]
    console.table("What no other configuration beats", _COLUMNS, rows)
    beaten = sum(1 for item in items if item.rows) - len(places)
    if beaten:
        console.notice(f"{beaten} more were measured, and each is beaten by one of these")


def reasons(items: Sequence[Tuned]) -> Iterator[str]:
    """Why configurations were rejected: one line per reason, with how many it was."""
    counts: dict[tuple[str, str, str], int] = {}
    for item in items:
        if not item.rows:
            key = (item.configuration.target, item.configuration.precision, item.reason)
            counts[key] = counts.get(key, 0) + 1
    for (target, precision, reason), count in counts.items():
        yield f"{target} {precision}: {count} rejected, {reason}"


def _cells(item: Tuned, limits: Limits, is_best: bool) -> list[object]:
    configuration, interval = item.configuration, item.latency_ci_ms
    settings = " ".join(f"{name}={value}" for name, value in configuration.settings.items())
    first: Row = item.rows[0]
    drop = None if item.drop is None else f"{100 * item.drop:.2f}"
    return [
        "best" if is_best else "", configuration.target, first.effective_precision or first.precision,
        configuration.threads, sizes_text(first.shapes), settings, printed_number(item.latency_ms),
        "{:.4g} .. {:.4g}".format(*interval) if interval else None, drop, printed_number(item.snr_db),
        printed_number(item.size_mb), printed_number(item.memory_mb),
        ", ".join(["predicted"] * (item.stage == "predicted") + list(limits.misses(item))),
    ]  # fmt: skip


def _axis(item: Configuration) -> list[str]:
    return ["--axis", ",".join(f"{name}={size}" for name, size in item.sizes.items())] if item.sizes else []


def _set(item: Configuration) -> list[str]:
    return [word for name, value in item.settings.items() for word in ("--set", f"{name}={value}")]


def write_document(content: Mapping[str, Any], path: Path) -> None:
    """Write the document whole or not at all."""
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
