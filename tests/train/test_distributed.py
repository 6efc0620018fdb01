"""Several processes: what two with batch b do is what one with batch 2 b does, resumed and stopped together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.train import tiny_family

from avsdk.errors import UsageError
from avsdk_train import commands
from avsdk_train.run import read_run_file
from avsdk_train.watch import read_log

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index in range(5):
        (folder / f"{index}.txt").write_text(str(index))
    return folder


def words(data: Path, out: Path, *more: str, **settings: object) -> list[str]:
    chosen = {"steps": STEPS, "ema_decay": 0.9, **settings}
    sets = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    return ["train", "tiny", "--data", str(data), "--out", str(out), *sets, *more]


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One process, two, and two that share the weights out; those of two were interrupted in one process, once."""
    folder = tmp_path_factory.mktemp("runs")
    names = {"one": {"batch_size": 4}, "two": {}, "shared": {"sharding": "full"}}
    trainings: list[dict[str, Any]] = [{"processes": 1, "words": words(data, folder / "one", **names["one"])}]
    for name in ("two", "shared"):
        begun = words(data, folder / name, **names[name])
        trainings.append({"processes": 2, "words": begun, "interrupt": [1, 2]})
        trainings.append({"processes": 2, "words": ["train", "tiny", "--out", str(folder / name), "--resume"]})
    trainings.append({"processes": 1, "words": words(data, folder / "lone", sharding="full")})
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.forked", json.dumps(trainings)],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes == [[0], [130, 130], [0, 0], [130, 130], [0, 0], [2]], done.stderr[-3000:]
    assert "sharding=full with 1 process on cpu" in done.stderr
    assert done.stderr.count("resuming after step 3 of 8") == 2  # one process speaks
    return {name: folder / name for name in names}


@pytest.mark.parametrize("name", ["two", "shared"])
def test_two_processes_equal_one_with_twice_the_batch(runs: dict[str, Path], name: str) -> None:
    alone, together = (read_log(runs[run] / "metrics.jsonl") for run in ("one", name))
    assert [line["step"] for line in together] == list(range(1, STEPS + 1))
    for one, two in zip(alone, together, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    first, second = (load_file(runs[run] / "weights.safetensors") for run in ("one", name))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["two", "shared"])
def test_a_checkpoint_is_whole_whoever_wrote_it(runs: dict[str, Path], name: str) -> None:
    newest = runs[name] / "checkpoints" / f"step-{STEPS:08d}"
    state = load_file(newest / "weights.safetensors")
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        key: tuple(value.shape) for key, value in tiny_family.TinyFamily().network("base").state_dict().items()
    }
    assert read_run_file(runs[name]).processes == 2


@pytest.mark.usefixtures("fresh_accelerate", "tiny_registered")
def test_a_run_goes_on_in_as_many_processes_as_it_began(runs: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"begun by 2 processes, and goes on with 1"):
        commands.train_on("tiny", [], runs["two"], "", "", [])
