"""Checkpoints: whole or absent, hashed, without pickle; damage is found and passed over."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from avsdk.errors import CheckpointRefused, DiskFull
from avsdk_train.checkpoint import Checkpoint, load_newest, read_checkpoint, write_checkpoint


def checkpoint_at(step: int) -> Checkpoint:
    torch.manual_seed(step)
    network = nn.Linear(3, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    return Checkpoint(step, "recipe", dict(network.state_dict()), optimiser.state_dict(), {"scale": 2.0})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_everything_comes_back_with_its_type(tmp_path: Path) -> None:
    written = checkpoint_at(3)
    read = read_checkpoint(write_checkpoint(tmp_path, written))
    assert (read.step, read.recipe_sha256, read.extra) == (3, "recipe", {"scale": 2.0})
    assert read.optimiser["param_groups"] == written.optimiser["param_groups"]
    assert isinstance(read.optimiser["param_groups"][0]["betas"], tuple)
    assert set(read.optimiser["state"]) == {0, 1}
    for index, state in written.optimiser["state"].items():
        assert all(torch.equal(value, read.optimiser["state"][index][name]) for name, value in state.items())
    assert all(torch.equal(value, read.weights[name]) for name, value in written.weights.items())


def test_the_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, checkpoint_at(1))
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    read_checkpoint(path)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_a_kill_while_an_old_one_is_removed_leaves_none_half_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(BaseException):
        pass

    def cut(folder: Path, ignore_errors: bool = False) -> None:
        if not (Path(folder) / "weights.safetensors").exists():
            return
        (Path(folder) / "weights.safetensors").unlink()
        raise PowerCut

    for step in (1, 2):
        write_checkpoint(tmp_path, checkpoint_at(step))
    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr("avsdk_train.checkpoint.shutil.rmtree", cut)
        write_checkpoint(tmp_path, checkpoint_at(3))
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-00000002", "step-00000003"]
    for path in tmp_path.glob("step-*"):
        read_checkpoint(path)
    assert load_newest(tmp_path, pytest.fail) is not None
    assert not list(tmp_path.glob(".step-*")), "what was left of it goes when the run goes on"


def test_the_last_two_stay_and_latest_names_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, checkpoint_at(step))
    assert names(tmp_path) == ["latest", "step-00000002", "step-00000003"]
    assert (tmp_path / "latest").read_text() == "step-00000003\n"
    newest = load_newest(tmp_path, pytest.fail)
    assert newest is not None
    assert newest.step == 3


def damage(path: Path, file: str) -> None:
    data = bytearray((path / file).read_bytes())
    data[-3] ^= 1
    (path / file).write_bytes(bytes(data))


@pytest.mark.parametrize("file", ["weights.safetensors", "optimiser.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_taken(tmp_path: Path, file: str) -> None:
    write_checkpoint(tmp_path, checkpoint_at(1))
    damage(write_checkpoint(tmp_path, checkpoint_at(2)), file)
    with pytest.raises(CheckpointRefused) as caught:
        read_checkpoint(tmp_path / "step-00000002")
    assert caught.value.exit_code == 5
    assert "--resume" in caught.value.fix
    notices: list[str] = []
    found = load_newest(tmp_path, notices.append)
    assert found is not None
    assert found.step == 1
    assert "step-00000002 is passed over" in notices[0]


def test_with_every_checkpoint_damaged_the_run_is_refused(tmp_path: Path) -> None:
    (write_checkpoint(tmp_path, checkpoint_at(1)) / "state.json").write_text("{")
    with pytest.raises(CheckpointRefused, match=r"no checkpoint in(.|\n)*train again into a new folder"):
        load_newest(tmp_path, lambda text: None)


@pytest.mark.parametrize("change", [{"schema": 2}, {"step": 7}, {"files": {}}, {"files": {"../x": "0"}}])
def test_a_changed_or_newer_state_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = write_checkpoint(tmp_path, checkpoint_at(1))
    document = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**document, **change}))
    with pytest.raises(CheckpointRefused):
        read_checkpoint(path)


def test_an_absent_file_or_a_link_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, checkpoint_at(1))
    (path / "weights.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointRefused, match="missing"):
        read_checkpoint(path)
    (path / "weights.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointRefused, match="symbolic link"):
        read_checkpoint(path)


def test_what_a_kill_left_half_written_is_ignored_and_removed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint_at(1))
    (tmp_path / ".step-00000002.abc").mkdir()
    (tmp_path / ".step-00000002.abc" / "weights.safetensors").write_bytes(b"half")
    (tmp_path / ".latest.abc").write_text("step")
    found = load_newest(tmp_path, pytest.fail)
    assert found is not None
    assert names(tmp_path) == ["latest", "step-00000001"]


def test_no_checkpoint_yet_is_no_error(tmp_path: Path) -> None:
    assert load_newest(tmp_path, pytest.fail) is None


def test_a_full_disk_is_typed_and_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, checkpoint_at(1))
    before = names(tmp_path)
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "optimiser" in path.name:
            write(path, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(DiskFull, match=r"no space left(.|\n)*free some space"):
            write_checkpoint(tmp_path, checkpoint_at(2))
    assert names(tmp_path) == before
    found = load_newest(tmp_path, pytest.fail)
    assert found is not None
    assert found.step == 1


def test_state_that_json_cannot_hold_is_a_bug_said_aloud(tmp_path: Path) -> None:
    broken = Checkpoint(1, "", {}, {"state": object()}, {})
    with pytest.raises(TypeError, match=r"state.optimiser.state is a object"):
        write_checkpoint(tmp_path, broken)


def test_what_is_named_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def flushed(number: int) -> None:
        done.append("flush " + os.path.realpath(f"/proc/self/fd/{number}").rpartition("/")[2].rpartition(".")[0])
        fsync(number)

    def renamed(path: Path, target: Path) -> Path:
        done.append(f"rename {Path(target).name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    write_checkpoint(tmp_path, checkpoint_at(1))
    place = done.index("rename step-00000001")
    before = done[:place]
    assert set(before[-4:-1]) == {"flush optimiser", "flush state", "flush weights"}
    assert before[-1] == "flush .step-00000001", "the folder that names them, last"
    assert done[place + 1].startswith("flush"), "the folder above"
    assert done.index("rename latest") > place + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that holds two checkpoints of ``checkpoint_of_kb(40)``, and not three."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"this user cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def checkpoint_of_kb(step: int, size_kb: int) -> Checkpoint:
    weights = {"w": torch.full((size_kb * 256,), float(step))}
    return Checkpoint(step, "recipe", weights, {"state": {}, "param_groups": []}, {})


def test_a_disk_that_is_really_full_leaves_the_old_checkpoint(small_disk: Path) -> None:
    write_checkpoint(small_disk, checkpoint_of_kb(1, 40))
    with pytest.raises(DiskFull, match=r"no space left(.|\n)*free some space"):
        write_checkpoint(small_disk, checkpoint_of_kb(2, 400))
    assert names(small_disk) == ["latest", "step-00000001"]
    found = load_newest(small_disk, pytest.fail)
    assert found is not None
    assert found.weights["w"].unique().tolist() == [1.0]
    write_checkpoint(small_disk, checkpoint_of_kb(3, 40))  # once there is room, it goes on
    assert names(small_disk) == ["latest", "step-00000001", "step-00000003"]
