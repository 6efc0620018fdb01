"""ABX errors on real speech beside those of fastabx 0.9.0.

The stored figures are the output of ``python bench/numbers/abx.py --data ... --fastabx PYTHON`` with Python 3.12.1,
fastabx 0.9.0, torchdtw 0.4.2, torch 2.13.0, without thinning out; ours agreed with each to the fourth decimal.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal

import pytest

from avsdk_train.metrics.abx import abx_score
from avsdk_train.metrics.items import read_items

FASTABX: dict[tuple[str, str, Literal["within", "across"]], float] = {
    ("triphone", "bands", "within"): 20.7172,
    ("triphone", "bands", "across"): 32.7959,
    ("triphone", "codes", "within"): 33.1003,
    ("triphone", "codes", "across"): 43.6368,
    ("phoneme", "bands", "within"): 15.7971,
    ("phoneme", "bands", "across"): 26.4504,
}
CELLS = {("triphone", "within"): 614, ("triphone", "across"): 3420}


@pytest.mark.shared_data
def test_our_errors_are_those_of_fastabx(
    shared_data: Path, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(project_root / "bench" / "numbers")
    script: Any = importlib.import_module("abx")
    continuous = script.bands(shared_data / "librispeech" / "test-other")
    sources = {"bands": (continuous, 100), "codes": (script.loudest(continuous), 25)}
    for (items, name, speakers), error in FASTABX.items():
        features, rate_hz = sources[name]
        tokens = read_items(shared_data / "librispeech" / f"test-other.{items}.item")
        score = abx_score(tokens, features, rate_hz, speakers, threads=2)
        assert score.error == pytest.approx(error, abs=0.01), (items, name, speakers)
        assert score.cells == CELLS.get((items, speakers), score.cells)
