"""The picture of a tuner's front: latency against accuracy, and against memory, with intervals, limits and the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from avsdk.console import printable
from avsdk.files import atomic_file
from avsdk_bench.chart import duration_text
from avsdk_bench.plots import log_if_wide
from avsdk_bench.tune_choice import Limits, Tuned, front

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _RULE = "#1f2430", "#6b7280", "#d7dae0"
_COLOURS = ("#2f6fb0", "#c8553d", "#4b9460", "#8a63b8", "#b8860b", "#3c8d93")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE = {"font.family": "DejaVu Sans", "font.size": 9.5, "svg.hashsalt": "avsdk", "text.parse_math": False}
_CAP_DB = 100.0


def draw_front(items: Sequence[Tuned], limits: Limits, best: int | None, title: str, path: Path) -> None:
    """Write a PNG or an SVG whole: a colour per target, a marker per precision; hollow is predicted, pale is beaten."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):  # type: ignore[arg-type]  # the stubs want literal keys
        figure = Figure(figsize=(10.5, 4.8), layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        has_drop = any(item.drop is not None for item in items)
        if has_drop:
            _panel(
                left, items, best, lambda item: None if item.drop is None else 100 * item.drop, "drop of the metric, %"
            )
            _limit_line(left, None if limits.max_drop is None else 100 * limits.max_drop, across=True)
        else:
            _panel(left, items, best, _capped, f"SNR against fp32, dB ({_CAP_DB:.0f} and more shown as {_CAP_DB:.0f})")
            _limit_line(left, limits.min_snr_db, across=True)
        _panel(right, items, best, lambda item: item.memory_mb, "peak resident memory, MB")
        for axes in (left, right):
            _limit_line(axes, limits.max_latency_ms, across=False)
        _legend(figure, items)
        figure.suptitle(printable(title), x=0.01, ha="left", color=_INK, fontsize=11)
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            kind = path.suffix.lower().lstrip(".")
            figure.savefig(stream, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})


def _panel(
    axes: Axes, items: Sequence[Tuned], best: int | None, value: Callable[[Tuned], float | None], name: str
) -> None:
    shown = set(front(items))
    targets, precisions = _names(items)
    for place, item in enumerate(items):
        height = value(item)
        if not item.rows or height is None:
            continue
        colour = _COLOURS[targets.index(item.configuration.target) % len(_COLOURS)]
        marker = _MARKERS[precisions.index(item.configuration.precision) % len(_MARKERS)]
        pale = 1.0 if place in shown or place == best else 0.25
        low, high = item.latency_ci_ms or (item.latency_ms, item.latency_ms)
        ends = [[max(0.0, item.latency_ms - low)], [max(0.0, high - item.latency_ms)]]
        axes.errorbar(
            [item.latency_ms], [height], xerr=ends, fmt=marker, markersize=6, color=colour, alpha=pale, capsize=2,
            elinewidth=1.0, markerfacecolor="none" if item.stage == "predicted" else colour, zorder=3,
        )  # fmt: skip
        if place == best:
            axes.plot([item.latency_ms], [height], "o", markersize=14, markerfacecolor="none", color=_INK, zorder=4)
            axes.annotate(f"best: {duration_text(item.latency_ms)}", (item.latency_ms, height), xytext=(10, 9),
                          textcoords="offset points", color=_INK)  # fmt: skip
    axes.set_xlabel("latency, ms: median, 95 % interval", color=_MUTED)
    axes.set_title(name, loc="left", fontsize=9.5, color=_INK)
    log_if_wide(axes, [item.latency_ms for item in items if item.rows])
    axes.margins(0.12)
    axes.grid(color=_RULE, linewidth=0.6, zorder=0)
    axes.tick_params(length=0, colors=_INK)
    axes.spines[["top", "right"]].set_visible(False)


def _limit_line(axes: Axes, limit: float | None, *, across: bool) -> None:
    if limit is None:
        return
    draw = axes.axhline if across else axes.axvline
    draw(limit, color=_MUTED, linewidth=1.2, linestyle="--", zorder=1)


def _legend(figure: object, items: Sequence[Tuned]) -> None:
    from matplotlib.lines import Line2D

    targets, precisions = _names(items)
    handles = [
        Line2D([], [], color=_COLOURS[place % len(_COLOURS)], marker="o", linestyle="none", label=printable(name))
        for place, name in enumerate(targets)
    ]
    handles += [
        Line2D([], [], color=_MUTED, marker=_MARKERS[place % len(_MARKERS)], linestyle="none", label=name)
        for place, name in enumerate(precisions)
    ]
    handles.append(Line2D([], [], color=_MUTED, linestyle="--", label="limit"))
    if any(item.stage == "predicted" for item in items):
        handles.append(Line2D([], [], color=_MUTED, marker="o", markerfacecolor="none", linestyle="none",
                              label="predicted"))  # fmt: skip
    figure.legend(handles=handles, loc="outside lower left", ncols=8, frameon=False, fontsize=9)  # type: ignore[attr-defined]


def _names(items: Sequence[Tuned]) -> tuple[list[str], list[str]]:
    known = [item.configuration for item in items if item.rows]
    return list(dict.fromkeys(item.target for item in known)), list(dict.fromkeys(item.precision for item in known))


def _drop_percent(item: Tuned) -> float | None:
    return None if item.drop is None else 100 * item.drop


def _capped(item: Tuned) -> float | None:
    return None if item.snr_db is None else min(item.snr_db, _CAP_DB)
