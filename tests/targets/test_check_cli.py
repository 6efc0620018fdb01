"""``avsdk check`` from the command line: what is printed, the document, the exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.targets.test_preflight import conv, gru


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("avsdk")), "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})


def document(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
    return found


def test_all_targets_are_judged_and_none_without_a_path_is_a_failure(tmp_path: Path) -> None:
    done = run(str(conv(tmp_path, 5)), "--target", "all")
    assert done.returncode == 0, done.stderr
    assert "no path" in done.stdout
    assert "x shape: the Myriad compiler takes 2-D convolutions only" in done.stdout
    assert "next: avsdk export" in done.stderr


def test_a_named_target_without_a_path_ends_with_3(tmp_path: Path) -> None:
    file = str(conv(tmp_path, 5))
    assert run(file, "--target", "myriad-x").returncode == 3
    assert run(file, "--target", "all,myriad-x").returncode == 3
    assert run(file, "--target", "onnxruntime").returncode == 0


def test_the_document(tmp_path: Path) -> None:
    found = document(str(gru(tmp_path)), "--target", "myriad-x,onnxruntime", "--axis", "time=4")
    first, second = found["targets"]
    assert (first["target"], first["engine"], first["verdict"]) == ("myriad-x", "openvino_myriad", "rewrite")
    assert (second["target"], second["engine"], second["verdict"]) == ("onnxruntime", "onnxruntime", "ok")
    assert {"graph", "node", "op", "kind", "text", "fix", "blocks"} <= set(first["findings"][0])
    assert any("time=4" in item["text"] for item in first["findings"])


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--target", "openvimo"), 2, "did you mean 'openvino'"),
        (("--precision", "fp23"), 2, "unknown precision 'fp23'"),
        (("--axis", "time"), 2, "is no set of sizes"),
        (("--axis", "tiem=3"), 2, "no dynamic axis 'tiem'"),
    ],
)
def test_wrong_usage_is_said(tmp_path: Path, arguments: tuple[str, ...], code: int, told: str) -> None:
    done = run(str(gru(tmp_path)), *arguments)
    assert done.returncode == code, done.stderr
    assert told in done.stderr


def test_a_model_that_is_not_there() -> None:
    done = run("nowhere.onnx")
    assert done.returncode != 0
    assert "nowhere.onnx" in done.stderr
    assert "Traceback" not in done.stderr
