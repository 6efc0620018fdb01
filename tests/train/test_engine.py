"""What the loop keeps beside the last weights, and when it stops: averages, the best, explosions, records, trackers."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from avsdk.errors import CheckpointRefused, NotAvailable, NotMet, UnusableInput, UsageError
from avsdk_train import commands, loop, record, trackers
from avsdk_train.checkpoint import Best, read_best, write_best
from avsdk_train.ema import MovingAverage
from avsdk_train.family import Heard, Losses, load_family
from avsdk_train.history import History
from avsdk_train.recipe import Recipe
from avsdk_train.run import read_run_file, weights_file
from avsdk_train.watch import Pace, Watch, read_log

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def start(tiny: Any, out: Path, **changes: object) -> dict[str, Any]:
    return commands.train_new("style_transfer", [tiny.data], out, "", "", tiny.settings(**changes))


def recipe_of(tiny: Any, **changes: object) -> Recipe:
    return commands._recipe_of("style_transfer", "", "", tiny.settings(**changes))[1]


def losses_times(monkeypatch: pytest.MonkeyPatch, factors: dict[int, float]) -> None:
    """Multiply the loss of some steps (from 0), as a bad batch would."""

    def multiplied(self: Any, batch: Any, at: int) -> Losses:
        found: Losses = whole(self, batch, at)
        return Losses(found.total * factors.get(at, 1.0), found.parts)

    whole = loop._Trainer.losses
    monkeypatch.setattr(loop._Trainer, "losses", multiplied)


# Moving average


def test_the_average_follows_the_formula() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(1.0)
    average = MovingAverage(network, 0.9)
    expected = 1.0
    for step, value in enumerate((2.0, 4.0, 8.0)):
        with torch.no_grad():
            network.weight.fill_(value)
        average.update(network, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert float(average.state()["weight"]) == pytest.approx(expected, rel=1e-6)


def test_the_average_ships_and_a_resume_continues_it_exactly(tiny: Any, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    start(tiny, whole, ema_decay=0.8)
    plain = tmp_path / "plain"
    start(tiny, plain)
    assert read_log(whole / "metrics.jsonl") == read_log(plain / "metrics.jsonl"), "averaging must not change training"
    first, second = (load_file(run / "weights.safetensors") for run in (whole, plain))
    assert not torch.equal(first["conv1.conv2d.weight"], second["conv1.conv2d.weight"]), "it is the average that ships"
    resumed = tmp_path / "resumed"
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints" / "step-00000006")
    (resumed / "weights.safetensors").unlink()
    commands.train_on("style_transfer", [], resumed, "", "", [])
    again = load_file(resumed / "weights.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert read_log(whole / "metrics.jsonl") == read_log(resumed / "metrics.jsonl")


# The best weights


def test_the_best_stretch_is_kept_and_can_ship(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses_times(monkeypatch, {4: 50.0, 5: 50.0})
    out = tmp_path / "run"
    start(tiny, out, final="best", warmup_batches=0, keep="all")
    best = read_best(out / "checkpoints")
    log = read_log(out / "metrics.jsonl")
    means = {step: (log[step - 2]["loss"] + log[step - 1]["loss"]) / 2 for step in (2, 4, 6)}
    assert best is not None
    assert best.step == min(means, key=lambda step: means[step])
    assert best.step != 6, "the last stretch was made the worst"
    assert best.mean == pytest.approx(means[best.step])
    shipped = load_file(out / "weights.safetensors")
    kept = load_file(out / "checkpoints" / f"step-{best.step:08d}" / "weights.safetensors")
    assert all(torch.equal(shipped[name], kept[name]) for name in shipped)
    assert len(list((out / "checkpoints").glob("step-*"))) == 3, "keep=all keeps them all"


def test_the_best_by_a_loss_that_is_not_there_ships_nothing_in_its_place(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no loss is named 'styel'(.|\n)*content, loss, style(.|\n)*avsdk export"):
        start(tiny, tmp_path / "run", final="best", best_by="styel", steps=2)
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    assert weights_file(tmp_path / "run").parent.name == "step-00000002"


def test_stretches_with_other_losses_are_not_compared(tmp_path: Path) -> None:
    weights = {"a": torch.ones(1)}
    assert write_best(tmp_path, weights, Best(2, "loss", 0.1, ("loss", "reconstruction")))
    assert write_best(tmp_path, weights, Best(4, "loss", 9.0, ("content", "loss"))), "after the warm-up it starts anew"
    assert not write_best(tmp_path, weights, Best(6, "loss", 9.5, ("content", "loss")))
    assert write_best(tmp_path, weights, Best(8, "loss", 8.5, ("content", "loss")))
    found = read_best(tmp_path)
    assert found is not None
    assert found.step == 8
    (tmp_path / "best" / "best.json").write_text("{}")
    with pytest.raises(CheckpointRefused):
        read_best(tmp_path)


# What ends a training


def test_an_exploding_loss_ends_the_run_before_the_step_with_all_it_takes_to_see_why(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_times(monkeypatch, {12: 1e6})
    out = tmp_path / "run"
    with pytest.raises(NotMet, match=r"the loss of step 13 is .*, over 1000 times the median(.|\n)*look at .*stopped"):
        start(tiny, out, steps=16, warmup_batches=0, checkpoint_every=12)
    folder = out / "stopped" / "step-00000013"
    batch = load_file(folder / "batch-0.safetensors")
    assert batch["image"].shape == (2, 3, 36, 36)  # the later crops
    losses = json.loads((folder / "losses.json").read_text())
    assert losses["step"] == 13
    assert losses["loss"] > 1000 * read_log(out / "metrics.jsonl")[-1]["loss"]
    before = load_file(out / "checkpoints" / "step-00000012" / "weights.safetensors")
    saved = load_file(folder / "weights.safetensors")
    assert all(torch.equal(before[name], saved[name]) for name in before), "the step must not have been taken"


def test_a_loss_that_is_no_number_is_saved_too(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses_times(monkeypatch, {2: float("nan")})
    with pytest.raises(NotMet, match=r"the loss of step 3 is nan"):
        start(tiny, tmp_path / "run")
    losses = json.loads((tmp_path / "run" / "stopped" / "step-00000003" / "losses.json").read_text())
    assert losses["loss"] == "nan"


def test_explosions_are_told_from_what_may_happen() -> None:
    history = History([], 1)
    assert history.objection({"loss": 1e9}, 1000) == "", "nothing to compare with"
    for step in range(20):
        history.add(step, {"loss": 1.0, "reconstruction": 1.0})
    assert history.objection({"loss": 1e6, "reconstruction": 1.0}, 1000)
    assert history.objection({"loss": 900.0, "reconstruction": 1.0}, 1000) == ""
    assert history.objection({"loss": 1e6, "reconstruction": 1.0}, 0) == "", "0 switches it off"
    assert history.objection({"loss": 1e6, "content": 1.0}, 1000) == "", "another loss begins"
    assert history.objection({"loss": float("inf")}, 0) == "is inf"


# What a run remembers


def test_a_run_records_its_data_and_code(tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start(tiny, out, steps=1)
    lines = (out / "data.sha256").read_text().splitlines()
    found = {line.split("  ")[1]: line.split("  ")[0] for line in lines}
    assert set(found) == {"a.png", "b.jpg", "deeper/c.PNG", "grey.png"}
    assert found["a.png"] == hashlib.sha256((tiny.data / "a.png").read_bytes()).hexdigest()
    run_file = read_run_file(out)
    assert run_file.files == 4
    assert run_file.content_sha256 == hashlib.sha256((out / "data.sha256").read_bytes()).hexdigest()
    assert {"torch", "accelerate", "numpy"} <= set(run_file.versions)
    assert re.fullmatch(r"([0-9a-f]{40}(-dirty)?)?", run_file.code)
    check = subprocess.run(["sha256sum", "--check", str(out / "data.sha256")], cwd=tiny.data, capture_output=True)
    assert check.returncode == 0


def test_the_commit_is_that_of_the_code_not_of_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(["git", *identity, "-C", str(tmp_path), *words], check=True, capture_output=True,
                              text=True).stdout  # fmt: skip

    git("init", "-q")
    code = tmp_path / "record.py"
    code.write_text("1")
    monkeypatch.setattr(record, "__file__", str(code))
    assert record.code_state() == "", "the file is in nobody's commit"
    git("add", "record.py")
    git("commit", "-qm", "Begin")
    commit = git("rev-parse", "HEAD").strip()
    assert record.code_state() == commit
    code.write_text("2")
    assert record.code_state() == f"{commit}-dirty"


def test_a_data_file_that_vanishes_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"gone.png cannot be read: No such file"):
        record.record_from_files([tmp_path / "gone.png"], [tmp_path])


def test_runs_from_before_the_new_keys_go_on(tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start(tiny, out, steps=4)
    (out / "weights.safetensors").unlink()
    shutil.rmtree(out / "checkpoints" / "step-00000004")
    run_file = json.loads((out / "run.json").read_text())
    old = {key: run_file[key] for key in ("schema", "data", "data_sha256", "recipe_sha256", "versions")}
    (out / "run.json").write_text(json.dumps(old))
    new_keys = ("ema_decay", "best_by", "final", "keep", "explode_factor", "sharding", "trackers")
    recipe = (out / "recipe.toml").read_text().splitlines()
    (out / "recipe.toml").write_text("\n".join(line for line in recipe if not line.startswith(new_keys)) + "\n")
    assert commands.train_on("style_transfer", [], out, "", "", [])["finished"]


def test_new_keys_at_their_defaults_leave_the_hash_of_a_recipe_as_it_was(tiny: Any) -> None:
    keys = recipe_of(tiny).computed_keys()
    assert not {"ema_decay", "final", "keep", "best_by", "trackers"} & set(keys)
    assert recipe_of(tiny, ema_decay=0.9).sha256() != recipe_of(tiny).sha256()
    assert recipe_of(tiny, keep="all").sha256() == recipe_of(tiny).sha256(), "what is kept changes no number"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("ema_decay=1", r"ema_decay is 1.0"),
        ("explode_factor=0.5", r"explode_factor is 0.5"),
        ("final=first", r"one of: last, best"),
        ("trackers=wandb", r"one of: mlflow"),
        ("sharding=half", r"one of: none, full"),
    ],
)
def test_impossible_settings_are_refused(tiny: Any, setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        commands._recipe_of("style_transfer", "", "", [*tiny.settings(), setting])


# Watching


def test_pace_tells_speed_and_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 4.0, 4.0, 4.0])
    monkeypatch.setattr("avsdk_train.watch.time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    pace = Pace()
    with pace.waiting():
        pass
    pace.count(8)
    assert pace.numbers() == {"samples_per_s": 2.0, "waiting_for_data": 0.25}
    assert pace.text() == "2 samples/s, 25% of it waiting for data"
    assert pace.left(10) == "0:00:40 left"


def test_the_answer_and_the_lines_tell_the_pace(tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = start(tiny, tmp_path / "run", steps=2)
    assert answer["pace"]["samples_per_s"] > 0
    assert 0 <= answer["pace"]["waiting_for_data"] <= 1
    assert re.search(r"samples/s, \d+% of it waiting for data", capsys.readouterr().err)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"samples_per_s", "waiting_for_data"} <= set(line)
    assert "samples_per_s" not in read_log(tmp_path / "run" / "metrics.jsonl")[0], "logs of equal runs are equal"


def test_a_preview_that_is_heard_is_a_wav(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from avsdk.sound import read_sound

    samples = np.sin(np.arange(1600, dtype=np.float32) / 5)
    monkeypatch.setattr(type(load_family("style_transfer")), "preview", lambda *_: Heard(samples, 16000))
    answer = start(tiny, tmp_path / "run", steps=2, preview_every=2)
    assert Path(answer["preview"]).suffix == ".wav"
    assert np.abs(read_sound(answer["preview"], 16000) - samples).max() < 1e-3


def test_previews_reach_tensorboard(tiny: Any, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    start(tiny, tmp_path / "run", steps=3)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["preview"]
    assert {"loss", "samples_per_s", "waiting_for_data"} <= set(events.Tags()["scalars"])


class FakeMlflow(types.ModuleType):
    """Stands in for the package in the test of our own logic: which calls, in which order, with what."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*words: Any, **named: Any) -> Any:
            self.calls.append((name, words, named))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

        return call


