"""Fit the efficiencies that predictions rest on, and say how wrong they are for graphs that were left out of the fit.

``prediction_cells.py`` measures, this fits: ``prediction.py CELLS.json...`` prints the errors, and with ``--write``
writes ``bench/avsdk_bench/efficiencies.json``. A graph is left out with all its sizes, and the interval that is to hold
it is made without it too.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from figures import Figure, Section, verdict
from numpy.typing import NDArray
from run_all import page_section

from avsdk import host
from avsdk.files import write_atomic
from avsdk.schema import SCHEMA, decode, encode
from avsdk_bench.calibration import Rates
from avsdk_bench.efficiencies import FILE, LEVEL, SMALL, Efficiencies, Elsewhere, Factors, Fit, parts_of
from avsdk_bench.flops import KINDS, PRODUCTS
from avsdk_bench.roofline import Roof, roof_here
from avsdk_bench.work import Operator, Work

GOAL_ERROR, GOAL_COVERAGE = 0.20, 0.90
MACHINE, ACCELERATOR = math.log(1.5), math.log(3.0)
"""What is assumed, for want of a second machine: another processor may be 1.5 times off, another kind of device 3."""
_PRIOR = 0.003
"""Weight of what a factor is taken to be where nothing measured speaks for another value, against one cell."""
_ROUNDS, _CLOSE = 6, 1e-9

Vector = NDArray[np.float64]
Key = tuple[str, str]


@dataclass(frozen=True)
class Measured:
    """One cell: its graph, its work, its time in s, and its ``features``."""

    graph: str
    work: Work
    seconds: float
    form: Mapping[Key, float]


def main(
    cells: Annotated[list[Path], typer.Argument(help="What prediction_cells.py wrote.")],
    write: Annotated[bool, typer.Option(help="Write the data file of the package.")] = False,
) -> None:
    """Print the section of docs/benchmarks.md."""
    found = [item for file in cells for item in json.loads(file.read_text())["cells"] if item["ms"] is not None]
    roof = best_roof(found)
    engines = {name: measured_cells(found, name, roof) for name in sorted({item["engine"] for item in found})}
    threads = tuple(sorted({int(item["threads"]) for item in found}))
    fits = {name: judged(cells, name, threads) for name, cells in engines.items()}
    across = across_engines(engines, fits, roof)
    if write:
        document = Efficiencies(fits, Elsewhere(round(across, 4), round(MACHINE, 4), round(ACCELERATOR, 4)))
        write_atomic(FILE, json.dumps({"schema": SCHEMA, **encode(document)}, indent=1) + "\n")
    sys.stdout.write(page_section(section(fits, across, [str(file) for file in cells])))


def best_roof(found: Sequence[Mapping[str, Any]]) -> Roof:
    """The limits of the machine: the best that any calibration saw, for what runs beside it only ever slows it down."""
    rates = [decode(Rates, item["rates"], where="rates") for item in found]
    best = Rates(
        max(item.flops_per_s for item in rates),
        max(item.bytes_per_s for item in rates),
        max(item.cached_bytes_per_s for item in rates),
        rates[0].cache_bytes,
        rates[0].threads,
    )
    return roof_here(best, host.probe().isa)


def measured_cells(found: Sequence[Mapping[str, Any]], engine: str, roof: Roof) -> list[Measured]:
    """The cells of one engine."""
    own = [(item, decode(Work, item["work"], where="work")) for item in found if item["engine"] == engine]
    return [Measured(item["graph"], work, item["ms"] / 1e3, features(work, roof)) for item, work in own]


# -- the fit -----------------------------------------------------------------------------------------------------------


def features(work: Work, roof: Roof, precision: str = "fp32") -> dict[Key, float]:
    """Seconds at the machine's limits that each factor multiplies: ``efficiencies.parts_of`` as a linear form."""
    found: dict[Key, float] = {("", "run_us"): 1e-6, ("", "operator_us"): 0.0}
    for item in work.operators:
        for key, value in _features_of(item, roof, precision).items():
            found[key] = found.get(key, 0.0) + value
        found["", "operator_us"] += 1e-6 * item.steps
    return found


