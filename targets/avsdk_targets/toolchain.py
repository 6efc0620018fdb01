"""Toolchains: isolated environments that hold a compiler's packages, one TOML file each.

A toolchain lives in ``<cache home>/toolchains/<name>-<hash of its TOML file>``, so changed pins never meet an old
environment. It is usable when ``complete.json`` stands in it, which is written last; a folder without one is what a
killed installation left, and is made anew.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any

import avsdk
from avsdk import files
from avsdk.errors import NotAvailable, Refused, ToolchainMissing, UnknownName
from avsdk.schema import check_schema, decode
from avsdk.toolchains import RECORD, Installed, installed_in, toolchains_home
from avsdk_targets.system_libraries import require_libraries

_FOLDER = Path(__file__).parent / "toolchains"
_PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+")


@dataclass(frozen=True)
class RootFs:
    """The part of a toolchain that is another processor's system: Debian packages unpacked, run by an emulator.

    ``release`` and ``architecture`` in Debian's words; ``debian``: packages, which bring those that they need;
    ``platforms``: the tags of wheels that fit; ``emulators``: names of the program on PATH, of ``emulator_minimum`` or
    newer, else it is unpacked from ``emulator_package`` of ``emulator_release``.
    """

    release: str
    architecture: str
    debian: tuple[str, ...]
    platforms: tuple[str, ...]
    emulators: tuple[str, ...]
    emulator_minimum: str
    emulator_release: str
    emulator_package: str


@dataclass(frozen=True)
class Toolchain:
    """What one toolchain holds.

    ``python``: the Python versions that serve, in order of preference; ``packages``: exact pins of everything;
    ``provides``: distributions that compilers look for; ``imports``: modules that must import after installation;
    ``system``: libraries that the system must have; ``size_mb``: disk space when installed;
    ``sdk``: this avsdk is installed into it as well; ``rootfs``: it is an emulated system, not an environment.
    """

    name: str
    description: str
    python: tuple[str, ...]
    packages: tuple[str, ...]
    provides: tuple[str, ...]
    imports: tuple[str, ...]
    size_mb: int
    system: tuple[str, ...] = ()
    sdk: bool = False
    rootfs: RootFs | None = None
    digest: str = ""

    @property
    def install_line(self) -> str:
        """The command that installs it."""
        return f"avsdk toolchain install {self.name}"

    @property
    def folder(self) -> Path:
        """Where this version of the toolchain is, or would be, installed."""
        return toolchains_home() / f"{self.name}-{self.digest}"

    @property
    def interpreter(self) -> Path:
        """Its Python; where it is an emulated system, one that only the emulator starts."""
        if self.rootfs is not None:
            return self.folder / "system" / "usr" / "bin" / f"python{self.python[0]}"
        return self.folder / "bin" / "python"


@dataclass(frozen=True)
class PackageNeed:
    """The package that a compiler imports, and the versions of its distribution that serve: ``minimum <= v < below``.

    An empty ``below`` is no upper bound.
    """

    import_name: str
    distribution: str
    minimum: str
    below: str = ""

    def admits(self, version: str) -> bool:
        """Whether this version of the distribution serves."""
        found = _release(version)
        return _release(self.minimum) <= found and (not self.below or found < _release(self.below))

    def __str__(self) -> str:
        return f"{self.distribution}>={self.minimum}" + (f",<{self.below}" if self.below else "")


@dataclass(frozen=True)
class Environment:
    """A Python that has what a compiler needs: the SDK's own (``toolchain`` None) or an installed toolchain's."""

    python: Path
    versions: Mapping[str, str] = field(default_factory=dict)
    toolchain: str | None = None


def list_toolchains() -> tuple[Toolchain, ...]:
    """Every toolchain that can be installed, by name."""
    return tuple(toolchain_from_file(file) for file in sorted(_FOLDER.glob("*.toml")))


def load_toolchain(name: str) -> Toolchain:
    """The toolchain of this name; an unknown one gets the nearest known name."""
    file = _FOLDER / f"{name}.toml"
    known = [found.stem for found in _FOLDER.glob("*.toml")]
    if name not in known:
        raise UnknownName.among("toolchain", name, known, fix="avsdk toolchain list")
    return toolchain_from_file(file)


def toolchain_from_file(file: Path) -> Toolchain:
    """Read one TOML file. Raises ``Refused`` for unknown keys, a name not the file's, or a missing pin."""
    import tomllib  # Python 3.11; this module is also imported, and this function never called, inside older toolchains

    content = file.read_bytes()
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except ValueError as error:
        raise Refused(f"{file.name} is not TOML: {error}") from error
    found = decode(Toolchain, check_schema(document, where=file.name), where=file.name)
    if found.name != file.stem:
        raise Refused(f"{file.name} names the toolchain {found.name!r}", expected=f"the file's name, {file.stem!r}")
    for package in found.packages:
        if not _PIN.fullmatch(package):
            raise Refused(f"{file.name} lists the package {package!r}", expected="an exact pin, as numpy==2.4.6")
    version = avsdk.__version__.encode() if found.sdk else b""  # another avsdk inside must be another folder
    digest = hashlib.sha256(content + version).hexdigest()[:12]
    return Toolchain(**{**vars(found), "digest": digest})


