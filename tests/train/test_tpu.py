"""PyTorch/XLA, where its toolchain is installed: a training there is one on the processor, but for rounding."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from avsdk.engines.xla import XlaSession
from avsdk.toolchains import installed_python
from avsdk_train import commands
from avsdk_train.run import read_run_file
from avsdk_train.watch import read_log

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6
_STATE = XlaSession.availability("cpu")
pytestmark = [
    pytest.mark.skipif(not _STATE.ok, reason=f"{_STATE.reason}: {_STATE.fix}"),
    pytest.mark.usefixtures("fresh_accelerate", "tiny_registered"),
]


def test_a_training_on_pytorch_xla_equals_one_on_the_processor(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for index in range(5):
        (data / f"{index}.txt").write_text(str(index))
    settings = [f"steps={STEPS}", "ema_decay=0.9", "clip_norm=1.0"]
    commands.train_new("tiny", [data], tmp_path / "cpu", "", "", settings)
    sources = os.pathsep.join(str(ROOT / name) for name in (".", "sdk", "train"))
    words = ["train", "tiny", "--data", str(data), "--out", str(tmp_path / "xla"), "--set", "device=auto"]
    begun = [*words, *(word for setting in settings for word in ("--set", setting))]
    environment = {**os.environ, "PJRT_DEVICE": "CPU", "PYTHONPATH": sources, "NO_COLOR": "1"}
    for more in (begun, ["train", "tiny", "--out", str(tmp_path / "xla"), "--resume"]):
        done = subprocess.run(
            [*installed_python("xla"), "-m", "tests.train.tiny_family", *more],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=250,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert "training on xla:0" in done.stderr
        last = tmp_path / "xla" / "checkpoints" / f"step-{STEPS:08d}"
        if more is begun:  # the second time it goes on from the checkpoint before
            (last / "weights.safetensors").unlink()
    assert f"resuming after step {STEPS - 2} of {STEPS}" in done.stderr
    assert "torch_xla" in read_run_file(tmp_path / "xla").versions
    here, there = (read_log(tmp_path / name / "metrics.jsonl") for name in ("cpu", "xla"))
    assert [line["step"] for line in there] == list(range(1, STEPS + 1))
    for one, two in zip(here, there, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("cpu", "xla"))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
