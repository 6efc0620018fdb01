"""A real OpenSSH server for tests: its own keys, configuration, port and folder; nobody's ``~/.ssh`` is touched."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

_SERVER = """
Port {port}
ListenAddress {address}
HostKey {folder}/host
PidFile {folder}/pid
AuthorizedKeysFile {folder}/authorized
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PermitUserEnvironment no
SetEnv XDG_CACHE_HOME={folder}/cache TMPDIR={folder}
"""
_CLIENT = """
Host *
  Port {port}
  IdentityFile {folder}/user
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known
  GlobalKnownHostsFile /dev/null
"""


def why_not() -> str:
    """Why no server can be started here; empty where one can."""
    for program in ("ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            return f"the program {program} is not here: apt-get install openssh-client"
    return "" if server_path() else "sshd is not here: apt-get install openssh-server"


def server_path() -> str | None:
    """The server's program; it insists on being called by its whole path."""
    return shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


class OpenSsh:
    """A running server. ``config`` is what ``ssh -F`` takes to get in; ``prefix`` runs the server elsewhere."""

    def __init__(self, folder: Path, *, address: str = "127.0.0.1", prefix: tuple[str, ...] = ()) -> None:
        self.folder, self.address = folder, address
        for name in ("host", "user"):
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(keygen, check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        facts = {"port": self.port, "folder": folder, "address": address}
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        key = " ".join((folder / "host.pub").read_text().split()[:2])
        (folder / "known").write_text(f"[{address}]:{self.port} {key}\n")
        (folder / "server").write_text(_SERVER.format(**facts))
        self.config = folder / "client"
        self.config.write_text(_CLIENT.format(**facts))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where its privileges are separated
        with (folder / "log").open("wb") as log:
            command = [*prefix, str(server_path()), "-D", "-e", "-f", str(folder / "server")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.user = getpass.getuser()
        until = time.monotonic() + 20
        while b"Server listening" not in (folder / "log").read_bytes():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.02)

    def address_for(self, python: str) -> str:
        """What ``--on`` takes."""
        return f"ssh://{self.user}@{self.address}?python={python}"

    def jobs(self) -> list[Path]:
        """The folders that agents have left, or are at work in."""
        return [path for path in self.folder.glob("avsdk-*") if path.is_dir()]

    def __enter__(self) -> OpenSsh:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
