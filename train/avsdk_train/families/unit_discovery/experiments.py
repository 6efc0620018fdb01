"""The ablations of Tjandra et al. 2020, tables 1 to 3, as one command: features, entries, smoothing, jitter.

Beside them stand the convolutional model of 2019 and a stride of 2, which the paper compares with in its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avsdk.errors import UsageError
from avsdk_train.experiment_report import CELLS, Report
from avsdk_train.experiments import Experiment

_PLAIN = {"smoothing": "0", "jitter": "0"}
ROWS: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "mfcc": ("1: features", "", _PLAIN),
    "log-mel": ("1: features", "-log-mel", _PLAIN),
    "k64": ("2: entries", "-k64", _PLAIN),
    "k256": ("2: entries", "-k256", _PLAIN),
    "k512": ("2: entries", "-k512", _PLAIN),
    "smoothing-1e-2": ("3: smoothing", "", {"smoothing": "1e-2", "jitter": "0"}),
    "smoothing-5e-3": ("3: smoothing", "", {"smoothing": "5e-3", "jitter": "0"}),
    "smoothing-1e-3": ("3: smoothing", "", {"smoothing": "1e-3", "jitter": "0"}),
    "jitter-0.05": ("3: jitter", "", {"smoothing": "0", "jitter": "0.05"}),
    "jitter-0.075": ("3: jitter", "", {"smoothing": "0", "jitter": "0.075"}),
    "both": ("3: both", "", {"smoothing": "5e-3", "jitter": "0.05"}),
    "both-weak": ("3: both", "", {"smoothing": "1e-3", "jitter": "0.05"}),
    "conv": ("text: the model of 2019", "-conv", _PLAIN),
    "stride2": ("text: 50 units a second", "-stride2", _PLAIN),
}
"""By name: the paper's table, the variant's ending, and what the recipe's settings become. ``mfcc`` has 128 entries,
and is the row that every table starts from."""
_METRICS = ("abx_across", "abx_within", "abx_across_codes", "bitrate", "codes_used", "perplexity")


@dataclass(frozen=True)
class AblationSettings:
    """``data`` is trained on, ``test`` measured on: a folder of recordings with an item file in it or beside it.

    ``recipe``, one of the family's own, and its variant's size decide the rest; ``steps`` of 0 are the recipe's own.
    ``rows`` are those of ``ROWS`` to make, all of them where none is named.
    """

    data: str = ""
    test: str = ""
    recipe: str = "paper"
    size: str = "base"
    steps: int = 0
    threads: int = 0
    rows: tuple[str, ...] = ()


def run(report: Report, settings: AblationSettings) -> None:
    """Train and measure every row; a run that was cut off goes on where it was."""
    for name in ("data", "test"):
        if not Path(getattr(settings, name) or "/nowhere").is_dir():
            raise UsageError(
                f"{name} is {getattr(settings, name)!r}", expected="a folder of recordings", fix=f"--set {name}=DIR"
            )
    chosen = settings.rows or tuple(ROWS)
    unknown = [row for row in chosen if row not in ROWS]
    if unknown:
        raise UsageError(f"no row is called {unknown[0]!r}", expected=f"of: {', '.join(ROWS)}")
    report.text(
        f"Recipe {settings.recipe}, size {settings.size}. ABX errors in percent of the vectors before the codebook and "
        "of the codebook's entries, with 95 % bootstrap intervals over contexts; bitrate in bit/s."
    )
    cells = {name: report.cell(name, lambda name=name: _measured(report, settings, name)) for name in chosen}  # type: ignore[misc]
    rows = [[ROWS[name][0], name, *(_with_interval(cell, key) for key in _METRICS)] for name, cell in cells.items()]
    report.table("Tables 1 to 3", ("table", "row", *(key.replace("_", " ") for key in _METRICS)), rows)


def _measured(report: Report, settings: AblationSettings, name: str) -> Mapping[str, Any]:
    from avsdk_train import commands

    _, ending, changes = ROWS[name]
    size, steps = settings.size + ending, settings.steps
    folder = report.out / CELLS / f"{name}-{settings.recipe}-{size}-{steps}.run"
    values = {**changes, **({"steps": str(steps)} if steps else {})}
    overrides = [f"{key}={value}" for key, value in values.items()] + [f"threads={settings.threads}"]
    if (folder / "recipe.toml").is_file():
        commands.train_on("unit_discovery", [Path(settings.data)], folder, "", "", [])
    else:
        commands.train_new("unit_discovery", [Path(settings.data)], folder, settings.recipe, size, overrides)
    metrics: Mapping[str, Any] = commands.evaluate(str(folder), [Path(settings.test)], "", {})["metrics"]
    return metrics


def _with_interval(cell: Mapping[str, Any], key: str) -> str | None:
    if key not in cell:
        return None
    low, high = cell.get(f"{key}_ci") or (None, None)
    return f"{cell[key]:.4g}" + ("" if low is None else f" [{low:.4g}, {high:.4g}]")


EXPERIMENTS = (
    Experiment(
        "ablations", "Features, entries, smoothing, jitter (tables 1 to 3), the model of 2019, 50 units a second.",
        AblationSettings, run, {"recipe": "small", "size": "small", "steps": 600}, selects=("rows", "threads"),
    ),
)  # fmt: skip
