"""Experiments: what a family's paper measured, as one command each. Imports no torch.

A family declares its own in ``Family.experiments``; ``avsdk experiment FAMILY.NAME --out DIR`` runs one and writes
``results.json``, ``report.md`` and ``pictures/``. What takes long is done in cells, which a second run finds again.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import avsdk
from avsdk.errors import UnknownName, UsageError
from avsdk.files import sha256_file
from avsdk.schema import encode
from avsdk_train.experiment_report import CELLS, RESULTS, Report
from avsdk_train.family import list_families, load_family
from avsdk_train.options import options_from


@dataclass(frozen=True)
class Experiment:
    """One experiment of a family.

    ``settings`` is a frozen dataclass whose defaults are the whole experiment, ``small`` the values that make it fit a
    laptop. ``run`` fills the report from the settings. ``selects`` names the settings that only say which cells there
    are: another choice of them computes no cell again.
    """

    name: str
    summary: str
    settings: type
    run: Callable[[Report, Any], None]
    small: Mapping[str, Any] = field(default_factory=dict)
    selects: tuple[str, ...] = ()


def list_experiments() -> dict[str, Experiment]:
    """Every family's experiments by ``FAMILY.NAME``."""
    return {
        f"{family}.{experiment.name}": experiment
        for family in list_families()
        for experiment in load_family(family).experiments()
    }


def load_experiment(name: str) -> Experiment:
    """The experiment of that name; an unknown one gets the nearest."""
    known = list_experiments()
    if name not in known:
        raise UnknownName.among("experiment", name, known, fix="avsdk experiment list")
    return known[name]


def run_experiment(name: str, out: Path, *, small: bool, overrides: Sequence[str]) -> dict[str, Any]:
    """Run it, or go on with it, and write the report; the content of ``results.json`` with the paths."""
    experiment = load_experiment(name)
    settings: Any = options_from(experiment.settings, overrides, what=name, preset=experiment.small if small else None)
    _refuse_foreign(out, name)
    sets = [word for pair in overrides for word in ("--set", pair)]
    words = ["avsdk", "experiment", name, *(["--small"] if small else []), *sets, "--out", str(out)]
    report = Report(
        out, name=name, summary=experiment.summary, command=shlex.join(words), settings=settings,
        fingerprint=_fingerprint(name, experiment, settings),
    )  # fmt: skip
    experiment.run(report, settings)
    return report.write()


def _refuse_foreign(out: Path, name: str) -> None:
    """Only a new folder, or one that this experiment wrote, is written into."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    marker = out / CELLS / "experiment"
    found = marker.read_text(encoding="utf-8").strip() if marker.is_file() else ""
    if found != name:
        what = f"holds {found}" if found else "was not written by an experiment"
        raise UsageError(f"{out} {what}", expected=f"a new folder, or an earlier --out of {name}", fix="another --out")


def _fingerprint(name: str, experiment: Experiment, settings: Any) -> str:
    """What decides a cell: the settings, and the content of the files that they name."""
    values = {key: value for key, value in encode(settings).items() if key not in experiment.selects}
    texts = [text for value in values.values() for text in (value if isinstance(value, list) else [value])]
    named = {part for text in texts if isinstance(text, str) for part in text.split(",") if part}
    contents = {part: _content(Path(part)) for part in named}
    document = {"experiment": name, "settings": values, "files": contents, "avsdk": avsdk.__version__}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _content(path: Path) -> str:
    if path.is_file():
        return sha256_file(path)
    if path.is_dir():
        files = (file for file in sorted(path.rglob("*.safetensors")) if file.is_file())
        return ",".join(f"{file.relative_to(path).as_posix()}:{sha256_file(file)}" for file in files)
    return ""


__all__ = ["RESULTS", "Experiment", "list_experiments", "load_experiment", "run_experiment"]