def _features_of(item: Operator, roof: Roof, precision: str) -> dict[Key, float]:
    calculated, fused = roof.compute_s(item, precision), item.fused_flops / max(1, item.flops)
    compute = calculated * (1.0 - fused)
    found = {(item.kind, "memory"): roof.memory_s(item, precision), ("elementwise", "compute"): calculated * fused}
    found[item.kind, "compute"] = found.get((item.kind, "compute"), 0.0) + compute
    if item.kind in PRODUCTS:
        sizes = {"narrow": item.columns, "shallow": item.depth, "short": item.rows}
        found |= {(item.kind, name): compute * SMALL / max(SMALL, size) for name, size in sizes.items() if size}
    return found


_SMALL_FACTORS = ("narrow", "shallow", "short")
ALL_KEYS: tuple[Key, ...] = (
    *(("", name) for name in ("run_us", "operator_us")),
    *((kind, name) for kind in KINDS for name in ("compute", "memory")),
    *((kind, name) for kind in KINDS if kind in PRODUCTS for name in _SMALL_FACTORS),
)
"""Every factor: one that nothing measured speaks for stays at what is expected."""
_EXPECTED: Mapping[str, float] = {"compute": 1.2, "memory": 0.5, "run_us": 10.0, "operator_us": 2.0}


def fitted(cells: Sequence[Measured]) -> dict[Key, float]:
    """Factors of at least 0 with the least squares of relative errors, reweighted to be of logarithms."""
    keys = ALL_KEYS
    matrix = np.array([[item.form.get(key, 0.0) for key in keys] for item in cells])
    seconds = np.array([item.seconds for item in cells])
    expected = np.array([_EXPECTED.get(name, 0.2) for _, name in keys])
    weights = 1.0 / seconds
    for _ in range(_ROUNDS):
        values = _non_negative(matrix * weights[:, None], seconds * weights, expected)
        weights = 1.0 / np.sqrt(np.maximum(matrix @ values, 1e-9) * seconds)
    return dict(zip(keys, (float(value) for value in values), strict=True))


def _non_negative(matrix: Vector, wanted: Vector, expected: Vector) -> Vector:
    """Least squares with no value below 0, each drawn to what is expected of it.

    Source: Lawson, Hanson, "Solving least squares problems" (1974), algorithm NNLS, on the normal equations.
    """
    pull = _PRIOR / expected**2
    gram, right = matrix.T @ matrix + np.diag(pull), matrix.T @ wanted + pull * expected
    values, free = np.zeros(len(expected)), np.zeros(len(expected), bool)
    while True:
        gain = np.where(free, -np.inf, right - gram @ values)
        if gain.max() <= _CLOSE * np.abs(right).max():
            return values
        free[int(gain.argmax())] = True
        while True:
            trial = np.zeros(len(expected))
            trial[free] = np.linalg.solve(gram[np.ix_(free, free)], right[free])
            below = free & (trial <= 0.0)
            if not below.any():
                values = trial
                break
            step = float(np.min(values[below] / (values[below] - trial[below])))
            values = values + step * (trial - values)
            free &= values > _CLOSE * expected
            values[~free] = 0.0


def ratio(values: Mapping[Key, float], item: Measured) -> float:
    """Predicted over measured."""
    return sum(values[key] * value for key, value in item.form.items()) / item.seconds


def left_out(cells: Sequence[Measured]) -> dict[str, Vector]:
    """Per graph, the logarithms of predicted over measured by the fit without it."""
    graphs = dict.fromkeys(item.graph for item in cells)
    found = {}
    for graph in graphs:
        values = fitted([item for item in cells if item.graph != graph])
        found[graph] = np.log([ratio(values, item) for item in cells if item.graph == graph])
    return found


def spread_of(errors: Mapping[str, Vector]) -> float:
    """The half width that holds ``LEVEL`` of the errors: the split conformal quantile.

    It is counted in graphs, since the sizes of one graph err together. Source: Vovk, Gammerman,
    Shafer, "Algorithmic learning in a random world" (2005); Lei et al., JASA 113 (2018).
    """
    share = min(1.0, LEVEL * (1.0 + 1.0 / len(errors)))
    return float(np.quantile(np.abs(np.concatenate(list(errors.values()))), share))


