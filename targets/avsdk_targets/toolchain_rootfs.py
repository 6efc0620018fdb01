"""A toolchain that is another processor's system: Debian packages and wheels unpacked side by side, run by an emulator.

    <toolchain>/system/                  Debian's Python with what it needs; the wheels in its dist-packages
                emulator/qemu-aarch64    where PATH has none that is new enough

Everything is unpacked, nothing is installed: no chroot, no binary-format registration, no rights of root. The packages
come through apt with a state of its own, so that they are authenticated and the system's package lists stay as they
are. The mirror is the one that the system's own apt uses, or ``AVSDK_DEBIAN_MIRROR``; wheels obey pip's configuration.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote

from avsdk.errors import NotAvailable, ToolchainCrashed
from avsdk_targets.toolchain import RootFs, Toolchain

MIRROR_VARIABLE = "AVSDK_DEBIAN_MIRROR"
_PROGRAMS = ("apt-get", "dpkg", "dpkg-deb")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PACKAGES = "local/lib/python{}/dist-packages"
"""Beneath the prefix: where Debian's Python looks for packages that are not Debian's, in isolated mode as well."""

Step = Callable[..., list[str]]
"""Runs one command to its end and returns its last lines; ``fix`` says what to do when it fails."""
Tell = Callable[[str], None]


def build_system(toolchain: Toolchain, rootfs: RootFs, run: Step, tell: Tell) -> tuple[tuple[str, ...], dict[str, str]]:
    """Make the system in the toolchain's folder.

    Returns the words that start its Python, with ``{folder}`` in them, and the versions of what is not a wheel.

    Raises ``NotAvailable`` where a program or a mirror is missing, ``ToolchainCrashed`` with a failed step's lines.
    """
    _require_programs(toolchain)
    mirror = debian_mirror(os.environ, rootfs)
    toolchain.folder.mkdir(parents=True)
    emulator = emulator_on_path(rootfs)
    scratch = toolchain.folder / "debian"  # in there, so that the next try clears what a killed one leaves
    if emulator is None:
        tell(f"unpacking {rootfs.emulator_package} of {rootfs.emulator_release}")
        _unpack_emulator(toolchain, rootfs, Apt(scratch / "host", mirror, rootfs.emulator_release), run)
    tell(f"unpacking {', '.join(rootfs.debian)} of {rootfs.release} for {rootfs.architecture}")
    apt = Apt(scratch / "system", mirror, rootfs.release, rootfs.architecture)
    system = toolchain.folder / "system"
    system.mkdir()
    packages = apt.with_dependencies(rootfs.debian, toolchain, run)
    for package in packages:
        run(["dpkg-deb", "-x", str(package), str(system)], fix=toolchain.install_line)
    shutil.rmtree(scratch)
    tell("unpacking the wheels")
    _install_wheels(toolchain, rootfs, run)
    program = emulator or str(toolchain.folder / "emulator" / rootfs.emulators[0])
    words = (emulator or f"{{folder}}/emulator/{rootfs.emulators[0]}", "-L", "{folder}/system")
    python = f"{{folder}}/{toolchain.interpreter.relative_to(toolchain.folder).as_posix()}"
    return (*words, python), {rootfs.emulators[0]: _version_of(program), **_debian_versions(packages)}


@dataclass(frozen=True)
class Apt:
    """apt with a state of its own in ``folder``: one release of one mirror, for one architecture (empty: this one)."""

    folder: Path
    mirror: str
    release: str
    architecture: str = ""

    def with_dependencies(self, packages: tuple[str, ...], toolchain: Toolchain, run: Step) -> list[Path]:
        """Download the packages and all that they need; the recommended ones are left out."""
        self._update(toolchain, run)
        command = ["install", "--yes", "--no-install-recommends", "--download-only", *packages]
        run([*self._command(), *command], fix=self._fix(toolchain))
        return sorted((self.folder / "archives").glob("*.deb"))

    def alone(self, package: str, toolchain: Toolchain, run: Step) -> list[Path]:
        """Download one package without what it needs."""
        self._update(toolchain, run)
        script = 'cd "$1" && shift && exec "$@"'  # `download` writes into the current folder and takes no other
        into = str(self.folder / "archives")
        run(["sh", "-c", script, "sh", into, *self._command(), "download", package], fix=self._fix(toolchain))
        return sorted((self.folder / "archives").glob("*.deb"))

    def _update(self, toolchain: Toolchain, run: Step) -> None:
        for name in ("lists/partial", "archives/partial"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "status").touch()
        signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
        (self.folder / "sources.list").write_text(f"deb {signed}{self.mirror} {self.release} main\n", encoding="utf-8")
        # A release that cannot be reached is only a warning to apt, unless it is told.
        run([*self._command(), "-o", "APT::Update::Error-Mode=any", "update"], fix=self._fix(toolchain))

    def _command(self) -> list[str]:
        """The system's own configuration (proxies, certificates) holds, but not its sources, pins and package state."""
        folder = self.folder
        options = {
            "Dir::State": folder,
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder,
            "Dir::Cache::archives": folder / "archives",
            "Dir::Log": folder,
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": os.devnull,
            "Dir::Etc::preferences": os.devnull,
            "Dir::Etc::preferencesparts": os.devnull,
            "Acquire::Languages": "none",
        }
        if self.architecture:
            options.update({"APT::Architecture": self.architecture, "APT::Architectures": self.architecture})
        if os.geteuid() == 0:
            options["APT::Sandbox::User"] = "root"  # the user _apt cannot write into a private folder
        return ["apt-get", "-q", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]

    def _fix(self, toolchain: Toolchain) -> str:
        return f"set {MIRROR_VARIABLE} to a Debian mirror that has {self.release}, then {toolchain.install_line}"