def installed(toolchain: Toolchain) -> Installed | None:
    """What is installed, or None: absent, incomplete, damaged, or open to other users."""
    return installed_in(toolchain.folder)


def outdated_folders(toolchain: Toolchain) -> tuple[Path, ...]:
    """Folders of other versions of this toolchain, and of installations that were cut short."""
    pattern = re.compile(re.escape(toolchain.name) + r"-[0-9a-f]{12}")
    home = toolchains_home()
    present = sorted(home.iterdir()) if home.is_dir() else []
    current = toolchain.folder if installed(toolchain) else None
    return tuple(
        folder for folder in present if pattern.fullmatch(folder.name) and folder != current and folder.is_dir()
    )


def find(name: str) -> Path:
    """The Python of an installed toolchain. Raises ``ToolchainMissing`` with the line that installs it."""
    toolchain = load_toolchain(name)
    if installed(toolchain) is None:
        raise missing(toolchain)
    return toolchain.interpreter


def missing(toolchain: Toolchain) -> ToolchainMissing:
    """The error for a toolchain that is not installed."""
    older = " (another version of it is)" if outdated_folders(toolchain) else ""
    return ToolchainMissing(
        f"the toolchain {toolchain.name!r} is not installed{older}",
        expected=f"an environment with {', '.join(toolchain.provides)} (about {toolchain.size_mb} MB)",
        fix=toolchain.install_line,
    )


def environment_for(need: PackageNeed, toolchain: str | None) -> Environment:
    """Where a compiler can run: here, if a fitting package is importable, else in its toolchain.

    Raises ``ToolchainMissing`` when the toolchain is not installed, ``NotAvailable`` when there is none to install, or
    when the system lacks a library that it needs.
    """
    here = _version_here(need)
    if here and need.admits(here):
        return Environment(_own_python(), {need.distribution: here})
    if toolchain is None:
        state = f"is {here} here" if here else "is not installed"
        raise NotAvailable(f"the package {need.distribution} {state}", expected=str(need), fix=f"pip install '{need}'")
    wanted = load_toolchain(toolchain)
    found = installed(wanted)
    if found is None:
        raise missing(wanted)
    require_libraries(wanted.system, needed_by=f"the toolchain {toolchain!r}")
    return Environment(wanted.interpreter, found.versions, toolchain)


def remove(name: str) -> int:
    """Remove every version of a toolchain; returns the bytes freed. Raises ``ToolchainMissing`` when there is none."""
    toolchain = load_toolchain(name)
    folders = outdated_folders(toolchain) + ((toolchain.folder,) if toolchain.folder.exists() else ())
    if not folders:
        raise missing(toolchain)
    freed = 0
    for folder in dict.fromkeys(folders):
        freed += files.folder_size(folder)
        (folder / RECORD).unlink(missing_ok=True)  # first, so that a removal cut short is never taken for whole
        shutil.rmtree(folder)
    return freed


def _version_here(need: PackageNeed) -> str:
    """The version installed in the SDK's own environment, without importing the package; empty when absent."""
    try:
        version = metadata.version(need.distribution)
        importable = util.find_spec(need.import_name) is not None
    except (metadata.PackageNotFoundError, ModuleNotFoundError):
        return ""
    return version if importable else ""


def _own_python() -> Path:
    import sys

    return Path(sys.executable)


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, as ``2.13.0+cpu`` -> (2, 13, 0)."""
    public = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in public.group().split(".")) if public else ()


def record_of(document: Mapping[str, Any]) -> str:
    """The text of ``complete.json``."""
    return json.dumps({"schema": 1, **document}, indent=2, sort_keys=True)
