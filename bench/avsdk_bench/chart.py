"""One chart of a bench: latency with its interval, peak memory, size; a bar per measured row."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from avsdk.errors import NotAvailable, UsageError
from avsdk.files import atomic_file
from avsdk_bench.plan import sizes_text
from avsdk_bench.report import Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = (".png", ".svg")
_INK, _MUTED, _RULE = "#1f2430", "#6b7280", "#d7dae0"
_COLOURS = {"p50": "#2f6fb0", "memory": "#8a63b8", "size": "#4b9460"}


def check_chart(path: Path) -> None:
    """Refuse, before anything is measured, a chart that could not be drawn afterwards."""
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"--chart {path} ends in {path.suffix!r}", expected=f"one of: {', '.join(KINDS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise NotAvailable("a chart needs the package matplotlib, which is absent", fix="pip install 'avsdk[bench]'")


def draw_chart(report: Report, path: Path) -> None:
    """Write the chart as PNG or SVG, by the ending of ``path``; without a measured row there is nothing to draw."""
    rows = [row for row in report.rows if row.status == "measured"]
    if not rows:
        return
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "avsdk", "axes.edgecolor": _RULE}):
        height = 1.5 + 0.66 * len(rows)
        figure = Figure(figsize=(11.5, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 3, sharey=True, width_ratios=(2.2, 1, 1))
        _latency(panels[0], rows)
        _bars(panels[1], [row.peak_rss_mb for row in rows], _COLOURS["memory"], "peak memory, MB (RSS)", "{:.0f}")
        _bars(panels[2], [row.size_mb for row in rows], _COLOURS["size"], "size of what is loaded, MB", "{:.1f}")
        panels[0].set_yticks(range(len(rows)), _labels(rows))
        panels[0].invert_yaxis()
        figure.suptitle(_title(report), x=0.01, ha="left", color=_INK, fontsize=10)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=140, metadata={"Title": "avsdk bench"})


def _labels(rows: Sequence[Row]) -> list[str]:
    """Three lines per row: the bundle; graph, size, effective precision and threads; what it ran on."""
    labels = []
    for row in rows:
        place = f"{row.place}, not on {row.target}" if row.reason else row.place
        precision = row.effective_precision or row.precision
        threads = f"{row.threads} thread{'s' if row.threads > 1 else ''}"
        what = f"{row.graph} {sizes_text(row.shapes)} · {precision} · {threads}"
        labels.append(f"{Path(row.bundle).name}\n{what}\n{place}")
    return labels


def _title(report: Report) -> str:
    state = "quiet machine" if report.noise.quiet else "noisy machine: " + report.noise.reasons[0]
    return f"{report.host.cpu}, {report.host.cores} cores · {report.method.rounds} rounds · {state}"


def _latency(axes: Axes, rows: Sequence[Row]) -> None:
    values = [row.p50_ms or 0.0 for row in rows]
    ends = [row.p50_ci_ms or (value, value) for row, value in zip(rows, values, strict=True)]
    errors = [
        [max(0.0, value - low) for value, (low, _) in zip(values, ends, strict=True)],
        [max(0.0, high - value) for value, (_, high) in zip(values, ends, strict=True)],
    ]
    axes.errorbar(values, range(len(rows)), xerr=errors, fmt="none", ecolor=_INK, elinewidth=1.2, capsize=3, zorder=3)
    texts = [duration_text(row.p50_ms or 0.0) + ("" if row.steady else " (not steady)") for row in rows]
    _bars(axes, values, _COLOURS["p50"], "latency, ms: median, 95 % interval", "", texts, [high for _, high in ends])


def duration_text(milliseconds: float) -> str:
    """Three digits, never an exponent: ``0.213 ms``, ``56.8 ms``, ``1.36 s``, ``136 s``."""
    value, unit = (milliseconds / 1000.0, "s") if milliseconds >= 999.5 else (milliseconds, "ms")
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3
    return f"{value:.{decimals}f} {unit}"


def _bars(
    axes: Axes,
    values: Sequence[float | None],
    colour: str,
    title: str,
    form: str,
    texts: Sequence[str] = (),
    ends: Sequence[float] = (),
) -> None:
    known = [value or 0.0 for value in values]
    axes.barh(range(len(known)), known, height=0.62, color=colour, zorder=2)
    reach = max([*known, *ends, 1e-9])
    written = texts or [form.format(value) if value is not None else "not known" for value in values]
    for place, (text, end) in enumerate(zip(written, ends or known, strict=True)):
        axes.text(end + 0.02 * reach, place, text, va="center", color=_INK, fontsize=8.5)
    axes.set_xlim(0, reach * (1.42 if texts else 1.3))
    axes.set_title(title, loc="left", fontsize=9, color=_MUTED)
    axes.grid(axis="x", color=_RULE, linewidth=0.6, zorder=0)
    axes.tick_params(length=0, colors=_INK)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
