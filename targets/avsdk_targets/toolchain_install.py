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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import avsdk
from avsdk import files
from avsdk.errors import DiskFull, NotAvailable, ToolchainCrashed, UsageError
from avsdk.toolchains import RECORD, Installed, python_words, toolchains_home
from avsdk_targets.system_libraries import require_libraries
from avsdk_targets.toolchain import Toolchain, installed, missing, record_of

Tell = Callable[[str], None]
"""Takes one line of progress."""

_VERSIONS = (
    "import json; from importlib import metadata; "
    "print(json.dumps({item.metadata['Name']: item.version for item in metadata.distributions()}))"
)


def install(toolchain: Toolchain, tell: Tell) -> Installed:
    """Install the toolchain unless it is installed; several installers wait for one another.

    Raises ``NotAvailable`` when no fitting Python or a library of the system is not here, ``DiskFull``, or
    ``ToolchainCrashed`` with pip's last lines.
    """
    with files.typed_write_errors(toolchains_home()):
        toolchains_home().mkdir(parents=True, exist_ok=True)
    with _only_one(toolchain, tell):
        found = installed(toolchain)
        if found is not None:
            return found
        _refuse_small_disk(toolchain)
        require_libraries(toolchain.system, needed_by=f"the toolchain {toolchain.name!r}")
        python = None if toolchain.rootfs else find_interpreter(toolchain.python)
        shutil.rmtree(toolchain.folder, ignore_errors=True)
        try:
            with files.typed_write_errors(toolchain.folder):
                if python is None:
                    command, versions = _build_system(toolchain, tell)
                    _prove(toolchain, tell, command, versions)
                else:
                    _build(toolchain, python, tell)
                    _prove(toolchain, tell)
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
    found = installed(toolchain)
    if found is None:
        raise missing(toolchain)
    words = _program_inside(toolchain, found, command[0])
    code = subprocess.call([*words, *command[1:]], env=environment_inside(toolchain))
    return code if code >= 0 else 128 - code


def _program_inside(toolchain: Toolchain, found: Installed, name: str) -> tuple[str, ...]:
    """The words that start one of the toolchain's programs; an emulated system starts its Python only."""
    python = python_words(toolchain.folder, found)
    folder = toolchain.interpreter.parent
    if found.command:
        if name == "python":
            return python
    elif Path(name).name == name and os.access(folder / name, os.X_OK):
        return (str(folder / name),)
    raise UsageError(
        f"{name!r} is no program of the toolchain {toolchain.name!r}",
        expected="python, by its emulator" if found.command else f"the name of a file in {folder}, as python",
    )


def environment_inside(toolchain: Toolchain) -> dict[str, str]:
    """This process's environment as an activated toolchain sees it: without the SDK's own Python settings."""
    kept = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
    path = f"{toolchain.folder / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return {**kept, "PATH": path, "VIRTUAL_ENV": str(toolchain.folder), "PYTHONNOUSERSITE": "1"}


def _build(toolchain: Toolchain, python: Path, tell: Tell) -> None:
    """Make a virtual environment with the packages in it."""
    tell(f"making an environment with {python}")
    _run([str(python), "-I", "-m", "venv", str(toolchain.folder)], toolchain, tell)
    # Environments cannot be moved, so it is built where it stays; complete.json, written last, makes it visible.
    with tempfile.TemporaryDirectory(prefix="avsdk-pins-") as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text("\n".join(toolchain.packages) + "\n", encoding="utf-8")
        _pip(toolchain, ["--requirement", str(pins)], tell)
    if toolchain.sdk:
        _pip(toolchain, ["--no-deps", *_own_source()], tell)


def _build_system(toolchain: Toolchain, tell: Tell) -> tuple[tuple[str, ...], dict[str, str]]:
    """Unpack an emulated system; returns the words that start its Python, and the versions of what is not a wheel."""
    from avsdk_targets.toolchain_rootfs import build_system

    def run(command: Sequence[str], fix: str = "") -> list[str]:
        return _run(command, toolchain, tell, fix)

    assert toolchain.rootfs is not None
    return build_system(toolchain, toolchain.rootfs, run, tell)


def _prove(
    toolchain: Toolchain, tell: Tell, command: tuple[str, ...] = (), versions: Mapping[str, str] | None = None
) -> None:
    """Import what must import, and write down what is installed: from then on the toolchain counts as complete."""
    found = Installed(toolchain.name, "", {}, 0, command)
    python = [*python_words(toolchain.folder, found), "-I", "-c"]
    tell(f"importing {', '.join(toolchain.imports)}")
    _run([*python, "; ".join(f"import {module}" for module in toolchain.imports)], toolchain, tell)
    listed = _run([*python, _VERSIONS], toolchain, tell)
    version = _run([*python, "import platform; print(platform.python_version())"], toolchain, tell)
    record = {
        "name": toolchain.name,
        "python": version[-1].strip(),
        "versions": {**(versions or {}), **json.loads(listed[-1])},
        "size_mb": files.folder_size(toolchain.folder) >> 20,
        "command": list(command),
    }
    files.write_atomic(toolchain.folder / RECORD, record_of(record))
    # Whatever the umask is: a toolchain that others can write to is never started.
    (toolchain.folder / RECORD).chmod(0o644)
    toolchain.folder.chmod(0o755)


def _pip(toolchain: Toolchain, arguments: Sequence[str], tell: Tell) -> None:
    """Obeys pip's own configuration; ``PIP_ARGS`` adds arguments."""
    extra = shlex.split(os.environ.get("PIP_ARGS", ""))
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    _run([str(toolchain.interpreter), "-I", "-m", "pip", "install", *quiet, *extra, *arguments], toolchain, tell)


def _run(command: Sequence[str], toolchain: Toolchain, tell: Tell, fix: str = "") -> list[str]:
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
        expected="packages that can be reached, and that import",
        fix=fix
        or f"point pip at an index that has them (pip's configuration, or PIP_ARGS), then {toolchain.install_line}",
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


def _own_source() -> list[str]:
    """What pip installs to get this same avsdk: the checkout that it runs from, as it lies, else this very version."""
    checkout = Path(avsdk.__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").exists():
        return ["--editable", str(checkout)]
    return [f"avsdk=={avsdk.__version__}"]


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
