"""What the loop does with any family: the average of the weights, the best ones, lost losses, previews, trackers."""

from __future__ import annotations

import json
import sys
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.train import tiny_family

from avsdk.errors import NotAvailable, NotMet
from avsdk.sound import read_sound
from avsdk_train import commands
from avsdk_train.checkpoint import read_best
from avsdk_train.record import record_from_files
from avsdk_train.run import read_run_file, weights_file
from avsdk_train.watch import read_log

pytestmark = pytest.mark.usefixtures("fresh_accelerate", "tiny_registered")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(5):
        (folder / f"{index}.txt").write_text(str(index))
    return folder


def start(data: Path, out: Path, **settings: object) -> dict[str, Any]:
    return commands.train_new("tiny", [data], out, "", "", [f"{key}={value}" for key, value in settings.items()])


def test_the_average_is_what_ships_and_the_weights_go_on(data: Path, tmp_path: Path) -> None:
    start(data, tmp_path / "plain", steps=4, keep="all", checkpoint_every=1)
    start(data, tmp_path / "mean", steps=4, keep="all", checkpoint_every=1, ema_decay=0.5)
    plain, mean = (read_log(tmp_path / name / "metrics.jsonl") for name in ("plain", "mean"))
    assert [line["loss"] for line in plain] == [line["loss"] for line in mean], "the average changes no training"
    raw = [
        load_file(tmp_path / "plain" / "checkpoints" / f"step-{i:08d}" / "weights.safetensors") for i in (1, 2, 3, 4)
    ]
    torch.manual_seed(0)
    first = tiny_family.TinyFamily().network("base").state_dict()
    for name, value in load_file(tmp_path / "mean" / "weights.safetensors").items():
        expected = first[name]
        for step, weights in enumerate(raw):
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * weights[name]
        torch.testing.assert_close(value, expected)


def test_a_run_with_an_average_resumes_bit_for_bit(data: Path, tmp_path: Path) -> None:
    start(data, tmp_path / "whole", steps=6, ema_decay=0.9)
    start(data, tmp_path / "cut", steps=6, ema_decay=0.9)
    for name in ("weights.safetensors", "checkpoints/step-00000006/weights.safetensors"):
        (tmp_path / "cut" / name).unlink()
    commands.train_on("tiny", [], tmp_path / "cut", "", "", [])
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_best_stretch_is_kept_and_can_be_what_ships(data: Path, tmp_path: Path) -> None:
    answer = start(
        data, tmp_path / "run", steps=8, spoilt_at=4, spoilt_by=50, final="best", best_by="error", explode_factor=0
    )
    log = {line["step"]: line["error"] for line in read_log(tmp_path / "run" / "metrics.jsonl")}
    means = {step: (log[step - 1] + log[step]) / 2 for step in (2, 4, 6, 8)}
    best = read_best(tmp_path / "run" / "checkpoints")
    assert best is not None
    assert best.step == min(means, key=lambda step: means[step])
    assert best.mean == pytest.approx(means[best.step])
    shipped = load_file(answer["weights"])
    kept = load_file(tmp_path / "run" / "checkpoints" / "best" / "weights.safetensors")
    assert all(torch.equal(shipped[name], kept[name]) for name in kept)


@pytest.mark.parametrize(("factor", "message"), [(0, r"is nan"), (1000, r"is .*, over 10 times the median")])
def test_a_lost_loss_leaves_what_it_came_from(data: Path, tmp_path: Path, factor: float, message: str) -> None:
    run = tmp_path / "run"
    settings = {"steps": 20, "spoilt_at": 14, "spoilt_by": factor, "explode_factor": 10, "checkpoint_every": 14}
    with pytest.raises(NotMet, match=message) as caught:
        start(data, run, **settings)
    folder = run / "stopped" / "step-00000015"
    assert caught.value.exit_code == 4
    assert str(folder) in caught.value.fix
    before = load_file(run / "checkpoints" / "step-00000014" / "weights.safetensors")
    saved = load_file(folder / "weights.safetensors")
    assert all(torch.equal(before[name], saved[name]) for name in before), "the weights before the step"
    assert load_file(folder / "batch-0.safetensors")["x"].shape == (2, 4)
    losses = json.loads((folder / "losses.json").read_text())
    assert losses["step"] == 15
    assert losses["loss"] == "nan" or losses["loss"] > 10
    assert not list((run / "checkpoints").glob("step-00000015"))


