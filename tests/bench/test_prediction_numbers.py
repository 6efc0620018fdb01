"""The scripts that measure, fit and judge predictions."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from avsdk.schema import encode
from avsdk_bench import efficiencies
from avsdk_bench.calibration import Rates
from avsdk_bench.efficiencies import Factors, Fit, parts_of
from avsdk_bench.flops import KINDS, PRODUCTS
from avsdk_bench.roofline import roof_here
from avsdk_bench.work import Operator, Work

RATES = Rates(100e9, 10e9, 50e9, 1 << 20)
ROOF = roof_here(RATES, ("avx2",))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, project_root: Path) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(project_root / "bench" / "numbers")
    return importlib.import_module


def made_up_fit() -> Fit:
    kinds = {
        kind: Factors(1.0 + 0.3 * place, 0.4, *((0.2, 0.3, 0.1) if kind in PRODUCTS else ()))
        for place, kind in enumerate(KINDS)
    }
    return Fit("m", "1", "2026-01-01", (1,), kinds, 3.0, 20.0, 0.1, 0.1, 0.9, {})


def made_up_cells(script: Callable[[str], ModuleType], noise: float = 0.0, graphs: int = 8) -> list[Any]:
    """Graphs of every kind of operator in seeded amounts, timed by known factors."""
    random = np.random.default_rng(0)
    cells = []
    for graph in range(graphs):
        shares = random.dirichlet(np.ones(len(KINDS)))
        for scale in (1.0, 4.0, 12.0):
            operators = tuple(
                Operator(
                    f"{kind}{number}", kind, ("X",), int(scale * share * 1e9), int(scale * share * 1e6),
                    int(1e5 * share), int(scale * share * 1e6), rows=64, columns=int(random.integers(8, 256)),
                    depth=int(random.integers(8, 512)),
                )
                for kind, share in zip(KINDS, shares, strict=True)
                for number in range(3)
            )  # fmt: skip
            work = Work(operators, 1, 1)
            seconds = parts_of(work, ROOF, "fp32", made_up_fit()).total * np.exp(noise * random.standard_normal())
            prediction = script("prediction")
            cells.append(prediction.Measured(f"g{graph}", work, float(seconds), prediction.features(work, ROOF)))
    return cells


def test_what_was_made_by_known_factors_is_predicted(script: Callable[[str], ModuleType]) -> None:
    fit = script("prediction").judged(made_up_cells(script), "onnxruntime", (1,))
    assert fit.median_error < 0.1
    assert fit.spread < 0.3
    assert fit.kinds.keys() == set(KINDS)
    assert len(fit.errors) == 8
    assert all(len(errors) == 3 for errors in fit.errors.values())


def test_the_intervals_hold_what_noise_does(script: Callable[[str], ModuleType]) -> None:
    fit = script("prediction").judged(made_up_cells(script, noise=0.2), "onnxruntime", (1,))
    assert 0.05 < fit.median_error < 0.3
    assert fit.coverage >= 0.85


def test_a_graph_that_is_left_out_says_nothing_of_itself(script: Callable[[str], ModuleType]) -> None:
    """Ten times its times change its own errors by exactly that, for no fit that judges it has seen them."""
    prediction = script("prediction")
    cells = made_up_cells(script, noise=0.1)
    slower = [replace(item, seconds=item.seconds * (10.0 if item.graph == "g3" else 1.0)) for item in cells]
    before, after = (prediction.left_out(found)["g3"] for found in (cells, slower))
    assert after == pytest.approx(before - np.log(10.0), abs=1e-9)


def test_the_linear_form_is_what_predictions_add_up(script: Callable[[str], ModuleType]) -> None:
    prediction, fit = script("prediction"), made_up_fit()
    item = made_up_cells(script)[0]
    fused = Work(tuple(Operator(**{**vars(op), "fused_flops": op.flops // 3}) for op in item.work.operators), 1, 1)
    values = {("", "run_us"): fit.run_us, ("", "operator_us"): fit.operator_us}
    values |= {(kind, name): getattr(fit.kinds[kind], name) for kind, name in prediction.ALL_KEYS if kind}
    for work in (item.work, fused):
        form = prediction.features(work, ROOF)
        assert sum(values[key] * value for key, value in form.items()) == pytest.approx(
            parts_of(work, ROOF, "fp32", fit).total
        )


def test_the_least_squares_are_least_and_none_is_below_zero(script: Callable[[str], ModuleType]) -> None:
    """The conditions of Karush, Kuhn and Tucker hold: where a value is 0 the gradient points away, else it is 0."""
    prediction = script("prediction")
    random = np.random.default_rng(1)
    matrix, wanted, expected = random.random((40, 8)), random.standard_normal(40), np.full(8, 0.5)
    values = prediction._non_negative(matrix, wanted, expected)
    pull = prediction._PRIOR / expected**2
    gradient = matrix.T @ (matrix @ values - wanted) + pull * (values - expected)
    assert (values >= 0).all()
    assert (values == 0).any()
    assert np.abs(gradient[values > 0]).max() < 1e-6
    assert gradient[values == 0].min() > -1e-6


def test_a_factor_that_nothing_speaks_for_stays_at_what_is_expected(script: Callable[[str], ModuleType]) -> None:
    prediction = script("prediction")
    cells = [
        replace(item, form=prediction.features(Work(item.work.operators[:3], 1, 1), ROOF))
        for item in made_up_cells(script)
    ]
    values = prediction.fitted(cells)
    assert values["recurrent", "compute"] == pytest.approx(prediction._EXPECTED["compute"])


def test_the_page_and_the_data_file_come_from_the_cells(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    prediction = script("prediction")
    cells = [
        {
            "graph": item.graph, "place": 0, "engine": engine, "threads": 1, "work": encode(item.work),
            "ms": factor * 1e3 * item.seconds, "rates": encode(RATES),
        }
        for engine, factor in (("onnxruntime", 1.0), ("openvino", 1.2))
        for item in made_up_cells(script, graphs=5)
    ]  # fmt: skip
    missing = {**cells[0], "engine": "litert", "ms": None, "reason": "it does not convert"}
    (tmp_path / "cells.json").write_text(json.dumps({"cells": [*cells, missing]}))
    monkeypatch.setattr(prediction, "FILE", tmp_path / "efficiencies.json")
    monkeypatch.setattr(efficiencies, "FILE", tmp_path / "efficiencies.json")
    prediction.main([tmp_path / "cells.json"], write=True)
    page = capsys.readouterr().out
    assert "5 graphs, 15 cells: median error" in page
    assert "| at most 20 % | met |" in page
    efficiencies.load_efficiencies.cache_clear()
    try:
        known = efficiencies.load_efficiencies()
    finally:
        efficiencies.load_efficiencies.cache_clear()
    assert set(known.engines) == {"onnxruntime", "openvino"}
    assert known.elsewhere.engine == pytest.approx(np.log(1.2), abs=0.05)


def test_a_graph_is_exported_built_and_timed(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'avsdk[onnxruntime]'")
    cells = script("prediction_cells")
    monkeypatch.setattr(cells, "ROUNDS", 2)
    monkeypatch.setattr(cells, "TURN_S", 0.02)
    (found,) = cells.measured("enlarging", 0, ["onnxruntime"], 1, tmp_path)
    assert found["ms"] > 0
    assert found["wall_ms"] > 0
    assert len(found["rounds"]) == 2
    assert found["work"]["not_counted"] in ((), [])
    assert found["rates"]["flops_per_s"] > 1e8


def test_the_graphs_are_unlike(script: Callable[[str], ModuleType]) -> None:
    graphs = script("unlike_graphs")
    assert len(graphs.NETWORKS) >= 20
    for name in graphs.NETWORKS:
        module, sizes = graphs.network(name)
        assert len(sizes) == 3
        assert not module.training
    first, again = (graphs.network("wide")[0][0].weight for _ in range(2))
    assert (first == again).all()
