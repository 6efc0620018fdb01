"""Neither runtime gets to report: here, in a session, or in a child process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avsdk.worker import call_in_child

_OPEN_A_SESSION = """
from pathlib import Path
from avsdk.engines.openvino import OpenVinoSession
from avsdk.errors import NotAvailable
from avsdk.session import Artifact
from avsdk.spec import GraphSpec
artifact = Artifact("g", "openvino", "cpu", "fp32", ("absent.xml",))
try:
    OpenVinoSession.open(Path("."), artifact, GraphSpec("g", (), ()), 1)
except NotAvailable as error:
    assert "OpenVINO cannot compile absent.xml" in error.failed
import sys
assert "openvino" in sys.modules, "the runtime was imported, by the session"
"""


def state_in_a_child() -> dict[str, object]:
    return {"variable": os.environ["ORT_DISABLE_TELEMETRY"], "blocked": sys.modules["openvino_telemetry"] is None}


def test_a_session_keeps_openvino_from_reporting(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    reporter = tmp_path / "openvino_telemetry"
    reporter.mkdir()
    (reporter / "__init__.py").write_text("import pathlib; pathlib.Path(__file__).with_name('imported').touch()\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    subprocess.run([sys.executable, "-c", _OPEN_A_SESSION], env=environment, check=True, timeout=120)
    assert not (reporter / "imported").exists()


def test_a_child_starts_with_reporting_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    assert call_in_child(state_in_a_child, name="test", timeout_s=60) == {"variable": "1", "blocked": True}
