"""The OpenVINO session says what executed, and refuses what would run as something else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from avsdk.engines.openvino import OpenVinoSession
from avsdk.errors import NotAvailable, SilentFallback
from avsdk.session import Artifact
from avsdk.spec import GraphSpec, TensorSpec
from avsdk.telemetry import refuse_telemetry

GRAPH = GraphSpec("g", (TensorSpec("x", "float32", (1, 64)),), (TensorSpec("y", "float32", (1, 64)),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An IR of one matrix product."""
    refuse_telemetry()
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    x = ops.parameter([1, 64], np.float32, "x")
    x.output(0).get_tensor().set_names({"x"})
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    y = ops.matmul(x, ops.constant(weights), False, False)
    y.output(0).get_tensor().set_names({"y"})
    path = tmp_path_factory.mktemp("ir")
    openvino.save_model(openvino.Model([ops.result(y)], [x], "g"), path / "g.xml", compress_to_fp16=False)
    return path


@pytest.fixture
def features() -> Iterator[list[str]]:
    """What this processor's plugin says that it computes in."""
    openvino = pytest.importorskip("openvino")
    yield list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def artifact(precision: str, **options: str) -> Artifact:
    return Artifact("g", "openvino", "cpu", precision, ("g.xml", "g.bin"), None, options)


def test_fp32_is_fp32_although_the_plugin_would_rather_take_bf16(folder: Path) -> None:
    with OpenVinoSession.open(folder, artifact("fp32"), GRAPH, 1) as session:
        assert session.effective_precision == "fp32"
        assert session.execution().precision_shares == {"fp32": 1.0}


def test_bf16_is_read_back(folder: Path, features: list[str]) -> None:
    if "BF16" not in features:
        with pytest.raises(SilentFallback):
            OpenVinoSession.open(folder, artifact("bf16"), GRAPH, 1)
        return
    with OpenVinoSession.open(folder, artifact("bf16"), GRAPH, 1) as session:
        assert session.effective_precision.startswith("bf16")


def test_fp16_that_would_run_as_something_else_is_refused(folder: Path, features: list[str]) -> None:
    if "FP16" in features:
        pytest.skip("this processor computes in fp16")
    with pytest.raises(SilentFallback) as caught:
        OpenVinoSession.open(folder, artifact("fp16"), GRAPH, 1)
    assert caught.value.exit_code == 4
    assert "was asked for f16" in str(caught.value)


def test_an_artifact_of_a_newer_openvino_is_refused_with_what_to_install(folder: Path) -> None:
    with pytest.raises(NotAvailable) as caught:
        OpenVinoSession.open(folder, artifact("fp32", openvino="2099.1.0"), GRAPH, 1)
    assert caught.value.exit_code == 3
    assert "made by OpenVINO 2099.1.0" in str(caught.value)
    assert "pip install 'openvino>=2099.1.0'" in caught.value.fix


def test_a_damaged_ir_is_a_typed_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "g.xml").write_text("<net")
    (tmp_path / "g.bin").write_bytes(b"")
    with pytest.raises(NotAvailable, match="cannot compile g.xml"):
        OpenVinoSession.open(tmp_path, artifact("fp32"), GRAPH, 1)