def debian_mirror(environ: Mapping[str, str], rootfs: RootFs) -> str:
    """The Debian archive to take packages from: the variable's, else the first one of the system's apt sources."""
    chosen = environ.get(MIRROR_VARIABLE, "")
    if chosen:
        if not re.fullmatch(r"[a-z+]+:/{1,3}[^\s\[\]]+", chosen):
            raise NotAvailable(
                f"{MIRROR_VARIABLE} is {chosen!r}", expected="the address of a Debian archive, as https://HOST/debian"
            )
        return chosen
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    for address in listed.stdout.split():
        if address.rstrip("/").endswith("/debian"):
            return address
    raise NotAvailable(
        f"the apt sources of this system name no Debian archive, which has {rootfs.release}",
        expected="an address that ends in /debian",
        fix=f"set {MIRROR_VARIABLE} to a Debian mirror (and install debian-archive-keyring where this is no Debian)",
    )


def emulator_on_path(rootfs: RootFs) -> str | None:
    """The emulator that PATH has, if it is new enough."""
    for name in rootfs.emulators:
        found = shutil.which(name)
        if found is not None and _numbers(_version_of(found)) >= _numbers(rootfs.emulator_minimum):
            return str(Path(found).resolve())
    return None


def _version_of(program: str) -> str:
    """What the emulator says of its version, as ``10.0.2``; empty where it does not start."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"version (\d+(?:\.\d+)*)", done.stdout)
    return found.group(1) if found else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")) if version else ()


def _debian_versions(packages: Iterable[Path]) -> dict[str, str]:
    """By the files' names, which are ``<name>_<version>_<architecture>.deb``."""
    parts = (unquote(package.stem).split("_") for package in packages)
    return {f"debian:{name}": version for name, version, _ in parts}


def _require_programs(toolchain: Toolchain) -> None:
    absent = [name for name in _PROGRAMS if shutil.which(name) is None]
    if absent:
        raise NotAvailable(
            f"the toolchain {toolchain.name!r} consists of Debian packages, and {', '.join(absent)} is not on PATH",
            expected=f"{', '.join(_PROGRAMS)}, as on Debian and Ubuntu",
            fix=f"install the system's packages apt and dpkg, then {toolchain.install_line}",
        )
    if not any(metadata.distributions(name="pip")):
        raise NotAvailable(
            "this Python has no pip, which fetches the wheels of another processor",
            fix=f"{sys.executable} -m ensurepip, then {toolchain.install_line}",
        )


def _unpack_emulator(toolchain: Toolchain, rootfs: RootFs, apt: Apt, run: Step) -> None:
    """Take the one program out of its package, which holds those of thirty processors."""
    wanted = f"./usr/bin/{rootfs.emulators[0]}"
    (package,) = apt.alone(rootfs.emulator_package, toolchain, run)
    place = toolchain.folder / "emulator" / rootfs.emulators[0]
    place.parent.mkdir()
    try:
        _extract(package, wanted, place)
    except tarfile.TarError as error:
        raise ToolchainCrashed(
            f"{package.name} cannot be unpacked: {error}",
            expected="a whole Debian package",
            fix=f"{toolchain.install_line}, which downloads it again",
        ) from error
    if not place.exists():
        raise ToolchainCrashed(f"{package.name} holds no {wanted}", fix=f"put {rootfs.emulators[0]} on PATH")
    place.chmod(0o755)
    version = _version_of(str(place))
    if _numbers(version) < _numbers(rootfs.emulator_minimum):
        raise ToolchainCrashed(
            f"{rootfs.emulators[0]} of {rootfs.emulator_release} is {version or 'not started by this system'}",
            expected=f"{rootfs.emulator_minimum} or newer",
            fix=f"put a newer {rootfs.emulators[0]} on PATH, then {toolchain.install_line}",
        )


def _extract(package: Path, wanted: str, place: Path) -> None:
    """Copy one file of a package to ``place``, where the package has it."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    if member.name == wanted and member.isfile():
                        stream = archive.extractfile(member)
                        assert stream is not None
                        with place.open("wb") as copy:
                            shutil.copyfileobj(stream, copy)
                        break
        finally:
            process.stdout.close()
            process.kill()  # the rest of the package is not wanted


def _install_wheels(toolchain: Toolchain, rootfs: RootFs, run: Step) -> None:
    """pip unpacks wheels for a processor that is not its own when it is told the tags and where to put them."""
    place = toolchain.interpreter.parents[1] / _PACKAGES.format(toolchain.python[0])
    tags = [word for tag in rootfs.platforms for word in ("--platform", tag)]
    chosen = ["--only-binary=:all:", "--python-version", toolchain.python[0], "--implementation", "cp", *tags]
    quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--no-deps", "--no-compile"]
    extra = shlex.split(os.environ.get("PIP_ARGS", ""))
    command = [sys.executable, "-m", "pip", "install", "--target", str(place), *quiet, *chosen, *extra]
    run([*command, *toolchain.packages])
