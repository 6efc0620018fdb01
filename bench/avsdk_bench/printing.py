"""What `avsdk bench` prints of a report: a table where the terminal is wide enough, else a few lines per row."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from avsdk import console
from avsdk.errors import AvsdkError
from avsdk_bench.baseline import sentence
from avsdk_bench.plan import sizes_text
from avsdk_bench.records import VendorComparison
from avsdk_bench.report import Report, Row

_COLUMNS = (
    "bundle", "graph", "size", "engine:device", "precision", "p50 ms", "95 % interval", "p90", "p99", "per s",
    "cold ms", "peak MB", "size MB", "SNR dB", "",
)  # fmt: skip
_INDENT = "    "


def print_report(report: Report) -> None:
    """Write the rows, then what was compared, on standard output."""
    rows = [_cells(row) for row in report.rows]
    title = f"Latency, {', '.join(dict.fromkeys(row.scenario for row in report.rows)) or 'nothing measured'}"
    width = shutil.get_terminal_size().columns
    if sys.stdout.isatty() and _width_of(rows) > width:
        console.show(title)
        for line in narrow_lines(report.rows, width):
            console.show(line)
    else:
        console.table(title, _COLUMNS, rows)
    for line in comparison_lines(report):
        console.show(line)


def narrow_lines(rows: Sequence[Row], width: int) -> Iterator[str]:
    """A few lines per row, wrapped between words; only a word longer than a line stands over."""
    for row in rows:
        facts = _facts(row)
        head = " · ".join(text for text in (row.label, facts.pop("precision")) if text)
        yield from _wrapped(head, "", "  ", width)
        numbers = "   ".join(f"{name} {value}".strip() for name, value in facts.items() if value)
        if numbers:
            yield from _wrapped(numbers.replace(" ", "\0").replace("\0\0\0", "   "), _INDENT, _INDENT, width)


def comparison_lines(report: Report) -> Iterator[str]:
    """How rows compare with each other, with an older report, and with a vendor's tool."""
    for item in report.comparisons:
        row, reference = report.rows[item.row], report.rows[item.reference]
        low, high = item.ratio_ci
        yield (
            f"{row.label} takes {item.ratio:.3f} x the time of {reference.label} "
            f"[{low:.3f}, {high:.3f}]: {item.verdict}{'' if item.steady else ' in disturbed rounds, measure again'}"
        )
    for judged in report.baseline:
        yield f"{report.rows[judged.row].label}: {sentence(judged)}"
    for vendor in report.vendors:
        yield f"{report.rows[vendor.row].label}: {vendor_sentence(vendor)}"


def vendor_sentence(item: VendorComparison) -> str:
    """What is to be said of one vendor's tool, the difference itemised."""
    if item.ratio is None or item.ratio_ci is None:
        return f"{item.tool}: {item.verdict}, {item.reason}"
    low, high = item.ratio_ci
    parts = ", ".join(f"{name} {value:+.4g} ms" for name, value in (item.items_ms or {}).items())
    remarks = "; ".join(item.remarks)
    found = f"{item.ours_ms:.4g} ms, {item.tool} {item.tool_ms:.4g} ms: {item.ratio:.3f} x [{low:.3f}, {high:.3f}], "
    return "; ".join(text for text in (found + item.verdict, parts, remarks) if text)


def printed_number(value: float | None) -> str | None:
    """Four digits; whole numbers from 1000 on."""
    if value is None:
        return None
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def state_of(row: Row) -> str:
    """What one must know to read the row's numbers; empty where nothing is odd."""
    texts = [
        "" if row.status == "measured" else row.status,
        "not steady" if row.status == "measured" and not row.steady else "",
        f"not on {row.target}" if row.status == "measured" and row.reason else "",
    ]
    return ", ".join(text for text in texts if text)


def other_level(row: Row) -> str:
    """What is to be said of an interval that is not one of 95 %: that of a prediction."""
    return f" ({100 * row.prediction['level']:.0f} %)" if row.status == "predicted" and row.prediction else ""


def explain(report: Report, errors: Mapping[int, AvsdkError]) -> None:
    """Say what one must know to read the numbers: what failed, why it stopped, what disturbed it."""
    for place, error in errors.items():
        console.notice(f"{report.rows[place].label}: {error}")
    for row in report.rows:
        if row.status == "predicted":
            by = (row.roofline or {}).get("bound_by", "")
            console.notice(f"{row.label}: bound by {by}; {row.reason}" if by else f"{row.label}: {row.reason}")
    method = report.method
    if method.rounds:
        reasons = {
            "precision": "every 95 % interval is at most 1 % wide",
            "budget": f"the budget of {method.budget_s:g} s is used",
        }
        why = reasons.get(method.stopped_by, f"{method.rounds} rounds are the most")
        console.notice(f"stopped after {method.rounds} rounds, {method.elapsed_s:.1f} s: {why}")
    if method.void_rounds_used:
        console.notice("too few rounds were undisturbed, so the numbers hold the void ones: measure again in quiet")
    for reason in report.noise.reasons:
        console.notice(f"noise: {reason}")
    if any(row.status == "measured" and not row.steady for row in report.rows):
        console.notice("not steady: the budget ended before the medians of three windows agreed; raise --budget-s")


def _cells(row: Row) -> list[object]:
    return [
        Path(row.bundle).name, row.graph, sizes_text(row.shapes), f"{row.place} {row.machine}".strip(),
        row.effective_precision or row.precision, printed_number(row.p50_ms), _interval(row),
        *(printed_number(value) for value in (row.p90_ms, row.p99_ms, row.throughput_per_s, row.cold_start_ms)),
        printed_number(row.peak_rss_mb), printed_number(row.size_mb), printed_number(row.snr_db),
        state_of(row),
    ]  # fmt: skip


def _facts(row: Row) -> dict[str, str]:
    interval = _interval(row)
    middle = f"{printed_number(row.p50_ms)} ms" + (f" [{interval}]" if interval else "")
    numbers = {
        "p90": row.p90_ms, "p99": row.p99_ms, "per s": row.throughput_per_s, "cold ms": row.cold_start_ms,
        "peak MB": row.peak_rss_mb, "size MB": row.size_mb, "SNR dB": row.snr_db,
    }  # fmt: skip
    return {
        "precision": row.effective_precision or row.precision,
        "p50": middle if row.p50_ms is not None else "",
        **{name: printed_number(value) or "" for name, value in numbers.items()},
        "": state_of(row),
    }


def _interval(row: Row) -> str | None:
    if not row.p50_ci_ms:
        return None
    return "{:.4g} .. {:.4g}".format(*row.p50_ci_ms) + other_level(row)


def _width_of(rows: Sequence[Sequence[object]]) -> int:
    """Of the table with every cell on one line."""
    lengths = [max(len(str(cell or "-")) for cell in column) for column in zip(_COLUMNS, *rows, strict=True)]
    return sum(lengths) + 3 * len(lengths) + 1


def _wrapped(text: str, first: str, later: str, width: int) -> list[str]:
    lines = textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\0", " ") for line in lines]