def test_an_explosion_is_let_pass_where_the_recipe_says_so(data: Path, tmp_path: Path) -> None:
    assert start(data, tmp_path / "run", steps=16, spoilt_at=14, spoilt_by=1000, explode_factor=0)["finished"]


def test_a_preview_may_be_heard(data: Path, tmp_path: Path) -> None:
    answer = start(data, tmp_path / "run", steps=2, sound="true")
    assert Path(answer["preview"]).name == "00000002.wav"
    assert read_sound(answer["preview"], 8000).shape == (32,)


def test_a_run_remembers_its_data_and_its_code(data: Path, tmp_path: Path) -> None:
    start(data, tmp_path / "run", steps=1)
    found = read_run_file(tmp_path / "run")
    assert found.files == 5
    assert found.content_sha256 == record_from_files(sorted(data.iterdir()), [data]).sha256
    assert found.versions["torch"] == metadata.version("torch")
    assert found.processes == 1
    (data / "0.txt").write_text("9")  # same name, same size
    assert found.content_sha256 != record_from_files(sorted(data.iterdir()), [data]).sha256


def test_how_fast_it_goes_is_logged_beside_the_losses(data: Path, tmp_path: Path) -> None:
    answer = start(data, tmp_path / "run", steps=2)
    assert answer["pace"]["samples_per_s"] > 0
    assert 0 <= answer["pace"]["waiting_for_data"] <= 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["samples_per_s"] > 0 and 0 <= line["waiting_for_data"] <= 1 for line in lines)
    assert set(read_log(tmp_path / "run" / "metrics.jsonl")[0]) == {"step", "loss", "error", "learning_rate"}


class _Mlflow(types.ModuleType):
    """The calls that our own logic makes of MLflow, written down."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.calls: list[tuple[str, Any]] = []

    def set_experiment(self, name: str) -> None:
        self.calls.append(("experiment", name))

    def start_run(self, run_id: str | None, run_name: str | None) -> Any:
        self.calls.append(("start", run_id))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

    def log_params(self, values: dict[str, str]) -> None:
        self.calls.append(("params", values["steps"]))

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.calls.append(("metrics", (step, sorted(values))))

    def log_image(self, picture: Any, key: str, step: int) -> None:
        self.calls.append(("image", step))

    def end_run(self) -> None:
        self.calls.append(("end", None))


def test_mlflow_is_told_and_a_resumed_run_goes_on_in_its_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = _Mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    start(data, tmp_path / "run", steps=2, trackers="mlflow")
    commands.train_on("tiny", [], tmp_path / "run", "", "", [])
    names = [name for name, _ in mlflow.calls]
    assert names == [
        "experiment",
        "start",
        "params",
        "metrics",
        "metrics",
        "image",
        "end",
        "experiment",
        "start",
        "end",
    ]
    assert mlflow.calls[3][1] == (1, ["error", "learning_rate", "loss", "samples_per_s", "waiting_for_data"])
    assert [value for name, value in mlflow.calls if name == "start"] == [None, "abc"]


def test_mlflow_that_is_not_installed_is_said(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(NotAvailable, match=r"pip install 'avsdk\[mlflow\]'"):
        start(data, tmp_path / "run", steps=2, trackers="mlflow")
    assert start(data, tmp_path / "other", steps=2)["finished"], "it is imported where it is asked for only"


def test_a_run_of_an_older_avsdk_is_read(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(data, run, steps=2)
    document = json.loads((run / "run.json").read_text())
    for key in ("files", "content_sha256", "code", "processes"):
        del document[key]
    (run / "run.json").write_text(json.dumps(document))
    lines = (run / "recipe.toml").read_text().splitlines()
    new = ("ema_decay", "best_by", "final", "keep", "explode_factor", "sharding", "trackers", "workers", "max_corrupt")
    (run / "recipe.toml").write_text("\n".join(line for line in lines if not line.startswith(new)) + "\n")
    assert commands.train_on("tiny", [], run, "", "", [])["finished"]
    assert weights_file(run).is_file()
