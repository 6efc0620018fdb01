"""The ablations as one command, on almost nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.train.test_units_network import TINY
from tests.train.test_units_training import voice, write_wav

from avsdk.errors import UsageError
from avsdk_train.experiments import run_experiment
from avsdk_train.families.unit_discovery import UnitDiscovery
from avsdk_train.families.unit_discovery.experiments import ROWS
from avsdk_train.families.unit_discovery.variants import SHAPES

NAME = "unit_discovery.ablations"


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setitem(SHAPES, "tiny", TINY)  # type: ignore[arg-type]
    monkeypatch.setitem(SHAPES, "tiny-conv", replace(TINY, layer="conv"))  # type: ignore[arg-type]
    monkeypatch.setattr(UnitDiscovery, "variants", (*UnitDiscovery.variants, "tiny", "tiny-conv"))
    folder = tmp_path / "corpus"
    for speaker, pitch_hz in (("ann", 200), ("bob", 110)):
        write_wav(folder / speaker / f"{speaker}.wav", voice(1.0, pitch_hz))
    return [f"data={folder}", f"test={folder}", "recipe=small", "size=tiny", "steps=1", "threads=1"]


def test_rows_are_trained_measured_and_found_again(corpus: list[str], tmp_path: Path) -> None:
    settings = [*corpus, "rows=both,conv"]
    found = [run_experiment(NAME, tmp_path / "out", small=False, overrides=settings) for _ in range(2)]
    assert found[0]["cells"] == found[1]["cells"]
    assert set(found[0]["cells"]) == {"both", "conv"}
    assert found[0]["cells"]["both"]["bitrate"] >= 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| 3: both | both |" in text
    assert "| text: the model of 2019 | conv |" in text
    assert str(tmp_path) not in json.dumps(found[0]["cells"])


def test_every_row_is_a_variant_of_both_sizes() -> None:
    for size in ("base", "small"):
        assert {size + ending for _, ending, _ in ROWS.values()} <= set(UnitDiscovery.variants)


@pytest.mark.parametrize(
    ("change", "text"), [("data=/nowhere", "data is '/nowhere'"), ("rows=both,k1024", "no row is called 'k1024'")]
)
def test_what_cannot_be_run_is_refused(corpus: list[str], tmp_path: Path, change: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        run_experiment(NAME, tmp_path / "out", small=False, overrides=[*corpus, change])
