"""The report as one HTML page that needs nothing else: no network, no fonts, no scripts but its own, which is short.

Whatever stands in a report may be a stranger's text: all of it is escaped, control characters are shown, and the page's
own policy lets no script run but the one whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsdk.console import printable
from avsdk.errors import NotAvailable, UsageError
from avsdk.files import write_atomic
from avsdk_bench import plots
from avsdk_bench.page_facts import Card, cards_of
from avsdk_bench.plan import sizes_text
from avsdk_bench.plots import Picture
from avsdk_bench.printing import comparison_lines, other_level, printed_number, state_of
from avsdk_bench.report import Report, Row

_FOLDER = Path(__file__).with_name("html")
_MOST_IN_A_FIGURE = 24
_NO_ROOFLINE = "No row of this report knows the bound that its work and its machine set, so none is shown."

Numbered = tuple[int, Row]


@dataclass(frozen=True)
class Column:
    """A column of the table: its key in the page's address, its heading, whether it holds numbers."""

    key: str
    name: str
    number: bool = True


@dataclass(frozen=True)
class Shown:
    """A cell: its text, and the value that it is sorted by; empty where it is not known."""

    text: str
    value: str


@dataclass(frozen=True)
class ShownRow:
    """A row of the table."""

    status: str
    cells: tuple[Shown, ...]


COLUMNS = (
    Column("number", "#"), Column("bundle", "bundle", False), Column("graph", "graph", False),
    Column("size", "size", False), Column("place", "engine:device", False), Column("precision", "precision", False),
    Column("threads", "threads"), Column("p50_ms", "p50"), Column("interval", "95 % interval"), Column("p90_ms", "p90"),
    Column("p99_ms", "p99"), Column("throughput_per_s", "per s"), Column("cold_start_ms", "cold start"),
    Column("peak_rss_mb", "peak MB"), Column("size_mb", "size MB"), Column("snr_db", "SNR dB"),
    Column("state", "state", False),
)  # fmt: skip


