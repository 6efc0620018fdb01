"""What another machine runs before avsdk is there: its text is handed to that machine's Python. Standard library only.

| words              | does                                                                                       |
|--------------------|--------------------------------------------------------------------------------------------|
| look HASHES        | tells the Python's version, which hashes (JSON) are not in the store; drops what is old     |
| place FILE HASH    | moves a file that was sent into the store, if its content has that hash                     |
| start HASH         | makes a clean folder, unpacks the runtime into it, starts its agent, tells the folder       |
| attach FOLDER      | joins standard input and output with the agent of that folder                               |

Every answer but attach's is one line of JSON. It parses on Python 3.6, so that one that is too old can be told so.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

STARTED_S = 30.0
KEPT_S = 30 * 24 * 3600.0
AGENT = "import sys; sys.path.insert(0, sys.argv[1]); from avsdk_bench import remote_agent as a; a.serve(*sys.argv[2:])"


def store() -> Path:
    """The folder of files by hash, private to the user."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for place in (cache, Path(tempfile.gettempdir()) / f"avsdk-cache-{os.getuid()}"):
        folder = place / "avsdk" / "remote"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)  # which another user's folder refuses
        except OSError:
            continue
        return folder
    sys.exit("no folder can be written to")


def hash_of(path: Path) -> str:
    """The SHA-256 of a file's content, or nothing where there is no file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def look(hashes: str) -> "dict[str, object]":
    """What is here, and what is missing; a file of the store that was damaged is missing."""
    folder = store()
    wanted = json.loads(hashes)
    missing = [name for name in wanted if hash_of(folder / name) != name]
    for name in set(wanted) - set(missing):
        os.utime(str(folder / name))  # used again, so that it is kept
    prune(folder, time.time() - KEPT_S)
    free_mb = shutil.disk_usage(str(folder)).free >> 20
    return {"python": list(sys.version_info[:3]), "folder": str(folder), "missing": missing, "free_mb": free_mb}


def prune(folder: Path, before: float) -> None:
    """Delete what no bench has used since then, and what was left of transfers that broke off."""
    for path in folder.iterdir():
        try:
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink()
        except OSError:  # another bench was faster
            continue


def place(sent: str, name: str) -> "dict[str, object]":
    """Take a sent file into the store, whole or not at all."""
    fits = hash_of(Path(sent)) == name
    if fits:
        whole = store() / (name + ".new")
        shutil.copyfile(sent, str(whole))  # it may lie on another file system
        whole.replace(store() / name)
    if Path(sent).exists():
        Path(sent).unlink()
    return {"placed": fits}


def start(name: str) -> "dict[str, object]":
    """Start the agent in a clean folder; it lives on when this connection ends."""
    job = Path(tempfile.mkdtemp(prefix="avsdk-"))
    with zipfile.ZipFile(str(store() / name)) as packed:
        packed.extractall(str(job / "runtime"))
    with (job / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(job / "runtime"), str(job), str(store())],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=str(job), start_new_session=True,
        )  # fmt: skip
    until = time.time() + STARTED_S
    while not (job / "socket").exists() and process.poll() is None and time.time() < until:
        time.sleep(0.02)
    if (job / "socket").exists():
        return {"job": str(job)}
    process.kill()
    tail = (job / "log").read_bytes()[-2000:].decode("utf-8", "replace")
    shutil.rmtree(str(job), ignore_errors=True)
    return {"job": "", "log": tail}


def attach(job: str) -> None:
    """Carry bytes both ways until either side ends."""
    agent = socket.socket(socket.AF_UNIX)
    agent.connect(str(Path(job) / "socket"))

    def inward() -> None:
        while True:
            block = os.read(0, 1 << 16)
            if not block:
                break
            agent.sendall(block)
        os._exit(0)

    threading.Thread(target=inward, daemon=True).start()
    while True:
        block = agent.recv(1 << 16)
        if not block:
            break
        while block:
            block = block[os.write(1, block) :]
    os._exit(0)


def main(errand: str, *words: str) -> None:
    """Run one errand and write its answer."""
    if errand == "attach":
        attach(*words)
    answer = {"look": look, "place": place, "start": start}[errand](*words)  # type: ignore[operator]
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
