"""The figures of the HTML page: inline SVG by matplotlib, in colours that the page's style sheet decides.

Every figure is as wide as a telephone, so that its text stays readable there; labels stand above what they name.
Colours are drawn as marks that become CSS variables, which is how one drawing serves light and dark.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from avsdk.console import printable
from avsdk_bench.chart import duration_text
from avsdk_bench.printing import printed_number
from avsdk_bench.report import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 8
_WIDTH_IN = 5.6
_INK, _MUTED, _RULE = "#010101", "#010102", "#010103"
_MARKS = {_INK: "--ink", _MUTED: "--muted", _RULE: "--rule"}
_LOG_FROM = 20.0
_BINS = 60
_LABEL_LENGTH = 62
_STYLE = {
    "font.family": "DejaVu Sans", "font.size": 10.5, "svg.fonttype": "none", "svg.hashsalt": "avsdk",
    "text.parse_math": False, "axes.edgecolor": _RULE, "axes.labelcolor": _MUTED, "text.color": _INK,
    "xtick.color": _MUTED, "ytick.color": _MUTED, "hatch.color": _INK, "axes.formatter.use_mathtext": False,
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """One figure: its SVG, and what it shows in words, for who cannot see it."""

    title: str
    caption: str
    svg: str


def series_mark(place: int) -> str:
    """The mark that becomes ``--c1`` to ``--c8``."""
    return f"#0200{place % SERIES:02x}"


def distributions(rows: Sequence[tuple[int, Row]], title: str) -> Picture | None:
    """The spread of all samples per row, its median with the 95 % interval, and the bounds of p90 and p99."""
    shown = [(number, row) for number, row in rows if row.p50_ms is not None]
    if not shown:
        return None
    figure, axes = _figure(0.75 + 0.72 * len(shown))
    ends: list[float] = []
    for line, (number, row) in enumerate(shown):
        ends += _distribution(axes, line, row)
        _label(axes, line, f"#{number}  {row.place}, {_state(row)}{duration_text(row.p50_ms or 0.0)}")
    log_if_wide(axes, [value for value in ends if value > 0])
    _lines(axes, len(shown), "ms")
    texts = "; ".join(f"#{number} {row.place} {duration_text(row.p50_ms or 0.0)}" for number, row in shown)
    caption = "Filled: all samples. Bar: the median's 95 % interval. Triangles: bounds of p90 and p99."
    return Picture(f"Latency, {title}", f"{caption} {texts}.", _svg(figure, f"d{shown[0][0]}"))


def pareto(rows: Sequence[tuple[int, Row]], title: str) -> Picture | None:
    """Latency against accuracy and against size; the line joins the rows that no other beats in both."""
    known = [(number, row) for number, row in rows if row.p50_ms]
    panels = [
        ("SNR against fp32, dB (more is better)", [(n, row.p50_ms, _capped(row.snr_db)) for n, row in known], -1.0),
        ("size of what is loaded, MB", [(n, row.p50_ms, row.size_mb) for n, row in known], 1.0),
    ]
    drawn = [(name, [p for p in points if p[2] is not None], sign) for name, points, sign in panels]
    drawn = [panel for panel in drawn if len(panel[1]) > 1]
    if not drawn:
        return None
    figure, *all_axes = _figure(2.9 * len(drawn), len(drawn))
    for axes, (name, points, sign) in zip(all_axes, drawn, strict=True):
        _scatter(axes, points, sign, {number: row for number, row in known})
        axes.set_title(name, loc="left", fontsize=10.5, color=_INK)
        axes.set_xlabel("median latency, ms")
    missing = len(known) - len(drawn[0][1]) if drawn[0][2] < 0 else len(known)
    said = f" {missing} without a known accuracy are left out." if missing else ""
    caption = (
        "Numbers are those of the table; the line joins the rows that none beats in both. Hollow: not measured now."
    )
    return Picture(f"Latency against accuracy and size, {title}", caption + said, _svg(figure, f"p{known[0][0]}"))


def shares(rows: Sequence[tuple[int, Row, Mapping[str, float]]], title: str, unit: str, key: str) -> Picture | None:
    """A bar per row, divided into named parts: ms per stage, or the share of operations per device."""
    if not rows:
        return None
    names = list(dict.fromkeys(name for _, _, parts in rows for name in parts))
    figure, axes = _figure(1.0 + 0.62 * len(rows) + 0.24 * math.ceil(len(names) / 3))
    for line, (number, row, parts) in enumerate(rows):
        left = 0.0
        for name, value in parts.items():
            colour = series_mark(names.index(name))
            axes.barh(line, value, left=left, height=0.34, color=colour, label=_cut(name), zorder=2)
            left += value
        whole = f", {duration_text(left)}" if unit == "ms" else ""
        _label(axes, line, f"#{number}  {row.graph}, {row.place}{whole}")
    _lines(axes, len(rows), unit)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower left", ncols=3, frameon=False, fontsize=9.5,
        handlelength=1.0, columnspacing=1.2, labelcolor=_INK,
    )  # fmt: skip
    texts = "; ".join(
        f"#{number} " + ", ".join(f"{name} {printed_number(value)}" for name, value in parts.items())
        for number, _, parts in rows
    )
    return Picture(title, f"In {unit}: {texts}.", _svg(figure, key))


def roofline(rows: Sequence[tuple[int, Row]]) -> Picture | None:
    """How near each row comes to the bound that its work and the machine set; None where no row knows its bound."""
    known = [(number, row, row.roofline) for number, row in rows if _bound(row) and row.p50_ms]
    if not known:
        return None
    figure, axes = _figure(0.75 + 0.72 * len(known))
    for line, (number, row, facts) in enumerate(known):
        bound, reached = _bound(row), _bound(row) / (row.p50_ms or math.inf)
        axes.barh(line, row.p50_ms or 0.0, height=0.3, color=series_mark(0), alpha=0.35, zorder=2)
        axes.barh(line, bound, height=0.3, color=series_mark(0), zorder=3)
        by = str((facts or {}).get("bound_by", ""))
        said = f"{reached:.0%} {'reached' if row.status != 'predicted' else 'predicted'}"
        _label(axes, line, f"#{number}  {row.place}: {said}{f', bound by {by}' if by else ''}")
    _lines(axes, len(known), "ms")
    texts = "; ".join(f"#{number} {_bound(row) / (row.p50_ms or math.inf):.0%}" for number, row, _ in known)
    return Picture(
        "Roofline",
        f"Solid: the least time possible. Pale: the time measured, or predicted where it says so. {texts}.",
        _svg(figure, "r"),
    )


def _bound(row: Row) -> float:
    value = (row.roofline or {}).get("bound_ms")
    return float(value) if isinstance(value, (int, float)) and value > 0 else 0.0


def _distribution(axes: Axes, line: int, row: Row) -> list[float]:
    """Draw one row; return the ends of what was drawn."""
    colour = series_mark(line)
    middle = row.p50_ms or 0.0
    low, high = row.p50_ci_ms or (middle, middle)
    samples = np.concatenate([np.asarray(part) for part in row.samples_ms]) if any(row.samples_ms) else np.array([])
    ends = [low, high]
    if samples.size:
        first, last = np.quantile(samples, (0.002, 0.995))
        edges = np.linspace(first, max(last, first * 1.0001), _BINS + 1)
        counts, _ = np.histogram(samples, edges)
        heights = 0.26 * counts / max(1, counts.max())
        axes.stairs(line - heights, edges, baseline=line + 0.0, fill=True, color=colour, alpha=0.45, zorder=2)
        ends += [float(first), float(last)]
    bounds = [value for value in (row.p90_ms, row.p99_ms) if value is not None]
    axes.plot(bounds, [line + 0.13] * len(bounds), linestyle="none", marker="^", markersize=5, color=colour, zorder=4)
    axes.plot([low, high], [line + 0.07] * 2, color=_INK, linewidth=3.2, solid_capstyle="butt", zorder=4)
    axes.plot([middle], [line + 0.07], marker="|", markersize=11, markeredgewidth=1.6, color=_INK, zorder=5)
    return ends + bounds


def _scatter(axes: Axes, points: Sequence[tuple[int, Any, Any]], sign: float, rows: Mapping[int, Row]) -> None:
    measured = [point for point in points if rows[point[0]].status != "predicted"]
    front = _front([(x, sign * y) for _, x, y in measured])
    line = sorted((measured[place][1], measured[place][2]) for place in front)
    axes.plot([x for x, _ in line], [y for _, y in line], color=_MUTED, linewidth=1.2, linestyle="--", zorder=2)
    for number, x, y in points:
        hollow = rows[number].status != "measured"
        face = "none" if hollow else series_mark(number - 1)
        axes.plot(x, y, marker="o", markersize=8, markerfacecolor=face, color=series_mark(number - 1), zorder=3)
        axes.annotate(f"#{number}", (x, y), textcoords="offset points", xytext=(7, 5), color=_INK, fontsize=10)
    log_if_wide(axes, [x for _, x, _ in points])
    axes.margins(0.16)
    axes.grid(color=_RULE, linewidth=0.6, zorder=0)
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of points for which no other is at least as low in both and lower in one."""
    return [
        place
        for place, (x, y) in enumerate(points)
        if not any(a <= x and b <= y and (a < x or b < y) for a, b in points)
    ]


