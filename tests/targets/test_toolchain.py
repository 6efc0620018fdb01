"""Toolchains: read from TOML, installed whole or not at all, found or asked for by their install line."""

from __future__ import annotations

import json
import os
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avsdk.errors import DiskFull, NotAvailable, Refused, ToolchainCrashed, ToolchainMissing, UnknownName, UsageError
from avsdk.worker import call_in_child
from avsdk_targets import toolchain as toolchains
from avsdk_targets.toolchain import (
    PackageNeed,
    Toolchain,
    environment_for,
    find,
    installed,
    list_toolchains,
    load_toolchain,
    outdated_folders,
    toolchain_from_file,
)
from avsdk_targets.toolchain_cli import app
from avsdk_targets.toolchain_install import find_interpreter, install, run_inside

_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_TOML = f"""
schema = 1
name = "tiny"
description = "a converter for tests"
python = ["{_HERE}"]
provides = ["tiny-converter"]
imports = ["tiny_converter"]
size_mb = 1
packages = ["tiny-converter==1.2"]
"""


def _write_wheel(folder: Path) -> None:
    """A package of one module, so that installing needs no index."""
    info = "tiny_converter-1.2.dist-info"
    files = {
        "tiny_converter.py": "def convert(value):\n    return value + 1\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-converter\nVersion: 1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / "tiny_converter-1.2-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, the catalogue of one tiny toolchain, and pip cut off from every index."""
    catalogue, wheels = tmp_path / "catalogue", tmp_path / "wheels"
    catalogue.mkdir()
    wheels.mkdir()
    (catalogue / "tiny.toml").write_text(_TOML)
    _write_wheel(wheels)
    monkeypatch.setattr(toolchains, "_FOLDER", catalogue)
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_ARGS", f"--no-index --find-links '{wheels}'")
    return tmp_path / "home"


# -- reading -----------------------------------------------------------------------------------------------------------


def test_the_catalogue_holds_what_the_compilers_need() -> None:
    assert {"litert", "tensorrt_rtx"} <= {item.name for item in list_toolchains()}


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'litert'"):
        load_toolchain("litret")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('name = "tiny"', 'name = "other"', "names the toolchain 'other'"),
        ("==1.2", ">=1.2", "an exact pin"),
        ("size_mb = 1", "size_mb = 1\ncolour = 3", "unknown key 'colour'"),
        ("size_mb = 1", "", "lacks the key 'size_mb'"),
        ("schema = 1", "schema = 2", "schema 2"),
        ("schema = 1", "schema == 1", "is not TOML"),
        ('"tiny-converter==1.2"', '"--index-url=x"', "an exact pin"),
    ],
)
def test_a_bad_file_is_refused(home: Path, old: str, new: str, text: str) -> None:
    file = toolchains._FOLDER / "tiny.toml"
    file.write_text(_TOML.replace(old, new))
    with pytest.raises(Refused, match=text):
        toolchain_from_file(file)


def test_changed_pins_never_meet_an_old_environment(home: Path) -> None:
    first = load_toolchain("tiny").folder
    (toolchains._FOLDER / "tiny.toml").write_text(_TOML.replace("1.2", "1.3"))
    assert load_toolchain("tiny").folder != first
    assert first.parent == home / "toolchains"


# -- installing --------------------------------------------------------------------------------------------------------


def test_an_installation_cut_short_is_made_anew(home: Path) -> None:
    tiny = load_toolchain("tiny")
    (tiny.folder / "bin").mkdir(parents=True)
    (tiny.folder / "bin" / "python").write_text("half")
    assert installed(tiny) is None
    with pytest.raises(ToolchainMissing, match=r"another version of it is"):
        find("tiny")
    threads = [threading.Thread(target=install, args=(tiny, lambda line: None)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert installed(tiny) is not None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"packages": ("tiny-converter==9.9",)}, "No matching distribution found for tiny-converter==9.9"),
        ({"imports": ("tiny_converter", "not_in_there")}, "No module named 'not_in_there'"),
    ],
)
def test_a_failed_installation_says_why_and_leaves_nothing(
    home: Path, change: dict[str, tuple[str, ...]], text: str
) -> None:
    broken = replace(load_toolchain("tiny"), **change)  # type: ignore[arg-type]
    with pytest.raises(ToolchainCrashed, match=text) as caught:
        install(broken, lambda line: None)
    assert "PIP_ARGS" in caught.value.fix
    assert not broken.folder.exists()
    assert caught.value.exit_code == 3


def test_a_library_that_the_system_lacks_is_named_before_anything_is_written(home: Path) -> None:
    broken = replace(load_toolchain("tiny"), system=("libnowhere.so.9",))
    with pytest.raises(NotAvailable, match="'tiny' needs the system library libnowhere.so.9") as caught:
        install(broken, lambda line: None)
    assert caught.value.fix == "apt-get install libnowhere9"
    assert not broken.folder.exists()


def test_a_small_disk_is_refused_before_anything_is_written(home: Path) -> None:
    with pytest.raises(DiskFull, match="MB are free"):
        install(replace(load_toolchain("tiny"), size_mb=10**9), lambda line: None)
    assert not load_toolchain("tiny").folder.exists()


def test_a_damaged_record_counts_as_not_installed(home: Path) -> None:
    tiny = load_toolchain("tiny")
    (tiny.folder / "bin").mkdir(parents=True)
    tiny.interpreter.touch()
    for content in ("{", "[]", '{"schema": 1}', '{"schema": 2}'):
        (tiny.folder / "complete.json").write_text(content)
        assert installed(tiny) is None
    assert outdated_folders(tiny) == (tiny.folder,)


# -- finding -----------------------------------------------------------------------------------------------------------


def test_an_absent_toolchain_is_exit_3_with_its_install_line(home: Path) -> None:
    need = PackageNeed("tiny_converter", "tiny-converter", "1.0")
    for look in (
        lambda: find("tiny"),
        lambda: environment_for(need, "tiny"),
        lambda: run_inside(load_toolchain("tiny"), ["x"]),
    ):
        with pytest.raises(ToolchainMissing) as caught:
            look()
        assert caught.value.exit_code == 3
        assert caught.value.fix == "avsdk toolchain install tiny"


def test_the_sdks_own_environment_comes_first_when_the_version_fits() -> None:
    fitting = environment_for(PackageNeed("numpy", "numpy", "1.0"), None)
    assert fitting.python == Path(sys.executable)
    assert "numpy" in fitting.versions
    with pytest.raises(NotAvailable, match=r"numpy is .* here") as caught:
        environment_for(PackageNeed("numpy", "numpy", "1.0", "1.1"), None)
    assert caught.value.fix == "pip install 'numpy>=1.0,<1.1'"
    with pytest.raises(NotAvailable, match="is not installed"):
        environment_for(PackageNeed("no_such_thing", "no-such-thing", "1"), None)


def test_looking_for_a_package_does_not_import_it() -> None:
    before = set(sys.modules)
    environment_for(PackageNeed("onnx", "onnx", "1.0"), None)
    assert not {name for name in set(sys.modules) - before if name.startswith("onnx")}


@pytest.mark.parametrize(
    ("version", "fits"), [("1.7", True), ("1.7.1.116", True), ("1.6.9", False), ("1.8", False), ("1.7+cpu", True)]
)
def test_version_ranges(version: str, fits: bool) -> None:
    assert PackageNeed("x", "x", "1.7", "1.8").admits(version) is fits


def test_a_python_is_found_or_the_ways_to_get_one_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_interpreter(["2.5", _HERE]).name.startswith("python")
    shim = tmp_path / "python3.99"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(NotAvailable, match=r"Python 3.99 was not found.*these do not serve: .*python3.99") as caught:
        find_interpreter(["3.99"])
    assert "uv python install 3.99" in caught.value.fix


def test_pyenvs_newest_patch_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for patch in ("9", "10"):
        program = tmp_path / "versions" / f"3.99.{patch}" / "bin" / "python"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\necho 3.99\n")
        program.chmod(0o755)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", os.defpath)
    assert find_interpreter(["3.99"]).parts[-3] == "3.99.10"


# -- the commands ------------------------------------------------------------------------------------------------------


def test_the_commands_install_run_and_remove(home: Path) -> None:
    runner = CliRunner()
    listed = json.loads(runner.invoke(app, ["list", "--json"]).stdout)["toolchains"]
    assert [(row["name"], row["state"], row["install"]) for row in listed] == [
        ("tiny", "absent", "avsdk toolchain install tiny")
    ]
    assert "avsdk toolchain install tiny" in runner.invoke(app, ["list"]).stdout

    done = runner.invoke(app, ["install", "tiny", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["state"] == "installed"
    assert json.loads(runner.invoke(app, ["list", "--json"]).stdout)["toolchains"][0]["python"].startswith(_HERE)
    _check_installed(load_toolchain("tiny"))

    assert runner.invoke(app, ["run", "tiny", "--", "python", "-c", "raise SystemExit(5)"]).exit_code == 5
    assert isinstance(runner.invoke(app, ["run", "tiny"]).exception, UsageError)
    assert isinstance(runner.invoke(app, ["run", "tinny", "--", "python"]).exception, UnknownName)

    gone = runner.invoke(app, ["remove", "tiny", "--json"])
    assert gone.exit_code == 0
    assert json.loads(gone.stdout)["name"] == "tiny"
    assert not list((home / "toolchains").glob("tiny-*"))
    assert isinstance(runner.invoke(app, ["run", "tiny", "--", "python"]).exception, ToolchainMissing)
    assert isinstance(runner.invoke(app, ["remove", "tiny"]).exception, ToolchainMissing)


def _check_installed(tiny: Toolchain) -> None:
    record = installed(tiny)
    assert record is not None
    assert record.versions["tiny-converter"] == "1.2"
    assert record.python.startswith(_HERE)
    assert find("tiny") == tiny.interpreter

    told: list[str] = []
    assert install(tiny, told.append) == record
    assert told == [], "a second installation must do nothing"

    environment = environment_for(PackageNeed("tiny_converter", "tiny-converter", "1.0", "2.0"), "tiny")
    assert (environment.python, environment.toolchain) == (tiny.interpreter, "tiny")
    assert environment.versions["tiny-converter"] == "1.2"
    assert call_in_child("tiny_converter:convert", name="tiny", python=environment.python, timeout_s=60, value=1) == 2

    assert run_inside(tiny, ["python", "-c", "import tiny_converter, sys; sys.exit(tiny_converter.convert(6))"]) == 7
    assert run_inside(tiny, ["python", "-c", "import os; os.kill(os.getpid(), 9)"]) == 137
    for outside in ("sh", "/bin/sh", "../bin/python"):
        with pytest.raises(UsageError, match="is no program of the toolchain"):
            run_inside(tiny, [outside])
