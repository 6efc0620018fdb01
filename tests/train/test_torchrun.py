"""The command line under ``torchrun``: style transfer in two processes, against one with the doubled batch."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from avsdk.errors import AvsdkError, UsageError
from avsdk_train import commands
from avsdk_train.distributed import Processes
from avsdk_train.run import read_run_file
from avsdk_train.watch import read_log

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
CHANGES = {"steps": 4, "warmup_batches": 1, "preview_every": 4, "style_weight": 100, "ema_decay": 0.5}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def two_processes(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """``torchrun`` on the loopback device, which is all that a namespace without a network has."""
    launch = ["--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "avsdk", *arguments, "--json"],
        env={**environment, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def trained_by_two(tiny: Any, environment: dict[str, str], out: Path, **changes: object) -> dict[str, Any]:
    done = two_processes(environment, *tiny.arguments(out, **{**CHANGES, "batch_size": 2, **changes}))
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)  # one document: only the first process prints
    return answer


@pytest.fixture(scope="module")
def by_two(tiny: Any, tmp_path_factory: pytest.TempPathFactory, child_environment: dict[str, str]) -> Path:
    out = tmp_path_factory.mktemp("two") / "run"
    answer = trained_by_two(tiny, child_environment, out)
    assert (answer["finished"], answer["step"]) == (True, 4)
    return out


@pytest.fixture(scope="module")
def by_one(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    out = tmp_path_factory.mktemp("one") / "run"
    commands.train_new("style_transfer", [tiny.data], out, "", "", tiny.settings(**{**CHANGES, "batch_size": 4}))
    return out


def assert_close(one: Path, two: Path) -> None:
    first, second = read_log(one / "metrics.jsonl"), read_log(two / "metrics.jsonl")
    assert [line["step"] for line in first] == [line["step"] for line in second] == [1, 2, 3, 4]
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, rel=1e-3)
    weights, others = (load_file(run / "weights.safetensors") for run in (one, two))
    assert all(value.shape == others[name].shape for name, value in weights.items())
    # Not by element: Adam's first steps follow the sign of the tiniest gradient.
    whole, other = (torch.cat([state[name].flatten() for name in weights]) for state in (weights, others))
    assert torch.linalg.vector_norm(whole - other) < 5e-3 * torch.linalg.vector_norm(whole)


def test_two_processes_train_as_one_with_the_doubled_batch(by_one: Path, by_two: Path) -> None:
    assert_close(by_one, by_two)
    assert read_run_file(by_two).processes == 2
    assert len(list((by_two / "previews").iterdir())) == 1


def test_another_number_of_processes_does_not_go_on(by_two: Path) -> None:
    with pytest.raises(UsageError, match=r"begun by 2 processes, and goes on with 1(.|\n)*--set init="):
        commands.train_on("style_transfer", [], by_two, "", "", [])


def test_what_the_first_process_refuses_ends_the_others_too(
    tiny: Any, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    done = two_processes(child_environment, *tiny.arguments(tmp_path))
    assert done.returncode != 0
    assert "is there already" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_fsdp_of_the_launcher_is_refused_in_favour_of_ours(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    _, recipe = commands._recipe_of("style_transfer", "", "", tiny.settings())
    with pytest.raises(AvsdkError, match=r"its own FSDP(.|\n)*--set sharding=full"):
        Processes(recipe)