def judged(cells: Sequence[Measured], engine: str, threads: tuple[int, ...]) -> Fit:
    """The fit of all cells of an engine, with its errors on graphs that were left out."""
    errors = left_out(cells)
    covered = []
    for graph, own in errors.items():
        without = left_out([item for item in cells if item.graph != graph])
        covered += [abs(value) <= spread_of(without) for value in own]
    values, pooled = fitted(cells), np.concatenate(list(errors.values()))
    here = host.probe()
    return Fit(
        machine=f"{here.cpu}, {', '.join(here.isa)}",
        version=host.library_version(engine),
        date=datetime.now(UTC).date().isoformat(),
        threads=threads,
        kinds={kind: _factors(values, kind) for kind in KINDS},
        operator_us=round(values["", "operator_us"], 4),
        run_us=round(values["", "run_us"], 4),
        spread=round(spread_of(errors), 4),
        median_error=round(float(np.median(np.abs(np.expm1(pooled)))), 4),
        coverage=round(float(np.mean(covered)), 4),
        errors={graph: tuple(round(float(value), 4) for value in np.expm1(own)) for graph, own in errors.items()},
    )


def _factors(values: Mapping[Key, float], kind: str) -> Factors:
    names = ("compute", "memory", *(("narrow", "shallow", "short") if kind in PRODUCTS else ()))
    return Factors(**{name: round(values.get((kind, name), _EXPECTED.get(name, 0.0)), 4) for name in names})


def across_engines(engines: Mapping[str, Sequence[Measured]], fits: Mapping[str, Fit], roof: Roof) -> float:
    """The half width that holds ``LEVEL`` of the errors where an engine is predicted by the fits of the others."""
    errors = [
        math.log(parts_of(item.work, roof, "fp32", fits[other]).total / item.seconds)
        for name, cells in engines.items()
        for other in engines
        if other != name
        for item in cells
    ]
    return float(np.quantile(np.abs(errors), LEVEL)) if errors else 0.0


def section(fits: Mapping[str, Fit], across: float, files: Sequence[str]) -> Section:
    """What stands in docs/benchmarks.md."""
    figures = []
    for name, fit in fits.items():
        cells = sum(map(len, fit.errors.values()))
        what = f"{name} {fit.version}, {len(fit.errors)} graphs, {cells} cells"
        goal = f"at most {100 * GOAL_ERROR:.0f} %"
        met = verdict(fit.median_error <= GOAL_ERROR)
        figures.append(Figure(f"{what}: median error", f"{100 * fit.median_error:.1f} %", goal, met))
        held = f"{100 * fit.coverage:.1f} %"
        goal = f"at least {100 * GOAL_COVERAGE:.0f} %"
        figures.append(Figure(f"{what}: intervals that hold", held, goal, verdict(fit.coverage >= GOAL_COVERAGE)))
        figures.append(Figure(f"{name}: interval", f"a factor of {math.exp(fit.spread):.2f} either way"))
        worst = max(fit.errors.items(), key=lambda item: max(map(abs, item[1])))
        figures.append(
            Figure(f"{name}: worst graph", f"{worst[0]}: {', '.join(f'{100 * e:+.0f} %' for e in worst[1])}")
        )
    figures.append(
        Figure("one engine by the others' fits: holds 90 %", f"a factor of {math.exp(across):.2f} either way")
    )
    text = (
        "Graphs with random weights at three sizes each, one thread, fp32; each graph is predicted by a fit of the "
        "others. The time of a cell is the processor time of its process per run, median of 5 rounds."
    )
    commands = (
        "python bench/numbers/prediction_cells.py --out cells.json ...",
        f"python bench/numbers/prediction.py {' '.join(Path(f).name for f in files)}",
    )
    return Section("Prediction", text, commands, tuple(figures))


if __name__ == "__main__":
    typer.run(main)
