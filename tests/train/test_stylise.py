"""The command ``stylise``: files out, exit codes, what is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from avsdk.errors import CheckpointRefused, UnusableInput, UsageError
from avsdk.media import read_image
from avsdk_train.cli import app

RUNNER = CliRunner()
QUICK = ["--set", "sizes=24", "--set", "calls=5", "--set", "threads=1", "--set", "device=cpu"]


def arguments(tiny: Any, out: Path, *more: str) -> list[str]:
    photo = tiny.data / "a.png"
    named = ["--style", str(tiny.style), "--features", str(tiny.features), "--out", str(out)]
    return ["stylise", str(photo), *named, *QUICK, *more]


def test_a_picture_its_curve_and_its_log(tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "painted.png"
    done = RUNNER.invoke(app, arguments(tiny, out, "--json"), catch_exceptions=False)
    answer = json.loads(done.stdout)
    assert (answer["output"], answer["calls"], answer["finished"]) == (str(out), 5, True)
    assert (answer["network"], answer["normalised"]) == ("vgg19 (normalised)", "as published")
    assert answer["settings"]["sizes"] == [24]
    assert "the weights reach relu1_1" in answer["notices"][0]
    assert "note: the weights reach relu1_1" in done.stderr
    assert read_image(out).shape == (24, 30, 3)
    assert read_image(Path(answer["curve"])).shape == (400, 800, 3)
    lines = [json.loads(line) for line in Path(answer["log"]).read_text(encoding="utf-8").splitlines()]
    assert [line["call"] for line in lines] == [1, 2, 3, 4, 5]
    assert min(line["loss"] for line in lines) == answer["best"]["loss"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "painted.losses.jsonl", "painted.losses.png", "painted.png",
    ]  # fmt: skip


def test_two_runs_write_the_same_bytes_and_the_answer_ends_with_the_next_step(tiny: Any, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        done = RUNNER.invoke(
            app, arguments(tiny, tmp_path / name / "x.png", "--set", "init=noise"), catch_exceptions=False
        )
        assert "30 x 24, 5 calls" in done.stdout
        assert "next: avsdk train style_transfer" in done.stderr
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert len(written[0]) == 3
    assert written[0] == written[1]


BARE = ["PHOTO", "--style", "STYLE", "--out", "x.png"]
WHOLE = [*BARE, "--features", "F"]


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (BARE, UsageError, "needs a feature network(.|\n)*--features FILE"),
        (["no.png", "--style", "STYLE", "--out", "x.png", "--features", "F"], UsageError, "the photograph 'no.png'"),
        (["PHOTO", "--style", "no.png", "--out", "x.png", "--features", "F"], UsageError, "the painting 'no.png'"),
        (["PHOTO", "--style", "STYLE", "--out", "x.gif", "--features", "F"], UsageError, "'x.gif'"),
        (["NOTES", "--style", "STYLE", "--out", "x.png", "--features", "F"], UnusableInput, "notes.txt"),
        ([*BARE, "--features", "STYLE"], CheckpointRefused, "no safetensors"),
        ([*WHOLE, "--set", "sise=9"], UsageError,
         "unknown setting of stylise: 'sise'(.|\n)*did you mean 'sizes'"),
        ([*WHOLE, "--set", "content_layer=relu4_2"], UsageError,
         "unknown layer"),
        ([*WHOLE, "--recipe", "no.toml"], UsageError, "no.toml"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_raised_typed(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], kind: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"PHOTO": tiny.data / "a.png", "STYLE": tiny.style, "F": tiny.features, "NOTES": tiny.data / "notes.txt"}
    with pytest.raises(kind, match=message):
        RUNNER.invoke(app, ["stylise", *(str(places.get(word, word)) for word in words)], catch_exceptions=False)
    assert not list(tmp_path.iterdir())


_PRESSED = """
import signal, sys
from avsdk_train.cli import app
from avsdk_train.families.style_transfer.stylise import CallProgress
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start what it puts in the background without it
heard = CallProgress.__call__
def pressed(self, call):
    heard(self, call)
    if call.call == 4:
        signal.raise_signal(signal.SIGINT)
CallProgress.__call__ = pressed
app(sys.argv[1:])
"""


def test_ctrl_c_writes_the_best_so_far_and_exits_130(
    tiny: Any, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    out = tmp_path / "cut.png"
    words = arguments(tiny, out, "--json", "--set", "calls=1000")
    done = subprocess.run(
        [sys.executable, "-c", _PRESSED, *words], env=child_environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["finished"], answer["calls"]) == (False, 4)
    assert answer["best"]["loss"] < answer["first"]["loss"]
    assert read_image(out).shape[0] == 24
