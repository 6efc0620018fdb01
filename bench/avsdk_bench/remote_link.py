"""The way to another machine: the system's own ``ssh`` or ``adb``, started as a program and never asking a question.

    ssh://[user@]host[:port][?python=/path/to/python]      the address; `~/.ssh/config` is ssh's own business
    adb://SERIAL[?python=/path/to/python]

``AVSDK_SSH_CONFIG`` names another configuration for ssh, as for keys of a test laboratory.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import parse_qs, urlsplit

from avsdk.errors import NotAvailable, UsageError

_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,252}")
_SERIAL = re.compile(r"[A-Za-z0-9._:][A-Za-z0-9._:-]{0,99}")
_PYTHON = re.compile(r"[A-Za-z0-9._/+ -]{1,500}")
_SSH = (
    "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5", "-o",
    "ServerAliveCountMax=3", "-o", "StrictHostKeyChecking=yes", "-o", "ForwardAgent=no", "-o",
    "ClearAllForwardings=yes",
)  # fmt: skip
_SEND_S = 3600.0
_SAYS = (
    (
        "host key verification failed",
        "its key is not known here",
        "connect once by hand and check its fingerprint: ssh {}",
    ),
    ("permission denied", "it does not let this user in", "set up a key that needs no question: ssh-copy-id {}"),
    ("could not resolve", "its name is not known", "check the address"),
    ("connection refused", "nothing listens there", "start its ssh server, or give its port: ssh://host:port"),
    ("timed out", "it does not answer", "check the address and the network"),
    ("unauthorized", "it has not allowed this computer", "allow USB debugging on the device"),
    ("not found", "it is not connected", "adb devices"),
)


class LinkLost(Exception):
    """The connection ended, or could not be made, for a reason that may pass."""


@dataclass(frozen=True)
class Link(ABC):
    """A machine that commands can be run on. ``name`` is what rows call it, ``python`` the Python to use there."""

    name: str
    python: str

    @abstractmethod
    def words(self, command: Sequence[str]) -> list[str]:
        """The words of the program here that runs ``command`` there."""

    @abstractmethod
    def send(self, source: Path, place: str) -> None:
        """Copy a file to a path there. Raises ``LinkLost``."""

    @property
    @abstractmethod
    def lost_code(self) -> int:
        """The exit code with which the program says that the connection, not the command, failed."""

    def run(self, command: Sequence[str], *, timeout_s: float) -> str:
        """Run a command there and return what it wrote. Raises ``LinkLost``, ``NotAvailable`` where it failed."""
        done = _done(self.words(command), timeout_s=timeout_s)
        if done.returncode == 0:
            return done.stdout.decode(errors="replace")
        raise self.failure(done.returncode, done.stderr.decode(errors="replace"))

    def failure(self, code: int, said: str) -> Exception:
        """What a failed program means: a reason that stays, as a typed error, or a lost link."""
        last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), f"exit code {code}")[:300]
        for words, meaning, fix in _SAYS:
            if code == self.lost_code and words in said.lower() and "timed out" not in words:
                return NotAvailable(f"{self.name}: {meaning} ({last})", fix=fix.format(self.name.partition("://")[2]))
        if code == self.lost_code or code < 0:  # killed here, by a signal
            return LinkLost(f"{self.name}: {last}")
        if code == 127 or "not found" in said.lower() or "no such file" in said.lower():
            return NotAvailable(
                f"{self.name} has no {self.python} ({last})",
                expected="Python 3.9 or newer there",
                fix=f"install it, or name one: '{self.name}?python=/path/to/python'",
            )
        return NotAvailable(f"{self.name}: {self.python} ended with {code}: {last}")


@dataclass(frozen=True)
class SshLink(Link):
    """Through OpenSSH's client."""

    host: str
    port: int | None

    @property
    def lost_code(self) -> int:
        """ssh's own."""
        return 255

    def words(self, command: Sequence[str]) -> list[str]:
        """``ssh ... host 'command'``; there a shell reads it, so it is quoted for one."""
        config = os.environ.get("AVSDK_SSH_CONFIG")
        return [
            _program("ssh"), *(("-F", config) if config else ()), *_SSH, *(("-p", str(self.port)) if self.port else ()),
            "--", self.host, shlex.join(command),
        ]  # fmt: skip

    def send(self, source: Path, place: str) -> None:
        """Through ``cat``, which every system has."""
        words = self.words(["sh", "-c", f"umask 077; cat > {shlex.quote(place)}"])
        with source.open("rb") as stream:
            done = _done(words, timeout_s=_SEND_S, stdin=stream)
        if done.returncode:
            raise self.failure(done.returncode, done.stderr.decode(errors="replace"))


@dataclass(frozen=True)
class AdbLink(Link):
    """Through Android's debug bridge."""

    serial: str

    @property
    def lost_code(self) -> int:
        """adb's own; a command's is passed on since its shell protocol 2."""
        return 1

    def words(self, command: Sequence[str]) -> list[str]:
        """``adb -s SERIAL shell -T 'command'``."""
        return [_program("adb"), "-s", self.serial, "shell", "-T", shlex.join(command)]

    def send(self, source: Path, place: str) -> None:
        """``adb push``."""
        done = _done([_program("adb"), "-s", self.serial, "push", str(source), place], timeout_s=_SEND_S)
        if done.returncode:
            raise self.failure(done.returncode, done.stderr.decode(errors="replace"))


def link_from(address: str) -> Link:
    """The link of an address. Raises ``UsageError`` for what is none: an address is never an option of ssh."""
    parts = urlsplit(address)
    python = parse_qs(parts.query).get("python", ["python3"])[0]
    place = parts.netloc.rpartition("@")[2]
    try:
        port, user = parts.port if parts.scheme == "ssh" else None, parts.username
    except ValueError as error:
        raise _no_address(address) from error
    if parts.path or parts.fragment or parts.password or not _PYTHON.fullmatch(python) or python.startswith("-"):
        raise _no_address(address)
    name = f"{parts.scheme}://{parts.netloc}"
    if parts.scheme == "adb" and _SERIAL.fullmatch(parts.netloc):
        return AdbLink(name, python, parts.netloc)
    bare = place.rpartition(":")[0] if port is not None else place
    if parts.scheme == "ssh" and _NAME.fullmatch(bare) and (user is None or _NAME.fullmatch(user)):
        return SshLink(name, python, f"{user}@{bare}" if user else bare, port)
    raise _no_address(address)


def _no_address(address: str) -> UsageError:
    return UsageError(
        f"--on {address!r} is no address",
        expected="ssh://[user@]host[:port][?python=PATH] or adb://SERIAL[?python=PATH]",
    )


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        package = {"ssh": "openssh-client", "adb": "adb"}[name]
        raise NotAvailable(f"the program {name} is not here", fix=f"apt-get install {package}")
    return found


def _done(
    words: Sequence[str], *, timeout_s: float, stdin: int | IO[bytes] = subprocess.DEVNULL
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(words, capture_output=True, timeout=timeout_s, check=False, stdin=stdin)
    except subprocess.TimeoutExpired as error:
        message = f"no answer within {timeout_s:g} s"
        raise LinkLost(message) from error
