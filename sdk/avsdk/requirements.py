"""What an artifact needs of the machine that loads it: architecture, engine release, driver.

A compiler writes them into the artifact's option ``requires``; they are compared before any vendor library sees the
artifact, since what a runtime says of a file for another machine ranges from a riddle to a crash.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avsdk.errors import BundleRefused, NotAvailable
from avsdk.schema import decode

_GPU = re.compile(r"sm[0-9]{2,3}\+?")
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}(\.?[A-Za-z+-][A-Za-z0-9.+-]{0,60})?")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
_ARCH = re.compile(r"[a-z0-9_+-]{1,40}")
_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Requirements:
    """What an artifact was built for; empty is not asked for.

    ``arch``: ``x86_64``, ``aarch64``, or a GPU's compute capability (``sm86``; ``sm80+`` for that and newer ones).
    ``engine`` names the package whose release is compared: at least ``minimum``, older than ``below``, or the very
    ``exact`` one. ``driver`` is the oldest GPU driver.
    """

    arch: str = ""
    engine: str = ""
    minimum: str = ""
    below: str = ""
    exact: str = ""
    driver: str = ""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Requirements:
        """The artifact's option ``requires``, read strictly: a manifest is untrusted."""
        found = decode(cls, options.get("requires", {}), where="requires", refused=BundleRefused)
        for name, form, expected in (
            ("arch", _ARCH, "an architecture, as x86_64, or a compute capability, as sm86"),
            ("engine", _PACKAGE, "the name of a package"),
            *((name, _VERSION, "a version, as 10.9.0") for name in ("minimum", "below", "exact", "driver")),
        ):
            value = getattr(found, name)
            if value and not form.fullmatch(value):
                raise BundleRefused(
                    f"requires.{name} is {value[:40]!r}",
                    expected=expected,
                    fix="get a whole copy of the bundle, or export it again",
                )
        return found


@dataclass(frozen=True)
class Machine:
    """What is here, each looked up only when an artifact asks: architecture, GPUs and their driver, a release.

    ``gpus`` are compute capabilities as ``sm86``. ``release`` gives a package's version, empty where it is not known.
    """

    arch: Callable[[], str]
    gpus: Callable[[], Sequence[str]]
    driver: Callable[[], str]
    release: Callable[[str], str]


def this_machine(release: Callable[[str], str] | None = None) -> Machine:
    """The machine that this runs on; ``release`` where the engine's packages live in another Python."""
    return Machine(_architecture, lambda: _gpus()[0], lambda: _gpus()[1], release or installed_release)


def require(needed: Requirements, machine: Machine, *, what: str, rebuild: str) -> None:
    """Raise ``NotAvailable`` with the value needed, the one found, and the line that builds the artifact again."""
    for name, wanted, found in _differences(needed, machine):
        raise NotAvailable(
            f"{what} was built for {name} {wanted}, here is {found or 'none'}", expected=f"{name} {wanted}", fix=rebuild
        )


def installed_release(name: str) -> str:
    """The version of an installed distribution, by its name or a common variant; empty where it is not here."""
    from importlib import metadata  # slow to import, and not needed for most artifacts

    plain = name.replace("_", "-")
    for distribution in (name, plain, f"{plain}-cu13", f"{plain}-cu12"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _differences(needed: Requirements, machine: Machine) -> list[tuple[str, str, str]]:
    """What does not fit: its name, the value needed, the value found."""
    found: list[tuple[str, str, str]] = []
    if _GPU.fullmatch(needed.arch):
        gpus = list(machine.gpus())
        if not any(gpu_fits(needed.arch, gpu) for gpu in gpus):
            found.append(("a GPU of", _and_newer(needed.arch), ", ".join(gpus)))
    elif needed.arch and needed.arch != machine.arch():
        found.append(("the architecture", needed.arch, machine.arch()))
    if needed.driver:
        driver = machine.driver()
        if _numbers(driver) < _numbers(needed.driver):
            found.append(("the GPU driver", f">= {needed.driver}", driver))
    release = machine.release(needed.engine) if needed.engine else ""
    if release:
        wanted = _release_asked(needed, release)
        found += [(needed.engine, wanted, release)] if wanted else []
    return found


def _release_asked(needed: Requirements, release: str) -> str:
    """The rule that the release breaks; a rule that names two numbers is compared with the first two."""
    if needed.exact and release != needed.exact:
        return f"== {needed.exact}"
    if needed.minimum and _cut(release, needed.minimum) < _numbers(needed.minimum):
        return f">= {needed.minimum}"
    if needed.below and _cut(release, needed.below) >= _numbers(needed.below):
        return f"< {needed.below}"
    return ""


def _cut(release: str, rule: str) -> tuple[int, ...]:
    return _numbers(release)[: len(_numbers(rule))]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", version.split("-")[0].split("+")[0]))


def gpu_fits(wanted: str, gpu: str) -> bool:
    """Whether a GPU of the compute capability ``gpu``, as ``sm86``, is what is ``wanted``: ``sm86`` or ``sm80+``."""
    return gpu == wanted or (wanted.endswith("+") and _numbers(gpu) >= _numbers(wanted.rstrip("+")))


def _and_newer(arch: str) -> str:
    return f"{arch[:-1]} or newer" if arch.endswith("+") else arch


def _architecture() -> str:
    machine = platform.machine().lower()
    return _MACHINES.get(machine, machine)


def _gpus() -> tuple[list[str], str]:
    """The compute capabilities of the NVIDIA GPUs here, and their driver's version."""
    from avsdk.nvidia import local_gpus

    gpus = local_gpus()
    return [gpu.arch for gpu in gpus], gpus[0].driver if gpus else ""
