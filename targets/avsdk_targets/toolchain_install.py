"""Installing a toolchain: find a Python, make the environment in place, prove that it imports, say it is complete."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import avsdk
from avsdk import files
from avsdk.errors import DiskFull, NotAvailable, ToolchainCrashed, UsageError
from avsdk_targets.toolchain import Installed, Toolchain, installed, missing, record_of, toolchains_home

Tell = Callable[[str], None]
"""Takes one line of progress."""

_VERSIONS = (
    "import json; from importlib import metadata; "
    "print(json.dumps({item.metadata['Name']: item.version for item in metadata.distributions()}))"
)


def install(toolchain: Toolchain, tell: Tell) -> Installed:
    """Install the toolchain unless it is installed; several installers wait for one another.

    Raises ``NotAvailable`` when no fitting Python is here, ``DiskFull``, or ``ToolchainCrashed`` with pip's last lines.
    """
    with files.typed_write_errors(toolchains_home()):
        toolchains_home().mkdir(parents=True, exist_ok=True)
    with _only_one(toolchain, tell):
        found = installed(toolchain)
        if found is not None:
            return found
        _refuse_small_disk(toolchain)
        python = find_interpreter(toolchain.python)
        shutil.rmtree(toolchain.folder, ignore_errors=True)
        try:
            with files.typed_write_errors(toolchain.folder):
                _build(toolchain, python, tell)
        except BaseException:
            shutil.rmtree(toolchain.folder, ignore_errors=True)
            raise
    found = installed(toolchain)
    if found is None:
        raise missing(toolchain)
    return found


def find_interpreter(versions: Sequence[str]) -> Path:
    """A Python of one of these versions, in order: on PATH, in pyenv's versions folder, or as ``uv python find`` says.

    Each candidate is asked for its version and for ``venv`` and ``ensurepip``, since shims and split packages exist.
    """
    tried = []
    for version in versions:
        for candidate in _candidates(version):
            if _serves(candidate, version):
                return candidate
            tried.append(str(candidate))
    wanted = " or ".join(f"Python {version}" for version in versions)
    looked = f"; these do not serve: {', '.join(tried)}" if tried else ""
    raise NotAvailable(
        f"{wanted} was not found on PATH, in pyenv or by uv{looked}",
        expected="an interpreter with the modules venv and ensurepip",
        fix=f"uv python install {versions[0]}, pyenv install {versions[0]}, or the system's python{versions[0]}-venv",
    )


def run_inside(toolchain: Toolchain, command: Sequence[str]) -> int:
    """Run a program of the toolchain, attached to this terminal; returns its exit code. Refuses one from outside."""
    if installed(toolchain) is None:
        raise missing(toolchain)
    folder = toolchain.folder / "bin"
    program = folder / command[0]
    if Path(command[0]).name != command[0] or not os.access(program, os.X_OK):
        raise UsageError(
            f"{command[0]!r} is no program of the toolchain {toolchain.name!r}",
            expected=f"the name of a file in {folder}, as python",
        )
    code = subprocess.call([str(program), *command[1:]], env=environment_inside(toolchain))
    return code if code >= 0 else 128 - code


def environment_inside(toolchain: Toolchain) -> dict[str, str]:
    """This process's environment as an activated toolchain sees it: without the SDK's own Python settings."""
    kept = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
    path = f"{toolchain.folder / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return {**kept, "PATH": path, "VIRTUAL_ENV": str(toolchain.folder), "PYTHONNOUSERSITE": "1"}


def _build(toolchain: Toolchain, python: Path, tell: Tell) -> None:
    tell(f"making an environment with {python}")
    _run([str(python), "-I", "-m", "venv", str(toolchain.folder)], toolchain, tell)
    # Environments cannot be moved, so it is built where it stays; complete.json, written last, makes it visible.
    with tempfile.TemporaryDirectory(prefix="avsdk-pins-") as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text("\n".join(toolchain.packages) + "\n", encoding="utf-8")
        _pip(toolchain, ["--requirement", str(pins)], tell)
    if toolchain.sdk:
        _pip(toolchain, ["--no-deps", _own_source()], tell)
    tell(f"importing {', '.join(toolchain.imports)}")
    imports = "; ".join(f"import {module}" for module in toolchain.imports)
    _run([str(toolchain.interpreter), "-I", "-c", imports], toolchain, tell)
    listed = _run([str(toolchain.interpreter), "-I", "-c", _VERSIONS], toolchain, tell)
    version = _run(
        [str(toolchain.interpreter), "-I", "-c", "import platform; print(platform.python_version())"], toolchain, tell
    )
    record = {
        "name": toolchain.name,
        "python": version[-1].strip(),
        "versions": json.loads(listed[-1]),
        "size_mb": files.folder_size(toolchain.folder) >> 20,
    }
    files.write_atomic(toolchain.folder / "complete.json", record_of(record))


def _pip(toolchain: Toolchain, arguments: Sequence[str], tell: Tell) -> None:
    """Obeys pip's own configuration; ``PIP_ARGS`` adds arguments."""
    extra = shlex.split(os.environ.get("PIP_ARGS", ""))
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    _run([str(toolchain.interpreter), "-I", "-m", "pip", "install", *quiet, *extra, *arguments], toolchain, tell)


