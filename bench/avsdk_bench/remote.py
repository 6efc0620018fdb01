"""Another machine, as the parent of a bench sees it: what it lacks is sent, an agent is started, requests are answered.

Files go by hash, so that only what is missing travels, and a transfer that broke off goes on with the next file. A
connection that is lost is made again, and the request asked again: the agent answers each only once. Only JSON comes
back, and nothing of it is trusted.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import avsdk
from avsdk import plugins
from avsdk.bundle import MANIFEST, Bundle
from avsdk.errors import NotAvailable, Refused, ToolchainCrashed, error_from_json
from avsdk.files import sha256_file
from avsdk_bench import remote_boot
from avsdk_bench.remote_agent import PROTOCOL
from avsdk_bench.remote_link import Link, LinkLost

Notice = Callable[[str], None]

OLDEST_PYTHON = (3, 9)
_LOOK_S = 120.0
_REQUEST_S = 1000.0
_MOST_ANSWER = 64 << 20
_LONG_AGO = (1980, 1, 1, 0, 0, 0)


class Remote:
    """One machine. ``patience_s``: for how long a lost connection is tried again before the machine is given up."""

    def __init__(self, link: Link, *, patience_s: float = 60.0, notice: Notice = lambda text: None) -> None:
        self.link = link
        self.name = link.name
        self._patience_s, self._notice = patience_s, notice
        self._job = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._requests = 0
        self._bundles: dict[str, str] = {}

    def start(self) -> None:
        """Send the runtime where it is missing, start the agent, greet it. Raises ``NotAvailable`` with the reason."""
        with tempfile.TemporaryDirectory(prefix="avsdk-runtime-") as folder:
            runtime = Path(folder) / "avsdk.pyz"
            runtime.write_bytes(packed_runtime())
            digest = self._bring({sha256_file(runtime): runtime})[0]
        started = self._boot("start", digest)
        if not started.get("job"):
            raise NotAvailable(
                f"{self.name}: the agent did not start: {str(started.get('log', ''))[-500:]}",
                expected="Python 3.9 or newer with numpy 1.23 or newer",
                fix=f"install numpy and the engine for {self.link.python} there, or name another: ?python=PATH",
            )
        self._job = str(started["job"])
        greeting = self.request("hello", entries=plugins.offered("engines", "predictors"))
        if not isinstance(greeting, dict) or greeting.get("protocol") != PROTOCOL:
            raise NotAvailable(f"{self.name} answered the greeting with {str(greeting)[:100]}")

    def bundle(self, bundle: Bundle) -> str:
        """The folder of a bundle there; sent first as far as it is missing."""
        key = str(bundle.path.resolve())
        if key not in self._bundles:
            manifest = bundle.path / MANIFEST
            files = {MANIFEST: sha256_file(manifest), **bundle.manifest.files}
            places = {digest: bundle.file(name) for name, digest in bundle.manifest.files.items()}
            self._bring({**places, files[MANIFEST]: manifest})
            self._bundles[key] = str(self.request("bundle", name=str(len(self._bundles)), files=files))
        return self._bundles[key]

    def request(self, verb: str, **arguments: Any) -> Any:
        """Ask the agent. A lost connection is made again and the request repeated; it runs once all the same."""
        self._requests += 1
        line = json.dumps({"id": self._requests, "verb": verb, "arguments": arguments}).encode() + b"\n"
        answer = self._patiently(lambda: self._exchange(line))
        if answer.get("id") != self._requests:
            raise Refused(f"{self.name} answered another request", expected=f"the answer to request {self._requests}")
        if "error" in answer:
            raise error_from_json(answer["error"] if isinstance(answer["error"], dict) else {})
        return answer.get("result")

    def close(self) -> None:
        """End the agent, which removes its folder."""
        if self._job:
            self._patience_s = 0.0
            try:
                self.request("bye")
            except (NotAvailable, Refused):
                self._notice(f"{self.name}: the agent in {self._job} ends by itself after ten minutes")
        self.hang_up()
        self._job = ""

    def hang_up(self) -> None:
        """End the connection; the agent stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):  # a request that was half written stays unwritten
                        stream.close()
            self._process = None
        self._buffer = b""

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _bring(self, files: Mapping[str, Path]) -> list[str]:
        """Have every file in the store there; ask first what is missing."""
        wanted = list(dict.fromkeys(files))

        def once() -> None:
            seen = self._boot("look", json.dumps(wanted))
            version = tuple(seen.get("python") or ())
            if version < OLDEST_PYTHON:
                raise NotAvailable(
                    f"{self.name}: {self.link.python} is Python {'.'.join(map(str, version))}",
                    expected="3.9 or newer",
                    fix=f"'{self.name}?python=/path/to/a/newer/python'",
                )
            missing = [digest for digest in wanted if digest in (seen.get("missing") or ())]
            needed_mb = sum(files[digest].stat().st_size for digest in missing) >> 20
            if needed_mb >= int(seen.get("free_mb") or 0):
                raise NotAvailable(f"{self.name} has no room for {needed_mb} MB in {seen.get('folder')}")
            folder = str(seen.get("folder"))
            if not folder.startswith("/"):
                raise Refused(f"{self.name} keeps files in {folder[:100]!r}", expected="a path from the root")
            for digest in missing:
                sent = f"{folder}/sent-{os.getpid()}-{digest[:16]}"
                self.link.send(files[digest], sent)
                if not self._boot("place", sent, digest).get("placed"):
                    message = f"{self.name}: a file arrived damaged"
                    raise LinkLost(message)

        self._patiently(once)
        return wanted

    def _boot(self, *words: str) -> dict[str, Any]:
        """One errand by the text of ``remote_boot``, before or beside the agent."""
        command = [self.link.python, "-c", _boot_text(), *words]
        said = self.link.run(command, timeout_s=_LOOK_S)
        last = said.strip().splitlines()[-1:] or [""]  # before it a login script may have spoken
        try:
            found = json.loads(last[0])
        except ValueError as error:
            raise NotAvailable(f"{self.name} answered {last[0][:200]!r}", expected="a line of JSON") from error
        if not isinstance(found, dict):
            raise NotAvailable(f"{self.name} answered {last[0][:200]!r}", expected="an object")
        return found

    def _patiently(self, work: Callable[[], Any]) -> Any:
        """Do the work again when the link is lost, with growing pauses, until patience ends."""
        until, pause_s = time.monotonic() + self._patience_s, 0.2
        while True:
            try:
                return work()
            except LinkLost as error:
                self.hang_up()
                if time.monotonic() + pause_s > until:
                    raise NotAvailable(
                        f"the connection to {self.name} was lost for more than {self._patience_s:g} s: {error}",
                        fix="check the machine and the network, then run it again: what was sent is there",
                    ) from error
                self._notice(f"{self.name}: connection lost ({error}), trying again")
                time.sleep(pause_s)
                pause_s = min(5.0, 2 * pause_s)

    def _exchange(self, line: bytes) -> dict[str, Any]:
        process = self._connected()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except OSError as error:
            raise self._lost() from error
        until = time.monotonic() + _REQUEST_S
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
            block = os.read(process.stdout.fileno(), 1 << 20) if ready else b""
            if not block:
                raise self._lost() if ready else ToolchainCrashed(f"{self.name} gave no answer in {_REQUEST_S:g} s")
            self._buffer += block
            if len(self._buffer) > _MOST_ANSWER:
                raise Refused(f"{self.name} answered more than {_MOST_ANSWER >> 20} MB", expected="a line of JSON")
        text, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Refused(f"{self.name} answered what is no JSON: {text[:100]!r}") from error
        if not isinstance(answer, dict):
            raise Refused(f"{self.name} answered {text[:100]!r}", expected="an object")
        return answer

    def _connected(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [self.link.python, "-c", _boot_text(), "attach", self._job]
            self._process = subprocess.Popen(
                self.link.words(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        return self._process

    def _lost(self) -> Exception:
        """Why the connection ended: lost, or for a reason that trying again would not mend."""
        assert self._process is not None and self._process.stderr is not None
        try:
            code = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            return LinkLost(f"{self.name}: the connection closed")
        said = self._process.stderr.read().decode(errors="replace")
        self.hang_up()
        if "FileNotFoundError" in said or "ConnectionRefusedError" in said:
            return NotAvailable(f"{self.name}: the agent is gone, with its folder {self._job}", fix="run it again")
        found = self.link.failure(code, said) if code > 0 else LinkLost(f"{self.name}: the connection closed")
        return found if isinstance(found, NotAvailable) and code == self.link.lost_code else LinkLost(str(found))


def _boot_text() -> str:
    return Path(remote_boot.__file__).read_text(encoding="utf-8")


def packed_runtime() -> bytes:
    """avsdk and what a cell needs of avsdk_bench as one zip; the same bytes for the same sources."""
    package = Path(avsdk.__file__).parent
    files = {f"avsdk/{file.relative_to(package).as_posix()}": file for file in package.rglob("*.py")}
    files |= {f"avsdk_bench/{name}.py": file for name, file in sent_modules().items()}
    with tempfile.SpooledTemporaryFile(max_size=64 << 20) as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in sorted(files):
                packed.writestr(zipfile.ZipInfo(name, _LONG_AGO), files[name].read_bytes(), zipfile.ZIP_DEFLATED)
            start = "import sys\nfrom avsdk_bench.remote_agent import serve\nserve(*sys.argv[1:])\n"
            packed.writestr(zipfile.ZipInfo("__main__.py", _LONG_AGO), start)
        stream.seek(0)
        return stream.read()


def sent_modules() -> dict[str, Path]:
    """The modules of avsdk_bench that the agent needs: itself, and whatever of ours they import, by name."""
    folder = Path(__file__).parent
    found = {"__init__": folder / "__init__.py"}
    waiting = ["remote_agent"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = folder / f"{name}.py"
        for node in ast.walk(ast.parse(found[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "avsdk_bench":
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("avsdk_bench."):
                waiting.append(str(node.module).partition(".")[2])
    return found
