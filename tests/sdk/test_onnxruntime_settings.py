"""How a session of ONNX Runtime is made: what a bundle may say, and what the runtime says it has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.sdk.test_onnxruntime import SPEC, product

from avsdk.engines.onnxruntime import OnnxRuntimeSession
from avsdk.errors import BundleRefused, SilentFallback, UsageError
from avsdk.onnxruntime_settings import SETTINGS, chosen_settings, require_settings
from avsdk.session import Artifact

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'avsdk[onnxruntime]'")


def opened(root: Path, session: Any) -> OnnxRuntimeSession:
    product(root / "model" / "net.onnx")
    artifact = Artifact("net", "onnxruntime", "cpu", "fp32", ("model/net.onnx",), options={"session": session})
    found = OnnxRuntimeSession.open(root, artifact, SPEC, 1)
    assert isinstance(found, OnnxRuntimeSession)
    return found


@pytest.mark.parametrize(
    ("recorded", "found"),
    [
        ({}, ("ORT_ENABLE_ALL", True, "1")),
        ({"optimisation": "extended", "arena": "no"}, ("ORT_ENABLE_EXTENDED", False, "1")),
        ({"optimisation": "off", "spinning": "no"}, ("ORT_DISABLE_ALL", True, "0")),
    ],
)
def test_what_a_bundle_records_is_what_the_runtime_has(
    recorded: dict[str, str], found: tuple[str, bool, str], tmp_path: Path
) -> None:
    with opened(tmp_path, recorded) as session:
        options = session._session.get_session_options()
        spinning = options.get_session_config_entry("session.intra_op.allow_spinning")
        assert (options.graph_optimization_level.name, options.enable_cpu_mem_arena, spinning) == found
        assert session.run({"x": np.ones((1, 8), np.float32)})["y"][0, 0] == 8.0


@pytest.mark.parametrize("recorded", [{"arena": "perhaps"}, {"spinning": ["yes"]}, {"optimisation": ""}])
def test_a_bundle_that_records_nonsense_is_refused(recorded: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match=f"onnxruntime.{next(iter(recorded))} is"):
        opened(tmp_path, recorded)


def test_a_wrong_value_names_the_right_ones() -> None:
    with pytest.raises(UsageError, match="one of: all, extended, basic, off") as caught:
        chosen_settings({"optimisation": "most", "fallback": "allow"})
    assert caught.value.fix == "--set onnxruntime.optimisation=all"
    assert chosen_settings({"fallback": "allow", "arena": "no"}) == {"arena": "no"}
    assert set(SETTINGS) == {"optimisation", "spinning", "arena"}


def test_an_option_that_the_runtime_did_not_take_is_a_fallback() -> None:
    options = SimpleNamespace(
        graph_optimization_level=SimpleNamespace(name="ORT_ENABLE_ALL"),
        enable_cpu_mem_arena=True,
        get_session_config_entry=lambda name: "1",
    )
    require_settings(options, {})
    with pytest.raises(SilentFallback, match="asked for spinning 0 and set 1"):
        require_settings(options, {"spinning": "no"})
