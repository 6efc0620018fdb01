"""The command line of training: answers on stdout, the rest on stderr, exit codes from the root command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from avsdk.errors import UsageError
from avsdk_train.cli import app
from avsdk_train.curve import curve_from_series

RUNNER = CliRunner()


def test_train_then_evaluate_in_json(tiny: Any, tmp_path: Path, fresh_accelerate: None) -> None:
    out = tmp_path / "run"
    done = RUNNER.invoke(app, [*tiny.arguments(out, "--json", steps=2)], catch_exceptions=False)
    answer = json.loads(done.stdout)
    assert (answer["finished"], answer["steps"], answer["run"]) == (True, 2, str(out))
    assert Path(answer["preview"]).is_file()
    features = f"features={tiny.features}"
    done = RUNNER.invoke(
        app, ["evaluate", str(out), "--data", str(tiny.data), "--set", features, "--set", "short_px=64", "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["n"] == 4
    done = RUNNER.invoke(
        app, ["evaluate", str(out), "--data", str(tiny.data), "--set", features, "--set", "short_px=64"],
        catch_exceptions=False,
    )  # fmt: skip
    assert "style_loss_unstyled" in done.stdout
    assert "next: avsdk export" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "style_transfer", "--out", "x"], "no data was given"),
        (["train", "style_transfr", "--out", "x", "--data", "."], "unknown family 'style_transfr'"),
        (["train", "style_transfer", "--out", "x", "--data", "."], "no picture beneath"),
        (["train", "style_transfer", "--out", "x", "--data", ".", "--variant", "big"], "no variant 'big'"),
        (["train", "style_transfer", "--out", "x", "--data", ".", "--recipe", "no.toml"], "'no.toml' is not a file"),
        (["train", "style_transfer", "--out", "x", "--data", ".", "--resume"], "is no run to resume"),
        (["evaluate", "x", "--data", "."], "is no trained model"),
    ],
)
def test_what_is_wrong_is_raised_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        RUNNER.invoke(app, arguments, catch_exceptions=False)
    assert not list(tmp_path.iterdir())


def test_the_zoo_as_text() -> None:
    done = RUNNER.invoke(app, ["zoo", "list"], catch_exceptions=False)
    assert done.exit_code == 0


def test_the_curve_is_drawn_for_any_losses() -> None:
    blank = curve_from_series({})
    assert blank.shape == (400, 800, 3)
    drawn = curve_from_series({"loss": [(1, 10.0), (2, 1.0), (3, 0.1)], "zero": [(1, 0.0)]})
    assert (drawn != 255).sum() > 1000
    assert drawn.dtype == np.uint8
