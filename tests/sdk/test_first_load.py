from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import avsdk
from avsdk import first_load, media
from avsdk.bundle import open_bundle
from avsdk.errors import ToolchainCrashed
from avsdk.files import cache_home
from avsdk.running import run_bundle

MakeBundle = Callable[..., Path]


def dies(path: str, threads: int, stages: bool) -> None:
    """What an artifact that breaks its runtime does."""
    del path, threads
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))


def test_an_artifact_that_kills_its_runtime_is_a_typed_error(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_load, "open_all", dies)
    media.write_image(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ToolchainCrashed, match="first load of bundle: .*SIGSEGV") as caught:
        run_bundle(make_bundle(), [tmp_path / "a.png"], tmp_path / "out.png", {}, 1)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out.png").exists()
    with pytest.raises(ToolchainCrashed):  # a crash is not remembered as a success
        avsdk.load(make_bundle("again"), threads=1)


def test_what_loaded_once_is_not_tried_again(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle()
    first_load.require_loads(open_bundle(bundle), 1)
    assert len(list((cache_home() / "loaded").iterdir())) == 1
    monkeypatch.setattr(first_load, "open_all", dies)
    avsdk.load(bundle, threads=1).close()
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace("made by hand", "made by another"))
    with pytest.raises(ToolchainCrashed):  # another manifest is another bundle
        first_load.require_loads(open_bundle(bundle), 1)


def test_without_a_cache_it_still_runs(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "file" / "home"))
    first_load.require_loads(open_bundle(make_bundle()), 1)