def check_page(path: Path) -> None:
    """Refuse, before anything is measured, a page that could not be written afterwards."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--html {path} ends in {path.suffix!r}", expected="a name that ends in .html")
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise NotAvailable(f"a page needs the package {package}, which is absent", fix="pip install 'avsdk[bench]'")


def write_page(report: Report, path: Path) -> None:
    """Write the page whole or not at all."""
    write_atomic(path, page_from(report))


def page_from(report: Report) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
    )
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text: str = environment.get_template("page.html.j2").render(
        report=report,
        title=_title(report),
        stopped=_stopped(report),
        verdicts=list(_verdicts(report)),
        statuses=list(dict.fromkeys(row.status for row in report.rows)),
        columns=COLUMNS,
        rows=[_shown(number, row) for number, row in enumerate(report.rows, 1)],
        figures=list(_figures(report)),
        compared=list(comparison_lines(report)),
        facts=cards_of(report),
        commands=_commands(report),
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
    )
    return text


def _printable(value: Any) -> Any:
    """What a template writes, with control characters shown; markup that is ours stays."""
    return printable(value) if type(value) is str else value


def _title(report: Report) -> str:
    names = list(dict.fromkeys(Path(row.bundle).name for row in report.rows))
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"Latency of {shown}" if shown else "avsdk bench"


def _stopped(report: Report) -> str:
    reasons = {
        "precision": "stopped when every 95 % interval was at most 1 % wide",
        "budget": f"stopped when the budget of {report.method.budget_s:g} s was used",
    }
    return reasons.get(report.method.stopped_by, f"stopped by {report.method.stopped_by}")


def _verdicts(report: Report) -> Iterator[dict[str, str]]:
    """The fastest row of each piece of work, and every limit that was passed."""
    for work, rows in _groups(report).items():
        timed = [(number, row) for number, row in rows if row.status == "measured" and row.p50_ms]
        if len(timed) > 1:
            number, row = min(timed, key=lambda item: item[1].p50_ms or 0.0)
            text = f"{work}: #{number} {row.place} has the lowest median, {printed_number(row.p50_ms)} ms"
            yield {"kind": "", "text": f"{text}; which differences are shown stands under Compared."}
    for item in report.baseline:
        if item.verdict == "beyond":
            yield {"kind": "bad", "text": f"#{item.row + 1} passed the limit {item.limit} of the baseline."}


def _groups(report: Report) -> dict[str, list[Numbered]]:
    """Rows that do the same work, by what they do."""
    found: dict[str, list[Numbered]] = {}
    for number, row in enumerate(report.rows, 1):
        found.setdefault(f"{row.graph} {sizes_text(row.shapes)}".strip(), []).append((number, row))
    return found


def _figures(report: Report) -> Iterator[tuple[str, str, list[Picture]]]:
    groups = {work: rows[:_MOST_IN_A_FIGURE] for work, rows in _groups(report).items()}
    cut = any(len(rows) > _MOST_IN_A_FIGURE for rows in _groups(report).values())
    note = f"Of more than {_MOST_IN_A_FIGURE} rows the first are drawn; the table has them all." if cut else ""
    spread = [plots.distributions(rows, work) for work, rows in groups.items()]
    if found := [item for item in spread if item]:
        yield "Latency", note, found
    trade = [plots.pareto(rows, work) for work, rows in groups.items()]
    if found := [item for item in trade if item]:
        yield "Latency against accuracy and size", "", found
    numbered = list(enumerate(report.rows, 1))[:_MOST_IN_A_FIGURE]
    parts = (
        plots.shares(_having(numbered, "stages_ms"), "Time per stage of the pipeline", "ms", "s"),
        plots.shares(_having(numbered, "cold_start"), "Cold start by phase", "ms", "c"),
        plots.shares(_having(numbered, "placement"), "Where operations ran", "share of operations", "o"),
    )
    if found := [item for item in parts if item]:
        yield "Where the time goes, and what ran where", "", found
    bound = plots.roofline(numbered)
    yield "Roofline", "" if bound else _NO_ROOFLINE, [bound] if bound else []


def _having(rows: Sequence[Numbered], name: str) -> list[tuple[int, Row, Mapping[str, float]]]:
    found = ((number, row, getattr(row, name)) for number, row in rows)
    shown: list[tuple[int, Row, Mapping[str, float]]]
    shown = [(number, row, _without_unit(parts)) for number, row, parts in found if parts]
    return shown if name != "placement" or any(len(parts) > 1 for *_, parts in shown) else shown[:8]


def _without_unit(parts: Mapping[str, float]) -> dict[str, float]:
    return {name.removesuffix("_ms"): value for name, value in parts.items()}


def _shown(number: int, row: Row) -> ShownRow:
    interval = "{:.4g} .. {:.4g}".format(*row.p50_ci_ms) + other_level(row) if row.p50_ci_ms else ""
    width = (row.p50_ci_ms[1] - row.p50_ci_ms[0]) / row.p50_ms if row.p50_ci_ms and row.p50_ms else None
    texts = {
        "bundle": Path(row.bundle).name, "graph": row.graph, "size": sizes_text(row.shapes),
        "place": f"{row.place} {row.machine}".strip(), "precision": row.effective_precision or row.precision,
        "state": state_of(row) or row.status,
    }  # fmt: skip
    numbers: dict[str, float | None] = {"number": number, "threads": row.threads, "interval": width}
    cells = []
    for column in COLUMNS:
        if not column.number:
            cells.append(Shown(texts[column.key], texts[column.key]))
            continue
        value = numbers[column.key] if column.key in numbers else getattr(row, column.key)
        value = None if column.key == "threads" and not value else value
        text = interval if column.key == "interval" else printed_number(value) or ""
        cells.append(Shown(text or "–", "" if value is None else repr(float(value))))
    return ShownRow(row.status, tuple(cells))


def _commands(report: Report) -> list[tuple[str, str]]:
    found = [("This report", report.command)] if report.method.rounds else []
    found += [(f"The rows of {name}", item.command) for name, item in report.elsewhere.items()]
    for row in dict.fromkeys((row.bundle, row.threads, tuple(row.shapes.items())) for row in report.rows):
        bundle, threads, shapes = row
        axes = ["--axis", ",".join(f"{axis}={size}" for axis, size in shapes)] if shapes else []
        if not threads:  # a prediction, which the whole command repeats
            continue
        words = ["avsdk", "bench", bundle, *axes, "--threads", str(threads)]
        found.append((f"{Path(bundle).name} {sizes_text(dict(shapes))} alone".replace("  ", " "), shlex.join(words)))
    return found


__all__ = ["COLUMNS", "Card", "check_page", "page_from", "write_page"]
