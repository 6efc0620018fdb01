"""The loop, through the command line in child processes: exact resume, kills, damage, full disks, error texts."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from avsdk.errors import AvsdkError, CheckpointRefused, DiskFull, NotAvailable, NotMet, SilentFallback, UsageError
from avsdk_train import commands, distributed, loop
from avsdk_train.family import Losses, load_family
from avsdk_train.recipe import Recipe
from avsdk_train.run import read_spec, weights_file
from avsdk_train.watch import read_log
from avsdk_train.weights import write_weights

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def start(tiny: Any, out: Path, **changes: object) -> dict[str, Any]:
    return commands.train_new("style_transfer", [tiny.data], out, "", "", tiny.settings(**changes))


def go_on(out: Path, *overrides: str) -> dict[str, Any]:
    return commands.train_on("style_transfer", [], out, "", "", overrides)


def recipe_of(tiny: Any, **changes: object) -> Recipe:
    return commands._recipe_of("style_transfer", "", "", tiny.settings(**changes))[1]


@pytest.fixture(scope="module")
def uninterrupted(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    out = tmp_path_factory.mktemp("whole") / "run"
    answer = start(tiny, out)
    assert (answer["finished"], answer["step"]) == (True, 6)
    return out


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Die as by a power cut when step ``step`` (from 0) begins."""

    def dying(self: Any, batch: Any, at: int) -> Any:
        if at == step:
            raise _PowerCut
        return whole(self, batch, at)

    whole = loop._Trainer.losses
    monkeypatch.setattr(loop._Trainer, "losses", dying)


class _PowerCut(BaseException):
    pass


def assert_same(a: Path, b: Path) -> None:
    assert read_log(a / "metrics.jsonl") == read_log(b / "metrics.jsonl")
    first, second = (load_file(run / "weights.safetensors") for run in (a, b))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_holds_what_later_steps_need(uninterrupted: Path) -> None:
    log = read_log(uninterrupted / "metrics.jsonl")
    assert [line["step"] for line in log] == list(range(1, 7))
    assert "reconstruction" in log[0]
    assert {"content", "style", "total_variation"} <= set(log[1])
    assert sorted(path.name for path in (uninterrupted / "previews").iterdir()) == ["00000003.png", "00000006.png"]
    assert sorted(path.name for path in (uninterrupted / "checkpoints").iterdir()) == [
        "best", "latest", "step-00000004", "step-00000006",
    ]  # fmt: skip
    assert read_spec(uninterrupted).model == "style_transfer/run"
    assert list((uninterrupted / "tensorboard").iterdir())
    assert weights_file(uninterrupted) == uninterrupted / "weights.safetensors"


def test_the_preview_shows_photographs_beside_their_styled_form(uninterrupted: Path) -> None:
    from avsdk.media import read_image

    picture = read_image(uninterrupted / "previews" / "00000006.png")
    assert picture.shape == (3 * 32, 2 * 40, 3)