def _run(command: Sequence[str], toolchain: Toolchain, tell: Tell) -> list[str]:
    """Run one step to its end, telling each line; returns the last lines, or raises with them."""
    lines: deque[str] = deque(maxlen=30)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment_inside(toolchain),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            tell(line.rstrip())
    if process.returncode == 0:
        return list(lines)
    text = "\n".join(lines)
    if "No space left on device" in text:
        raise DiskFull(
            f"no space left while installing the toolchain {toolchain.name!r}", fix="free some space, then again"
        )
    raise ToolchainCrashed(
        f"installing the toolchain {toolchain.name!r} failed with exit code {process.returncode}:\n{text}",
        expected="packages that pip can reach, and that import",
        fix=f"point pip at an index that has them (pip's configuration, or PIP_ARGS), then {toolchain.install_line}",
    )


def _candidates(version: str) -> Iterator[Path]:
    running = Path(getattr(sys, "_base_executable", None) or sys.executable)
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        yield running
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        program = Path(folder or ".") / f"python{version}"
        if program.is_file() and os.access(program, os.X_OK):
            yield program
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from sorted(root.glob(f"{version}.*/bin/python"), key=_patch_number, reverse=True)
    uv = shutil.which("uv")
    if uv:
        found = _output([uv, "python", "find", "--no-python-downloads", version])
        if found:
            yield Path(found)


def _patch_number(python: Path) -> int:
    digits = python.parts[-3].split(".")[-1]
    return int(digits) if digits.isdigit() else -1


def _serves(python: Path, version: str) -> bool:
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    return _output([str(python), "-I", "-c", code]) == version


def _output(command: Sequence[str]) -> str:
    """Standard output of a short command, stripped; empty when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _own_source() -> str:
    """What pip installs to get this same avsdk: the checkout that it runs from, else this very version."""
    checkout = Path(avsdk.__file__).resolve().parents[2]
    return str(checkout) if (checkout / "pyproject.toml").exists() else f"avsdk=={avsdk.__version__}"


def _refuse_small_disk(toolchain: Toolchain) -> None:
    free_mb = shutil.disk_usage(toolchains_home()).free >> 20
    if free_mb < toolchain.size_mb:
        raise DiskFull(
            f"{free_mb} MB are free below {toolchains_home()}",
            expected=f"about {toolchain.size_mb} MB for the toolchain {toolchain.name!r}",
            fix="free some space, or set AVSDK_HOME to a folder on a larger disk",
        )


@contextlib.contextmanager
def _only_one(toolchain: Toolchain, tell: Tell) -> Iterator[None]:
    """Hold the lock of this toolchain; the system frees it when the holder dies."""
    import fcntl

    with (toolchains_home() / f".{toolchain.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"another process is installing {toolchain.name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
