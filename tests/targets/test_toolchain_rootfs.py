"""A toolchain that is another processor's system: where its parts come from, and what a missing one looks like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avsdk.errors import NotAvailable, ToolchainCrashed, UsageError
from avsdk.toolchains import installed_python
from avsdk_targets import toolchain as toolchains
from avsdk_targets import toolchain_rootfs as rootfs_module
from avsdk_targets.toolchain import RootFs, Toolchain, installed, load_toolchain
from avsdk_targets.toolchain_cli import app
from avsdk_targets.toolchain_install import install, run_inside
from avsdk_targets.toolchain_rootfs import Apt, debian_mirror, emulator_on_path

_ARM64 = load_toolchain("arm64")


def _rootfs() -> RootFs:
    assert _ARM64.rootfs is not None
    return _ARM64.rootfs


def _program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    place = folder / name
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)
    return place


# -- the emulator ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "taken"), [("10.0.2", True), ("8.0.0", True), ("7.2.17", False), ("", False), ("11", True)]
)
def test_an_emulator_on_path_is_taken_when_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, taken: bool
) -> None:
    place = _program(tmp_path / "bin", "qemu-aarch64-static", f"echo 'qemu-aarch64 version {version} (Debian)'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.defpath}")
    monkeypatch.setattr(rootfs_module.shutil, "which", _only(place))
    assert emulator_on_path(_rootfs()) == (str(place) if taken else None)


def _only(place: Path):  # type: ignore[no-untyped-def]
    return lambda name: str(place) if name == place.name else None


# -- where Debian comes from -------------------------------------------------------------------------------------------


def test_the_mirror_is_the_variables_else_the_systems_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "https://vendor.test/apt https://mirror.test/debian https://mirror.test/debian-security"
    _program(tmp_path / "bin", "apt-get", f'test "$1" = indextargets && printf "%s\\n" {listed}')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.defpath}")
    assert debian_mirror({}, _rootfs()) == "https://mirror.test/debian"
    assert debian_mirror({"AVSDK_DEBIAN_MIRROR": "file:///srv/debian"}, _rootfs()) == "file:///srv/debian"


def test_a_system_without_a_debian_archive_is_told_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path / "bin", "apt-get", "echo https://mirror.test/ubuntu")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.defpath}")
    with pytest.raises(NotAvailable, match="name no Debian archive, which has bookworm") as caught:
        debian_mirror({}, _rootfs())
    assert "AVSDK_DEBIAN_MIRROR" in caught.value.fix


@pytest.mark.parametrize("text", ["mirror.test/debian", "http://a b", "https://x/debian] evil ["])
def test_a_mirror_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(NotAvailable, match="AVSDK_DEBIAN_MIRROR is"):
        debian_mirror({"AVSDK_DEBIAN_MIRROR": text}, _rootfs())


def test_apt_keeps_to_its_own_folder(tmp_path: Path) -> None:
    commands: list[Sequence[str]] = []

    def run(command: Sequence[str], fix: str = "") -> list[str]:
        commands.append(command)
        assert "AVSDK_DEBIAN_MIRROR" in fix
        return []

    apt = Apt(tmp_path / "state", "https://mirror.test/debian", "bookworm", "arm64")
    assert apt.with_dependencies(("python3",), _ARM64, run) == []
    assert (tmp_path / "state" / "sources.list").read_text().endswith("https://mirror.test/debian bookworm main\n")
    for command in commands:
        words = " ".join(command)
        for own in ("Dir::State", "Dir::State::status", "Dir::Cache", "Dir::Etc::sourcelist"):
            assert f"{own}={tmp_path}" in words
        assert "APT::Architecture=arm64" in words
        assert "Dir::Etc::sourceparts=/dev/null" in words
    assert commands[-1][-5:] == ["install", "--yes", "--no-install-recommends", "--download-only", "python3"]


# -- installing --------------------------------------------------------------------------------------------------------

_PRETEND_APT = """
for word in "$@"; do case "$word" in Dir::Cache::archives=*) place="${word#*=}";; esac; done
case " $* " in
  *" indextargets "*) echo https://mirror.test/debian;;
  *" install "*) touch "$place/python3_3.11.2-1+b1_arm64.deb" "$place/libc6_2%3a2.36_arm64.deb";;