def test_mlflow_hears_of_everything_and_a_resume_goes_on_in_the_same_run(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    recipe = recipe_of(tiny, trackers="mlflow", steps=2)
    for begin in (0, 1):
        with Watch(tmp_path, recipe, start=begin) as watch:
            watch.step(begin + 1, {"loss": 1.0})
            watch.preview(begin + 1, np.zeros((4, 4, 3), np.uint8))
    names = [name for name, _, _ in fake.calls]
    assert names == [
        "set_experiment", "start_run", "log_params", "log_metrics", "log_image", "end_run",
        "set_experiment", "start_run", "log_metrics", "log_image", "end_run",
    ]  # fmt: skip
    starts = [named["run_id"] for name, _, named in fake.calls if name == "start_run"]
    assert starts == [None, "abc"]
    import os

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true", "nothing is reported behind the user's back"


def test_a_server_that_refuses_is_said(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusal(Exception):
        pass

    fake = FakeMlflow()
    fake.exceptions = types.SimpleNamespace(MlflowException=Refusal)
    fake.set_experiment = lambda name: (_ for _ in ()).throw(Refusal("no such server"))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    with pytest.raises(NotAvailable, match=r"refuses the run: no such server(.|\n)*MLFLOW_TRACKING_URI"):
        trackers.open_trackers(tmp_path, recipe_of(tiny, trackers="mlflow"), 0)


def test_a_tracker_that_is_not_installed_is_said(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(NotAvailable, match=r"the tracker mlflow(.|\n)*pip install 'avsdk\[mlflow\]'"):
        trackers.open_trackers(tmp_path, recipe_of(tiny, trackers="mlflow"), 0)
