"""A headless Chromium for tests, spoken to through a pipe by its own protocol (Chrome DevTools); no package needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --disable-extensions --disable-default-apps --hide-scrollbars --remote-debugging-pipe"
).split()
ANSWER_S = 60.0


def chromium_path() -> str | None:
    """Chromium's program, or None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Chromium:
    """One browser with one page. ``messages`` are what the console and the page's errors said."""

    def __init__(self, folder: Path) -> None:
        read_by_it, write_to_it = os.pipe()
        self._answers, write_by_it = os.pipe()
        self._requests = write_to_it
        command = [str(chromium_path()), *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        # Chromium reads from descriptor 3 and writes to 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read_by_it} 4>&{write_by_it}', "bash", *command],
            pass_fds=(read_by_it, write_by_it), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_by_it)
        os.close(write_by_it)
        self._buffer, self._number, self._session = b"", 0, ""
        self.messages: list[str] = []
        self.requested: list[str] = []
        try:
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.ask(f"{domain}.enable")
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One request and its answer; events that come meanwhile are kept."""
        self._number += 1
        request = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            request["sessionId"] = self._session
        os.write(self._requests, json.dumps(request).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def open(self, page: Path, fragment: str = "") -> None:
        """Load a page and wait until it is whole."""
        self.messages, self.requested = [], []
        self.ask("Page.navigate", url="about:blank")
        self.ask("Page.navigate", url=page.as_uri() + fragment)
        while self.run("document.readyState + location.protocol") != "completefile:":
            time.sleep(0.02)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """Press and release one key, as a person would."""
        codes = {"Tab": 9, "Enter": 13, "ArrowDown": 40, "ArrowUp": 38, "End": 35, "Home": 36}
        code = codes.get(key, ord(key.upper()) if len(key) == 1 else 0)
        facts = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        typed = {"text": text or ("\r" if key == "Enter" else "")}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **facts, **(typed if typed["text"] else {}))
        self.ask("Input.dispatchKeyEvent", type="keyUp", **facts)

    def look(self, *, width: int, dark: bool) -> None:
        """Set the width of the window in CSS pixels, and light or dark."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        taken = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(taken["data"])

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = ""
        os.write(self._requests, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._requests)
        os.close(self._answers)

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + ANSWER_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], until - time.monotonic())
            block = os.read(self._answers, 1 << 20) if ready else b""
            assert block, "Chromium gave no answer"
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, facts = message.get("method"), message.get("params", {})
        if method == "Log.entryAdded":
            self.messages.append(facts["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(facts["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(json.dumps(facts["args"]))
        elif method == "Network.requestWillBeSent":
            self.requested.append(facts["request"]["url"])