esac
"""
_PRETEND_DPKG_DEB = f"""
test "$1" = -x || exit 3
mkdir -p "$3/usr/bin"
printf '#!/bin/sh\\nexec {sys.executable} "$@"\\n' > "$3/usr/bin/python3.11"
chmod 755 "$3/usr/bin/python3.11"
"""
_PRETEND_QEMU = """
case "$1" in --version) echo "qemu-aarch64 version 9.1.0"; exit;; esac
test "$1" = -L || exit 3
shift 2
exec "$@"
"""


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """The toolchain of one tiny package, on a system whose apt, dpkg-deb, emulator and pip are scripts."""
    folder = tmp_path / "bin"
    for name, script in (
        ("apt-get", _PRETEND_APT),
        ("dpkg-deb", _PRETEND_DPKG_DEB),
        ("dpkg", ""),
        ("qemu-aarch64", _PRETEND_QEMU),
    ):
        _program(folder, name, script)
    catalogue = tmp_path / "catalogue"
    catalogue.mkdir()
    text = (
        (toolchains._FOLDER / "arm64.toml")
        .read_text()
        .replace('numpy", "onnxruntime", "ai_edge_litert.interpreter', "json")
    )
    (catalogue / "arm64.toml").write_text(text)
    monkeypatch.setattr(toolchains, "_FOLDER", catalogue)
    monkeypatch.setattr(rootfs_module, "_install_wheels", lambda *_: None)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.defpath}")
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))
    return load_toolchain("arm64")


def test_it_installs_is_started_by_its_emulator_and_is_removed(pretended: Toolchain) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["install", "arm64", "--json"])
    assert done.exit_code == 0, done.output
    record = installed(pretended)
    assert record is not None
    assert record.versions["qemu-aarch64"] == "9.1.0"
    assert record.versions["debian:libc6"] == "2:2.36"
    words = installed_python("arm64")
    assert words[0].endswith("/qemu-aarch64")
    assert words[1:] == ("-L", str(pretended.folder / "system"), str(pretended.interpreter))
    said = subprocess.run([*words, "-I", "-c", "print(6 * 7)"], capture_output=True, text=True, check=True).stdout
    assert said == "42\n"
    assert not (pretended.folder / "debian").exists()

    assert run_inside(pretended, ["python", "-c", "raise SystemExit(5)"]) == 5
    with pytest.raises(UsageError, match="'sh' is no program of the toolchain 'arm64'"):
        run_inside(pretended, ["sh"])
    assert json.loads(runner.invoke(app, ["list", "--json"]).stdout)["toolchains"][0]["state"] == "installed"
    assert runner.invoke(app, ["remove", "arm64"]).exit_code == 0
    assert installed_python("arm64") == ()


def test_what_a_killed_installation_left_is_made_anew(pretended: Toolchain) -> None:
    (pretended.folder / "debian" / "system" / "lists").mkdir(parents=True)
    (pretended.folder / "system").mkdir()
    assert installed(pretended) is None
    assert install(pretended, lambda line: None).name == "arm64"


@pytest.mark.parametrize("name", ["apt-get", "dpkg", "dpkg-deb"])
def test_a_system_without_its_programs_is_told_which(
    pretended: Toolchain, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    which = rootfs_module.shutil.which
    monkeypatch.setattr(rootfs_module.shutil, "which", lambda word: None if word == name else which(word))
    with pytest.raises(NotAvailable, match=f"and {name} is not on PATH") as caught:
        install(pretended, lambda line: None)
    assert "avsdk toolchain install arm64" in caught.value.fix
    assert caught.value.exit_code == 3
    assert not pretended.folder.exists()


def test_a_mirror_that_cannot_be_reached_is_typed_and_leaves_nothing(pretended: Toolchain, tmp_path: Path) -> None:
    _program(
        tmp_path / "bin",
        "apt-get",
        'test "$1" = indextargets && echo https://m.test/debian || { echo "E: no"; exit 100; }',
    )
    with pytest.raises(ToolchainCrashed, match="exit code 100:\nE: no") as caught:
        install(pretended, lambda line: None)
    assert "set AVSDK_DEBIAN_MIRROR to a Debian mirror that has bookworm" in caught.value.fix
    assert not pretended.folder.exists()


def test_an_old_emulator_is_not_used_and_the_unpacked_one_is_checked(
    pretended: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path / "bin", "qemu-aarch64", "echo 'qemu-aarch64 version 7.2.17'")
    packed = tmp_path / "packed"
    (packed / "usr/bin").mkdir(parents=True)
    _program(packed / "usr/bin", "qemu-aarch64", "echo 'qemu-aarch64 version 6.0'")
    _program(tmp_path / "bin", "dpkg-deb", f"cd {packed} && tar c ./usr/bin/qemu-aarch64")
    script = _PRETEND_APT.replace('*" install "*)', '*" download "*) touch qemu-user_10_amd64.deb;; *" install "*)')
    _program(tmp_path / "bin", "apt-get", script)
    with pytest.raises(ToolchainCrashed, match="qemu-aarch64 of bookworm-backports is 6.0") as caught:
        install(pretended, lambda line: None)
    assert "8.0" in caught.value.expected
    assert not pretended.folder.exists()


def test_a_damaged_package_of_the_emulator_is_typed(pretended: Toolchain, tmp_path: Path) -> None:
    (tmp_path / "bin" / "qemu-aarch64").unlink()
    _program(tmp_path / "bin", "dpkg-deb", "echo 'no archive'; exit 2")
    script = _PRETEND_APT.replace('*" install "*)', '*" download "*) touch qemu-user_10_amd64.deb;; *" install "*)')
    _program(tmp_path / "bin", "apt-get", script)
    with pytest.raises(ToolchainCrashed, match="qemu-user_10_amd64.deb cannot be unpacked: ") as caught:
        install(pretended, lambda line: None)
    assert "avsdk toolchain install arm64" in caught.value.fix
    assert not pretended.folder.exists()


def test_the_wheels_are_those_of_the_other_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[Sequence[str]] = []
    monkeypatch.setenv("PIP_ARGS", "--no-index")
    toolchain = replace(_ARM64, packages=("numpy==2.4.6",))
    rootfs_module._install_wheels(toolchain, _rootfs(), lambda command, **_: commands.append(command) or [])
    words = list(commands[0])
    assert words[words.index("--target") + 1].endswith("usr/local/lib/python3.11/dist-packages")
    assert [words[place + 1] for place, word in enumerate(words) if word == "--platform"] == list(_rootfs().platforms)
    assert {"--only-binary=:all:", "--no-deps", "--no-index", "numpy==2.4.6"} <= set(words)