def _capped(snr_db: float | None) -> float | None:
    return None if snr_db is None else max(0.0, min(snr_db, 200.0))


def _figure(height_in: float, panels: int = 1) -> Any:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE):  # type: ignore[arg-type]  # the stubs want literal keys
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0.0)
        axes = figure.subplots(panels, 1, squeeze=False)[:, 0]
        for panel in axes:
            panel.patch.set_alpha(0.0)
        return (figure, *axes)


def _label(axes: Axes, line: int, text: str) -> None:
    axes.text(
        0.0, line - 0.32, _cut(printable(text)), transform=axes.get_yaxis_transform(), ha="left", va="bottom",
        color=_INK, fontsize=10, zorder=6,
    )  # fmt: skip


def _lines(axes: Axes, count: int, unit: str) -> None:
    """One line of the figure per row, from the top, without a frame."""
    axes.set_ylim(count - 0.5, -0.75)
    axes.set_yticks([])
    axes.set_xlabel(unit)
    axes.grid(axis="x", color=_RULE, linewidth=0.6, zorder=0)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def log_if_wide(axes: Axes, values: Sequence[float]) -> None:
    """Give an axis of times a logarithmic scale, with plain numbers on it, where they differ widely."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if values and max(values) > _LOG_FROM * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10.0, (1.0, 3.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _state(row: Row) -> str:
    return "" if row.status == "measured" else f"{row.status}, "


def _cut(text: str) -> str:
    return text if len(text) <= _LABEL_LENGTH else text[: _LABEL_LENGTH - 1] + "…"


def _svg(figure: Figure, key: str) -> str:
    """The figure as an element to stand in a page: no prologue, ids of its own, colours by variable."""
    from matplotlib import rc_context

    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context(_STYLE):  # type: ignore[arg-type]
        figure.savefig(stream, format="svg", metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{key}-", text)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="presentation" focusable="false"', text, count=1)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    for mark, name in {**_MARKS, **{series_mark(place): f"--c{place + 1}" for place in range(SERIES)}}.items():
        text = text.replace(mark, f"var({name})")
    return text