def test_two_resumes_in_one_epoch_equal_an_uninterrupted_run_bit_for_bit(
    tiny: Any, tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(_PowerCut):
        stop_after(patched, 3)
        start(tiny, out)
    torch.manual_seed(99)  # whatever the next process's generators hold must not matter
    with monkeypatch.context() as patched, pytest.raises(_PowerCut):
        stop_after(patched, 5)
        go_on(out)
    assert go_on(out)["finished"]
    assert_same(out, uninterrupted)


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    tiny: Any, tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(_PowerCut):
        stop_after(patched, 1)
        start(tiny, out)
    go_on(out)
    assert_same(out, uninterrupted)


def test_sigkill_at_any_moment_leaves_a_state_that_goes_on_exactly(
    tiny: Any, tmp_path: Path, uninterrupted: Path, child_environment: dict[str, str]
) -> None:
    out = tmp_path / "run"
    arguments = tiny.arguments(out)
    for attempt in range(2):
        code = "from avsdk_train.cli import app; app()"
        child = subprocess.Popen(
            [sys.executable, "-c", code, *(arguments if attempt == 0 else [*arguments, "--resume"])],
            env=child_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        waited_for = out / "checkpoints" / ("latest" if attempt == 0 else "step-00000004")
        while not waited_for.exists() and child.poll() is None:
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert go_on(out)["finished"]
    assert_same(out, uninterrupted)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tiny: Any, tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(_PowerCut):
        stop_after(patched, 5)
        start(tiny, out)
    (out / "checkpoints" / "step-00000004" / "weights.safetensors").write_bytes(b"damaged")
    go_on(out)
    assert "checkpoint step-00000004 is passed over" in capsys.readouterr().err
    assert_same(out, uninterrupted)


def test_a_finished_run_resumes_to_itself(uninterrupted: Path) -> None:
    answer = go_on(uninterrupted)
    assert (answer["finished"], answer["step"]) == (True, 6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["steps=9"], r"begun with another steps(.|\n)*--set init="), (["style_weight=1.5"], r"another style_weight")],
)
def test_a_resume_with_another_recipe_is_refused(uninterrupted: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        go_on(uninterrupted, *overrides)


def test_a_resume_on_other_data_is_refused(tiny: Any, uninterrupted: Path) -> None:
    with pytest.raises(UsageError, match=r"is not what .* was begun with"):
        commands.train_on("style_transfer", [tiny.data / "deeper"], uninterrupted, "", "", [])


def test_an_edited_recipe_is_refused(tiny: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    start(tiny, out, steps=2)
    edited = (out / "recipe.toml").read_text().replace("style_weight = 0.01", "style_weight = 0.5")
    (out / "recipe.toml").write_text(edited)
    with pytest.raises(CheckpointRefused, match="made by another recipe"):
        go_on(out)


def test_other_features_than_in_training_are_refused(tiny: Any, tmp_path: Path, uninterrupted: Path) -> None:
    other = tmp_path / "other.safetensors"
    state = load_file(tiny.features)
    state["conv1_1.bias"] += 1
    write_weights(other, state)
    with pytest.raises(UsageError, match=r"not the one that the style targets were made with"):
        go_on(uninterrupted, f"features={other}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": ""}, r"needs a feature network(.|\n)*--set features=FILE(.|\n)*features.N.weight"),
        ({"features": "no.safetensors"}, r"'no.safetensors' is not a file"),
        ({"style": ""}, r"no painting was given(.|\n)*--set style=FILE"),
        ({"style": "no.png"}, r"the painting 'no.png' is not a file"),
        ({"content_layer": "relu9_9"}, r"no layer 'relu9_9'(.|\n)*relu1_1"),
        ({"init": "zoo:style_transfer/nothing"}, r"unknown zoo model"),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_left_behind(
    tiny: Any, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(AvsdkError, match=message) as caught:
        start(tiny, tmp_path / "run", **changes)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    if "init" not in changes:
        assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_not_written_into(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match=r"is there already(.|\n)*--resume"):
        start(tiny, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_resume_of_nothing_and_training_on_nothing_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no run to resume(.|\n)*leave out --resume"):
        go_on(tmp_path)
    with pytest.raises(UsageError, match=r"no data was given(.|\n)*--data DIR"):
        commands.train_new("style_transfer", [], tmp_path / "run", "", "", [])


def test_weights_to_start_from_are_loaded_and_need_no_warm_up(tiny: Any, tmp_path: Path, uninterrupted: Path) -> None:
    answer = start(tiny, tmp_path / "run", init=uninterrupted, steps=1, learning_rate=1e-12)
    assert "reconstruction" not in answer["losses"]
    first, second = (load_file(run / "weights.safetensors") for run in (uninterrupted, tmp_path / "run"))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def test_bfloat16_trains_with_sums_in_single_precision(tiny: Any, tmp_path: Path) -> None:
    answer = start(tiny, tmp_path / "run", steps=3, mixed_precision="bf16", clip_norm=1.0)
    assert answer["losses"]["style"] > 0
    assert {value.dtype for value in load_file(answer["weights"]).values()} == {torch.float32}


def test_a_loss_that_is_not_finite_ends_the_run(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(NotMet, match=r"the loss of step \d is (nan|inf)(.|\n)*lower learning_rate"):
        start(tiny, tmp_path / "run", learning_rate=1e30)


def test_no_checkpoint_holds_a_network_that_has_diverged(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(self: Any, batch: Any, at: int) -> Any:
        losses = whole(self, batch, at)
        return Losses(losses.total * float("nan"), losses.parts) if at == 3 else losses

    whole = loop._Trainer.losses
    monkeypatch.setattr(loop._Trainer, "losses", diverging)
    with pytest.raises(NotMet, match="the loss of step 4 is nan"):
        start(tiny, tmp_path / "run", log_every=100)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000002"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    "changes", [{"device": "cuda"}, {"device": "tpu"}, {"device": "auto", "mixed_precision": "fp16"}]
)
def test_a_device_or_precision_that_is_not_here_is_said(tiny: Any, tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(NotAvailable):
        start(tiny, tmp_path / "run", **changes)


def test_another_device_than_was_asked_for_is_a_fallback(
    tiny: Any, tmp_path: Path, fresh_accelerate: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed.Accelerator, "device", torch.device("meta"))
    with pytest.raises(SilentFallback, match="asks for device cpu, and accelerate chose meta"):
        start(tiny, tmp_path / "run")


@pytest.mark.parametrize(("tpu", "words"), [(True, "a TPU"), (False, "no TPU, this processor stands in")])
def test_what_pytorch_xla_trains_on_is_said(tiny: Any, tpu: bool, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = distributed.Processes(recipe_of(tiny))
    processes.device = torch.device("xla", 0)
    monkeypatch.setattr(distributed, "is_torch_xla_available", lambda check_is_tpu: tpu)
    (notice,) = processes.notices()
    assert notice.startswith(f"training on xla:0: {words}")


_PRESSED = """
import signal, sys
from pathlib import Path
from avsdk_train import commands, distributed, loop
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start what it puts in the background without it
whole = loop._Trainer.losses
def pressed(self, batch, at):
    if at == 2:
        signal.raise_signal(signal.SIGINT)
    return whole(self, batch, at)
loop._Trainer.losses = pressed
data, out, *settings = sys.argv[1:]
answer = commands.train_new("style_transfer", [Path(data)], Path(out), "", "", settings)
assert (answer["finished"], answer["step"]) == (False, 3), answer
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


def test_ctrl_c_ends_after_the_step_with_a_checkpoint(
    tiny: Any, tmp_path: Path, uninterrupted: Path, child_environment: dict[str, str]
) -> None:
    # In a process of its own: OpenVINO, which other tests load, makes a signal's frame larger than pytest's own stack
    # for signals on processors with AMX.
    out = tmp_path / "run"
    arguments = [str(tiny.data), str(out), *tiny.settings()]
    subprocess.run([sys.executable, "-c", _PRESSED, *arguments], env=child_environment, check=True)
    go_on(out)
    assert_same(out, uninterrupted)


def test_a_full_disk_ends_the_run_typed_and_it_goes_on_later(
    tiny: Any, tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes
    out = tmp_path / "run"

    def full(path: Path, data: bytes) -> int:
        if ".step-00000004" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    with monkeypatch.context() as patched, pytest.raises(DiskFull):
        patched.setattr(Path, "write_bytes", full)
        start(tiny, out)
    assert not list((out / "checkpoints").glob(".*"))
    go_on(out)
    assert_same(out, uninterrupted)


def test_a_read_only_place_is_typed(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*arguments: object, **named: object) -> str:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkdtemp", read_only)
    with pytest.raises(NotAvailable, match=r"Read-only file system(.|\n)*choose another folder"):
        start(tiny, tmp_path / "run")


def test_the_seed_decides_the_first_weights() -> None:
    family = load_family("style_transfer")
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(family.network("base").state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
