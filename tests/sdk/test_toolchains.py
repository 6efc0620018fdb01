"""Installed toolchains are found by name, and none that another user could have put there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from avsdk.toolchains import RECORD, installed_in, installed_python

DOCUMENT = {"schema": 1, "name": "xla", "python": "3.11.7", "versions": {"torch": "2.9.0"}, "size_mb": 3}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path))
    return tmp_path / "toolchains"


def make(home: Path, name: str = "xla-0123456789ab", **changes: object) -> Path:
    folder = home / name
    (folder / "bin").mkdir(parents=True, mode=0o755)
    folder.chmod(0o755)
    (folder / "bin" / "python").write_text("")
    (folder / RECORD).write_text(json.dumps({**DOCUMENT, **changes}))
    (folder / RECORD).chmod(0o644)
    return folder


def test_nothing_is_found_where_nothing_was_installed(home: Path) -> None:
    assert installed_python("xla") == ()


def test_the_python_of_an_installed_toolchain_is_found(home: Path) -> None:
    folder = make(home)
    make(home, "xla2-0123456789ab")
    make(home, "xla-not-a-digest")
    assert installed_python("xla") == (str(folder / "bin" / "python"),)
    assert installed_python("xl") == ()


def test_the_version_installed_last_is_taken(home: Path) -> None:
    newer, older = make(home, "xla-aaaaaaaaaaaa"), make(home, "xla-bbbbbbbbbbbb")
    os.utime(older / RECORD, (1, 1))
    assert installed_python("xla") == (str(newer / "bin" / "python"),)


def test_an_emulator_comes_before_its_python(home: Path) -> None:
    folder = make(home, command=["{folder}/bin/python", "-L", "{folder}/system", "/usr/bin/python3"])
    assert installed_python("xla") == (str(folder / "bin/python"), "-L", str(folder / "system"), "/usr/bin/python3")


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({**DOCUMENT, "schema": 2}), '{"schema": 1}'])
def test_a_damaged_record_is_no_installation(home: Path, content: str) -> None:
    folder = make(home)
    (folder / RECORD).write_text(content)
    assert installed_python("xla") == ()


def test_an_installation_without_its_python_or_its_record_is_none(home: Path) -> None:
    folder, other = make(home), make(home, "xla-bbbbbbbbbbbb")
    shutil.rmtree(folder / "bin")
    (other / RECORD).unlink()
    assert installed_python("xla") == ()


@pytest.mark.parametrize("place", ["", RECORD])
@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_what_others_can_write_is_not_started(home: Path, place: str, mode: int) -> None:
    folder = make(home)
    (folder / place).chmod(mode)
    assert installed_in(folder) is None


@pytest.mark.parametrize("place", ["", RECORD])
def test_what_another_user_owns_is_not_started(home: Path, place: str, give_away: Callable[[Path], None]) -> None:
    folder = make(home)
    give_away(folder / place)
    assert installed_in(folder) is None


def test_a_link_to_a_folder_is_not_followed(home: Path) -> None:
    folder = make(home)
    folder.rename(home.parent / "elsewhere")
    folder.symlink_to(home.parent / "elsewhere", target_is_directory=True)
    assert installed_python("xla") == ()
