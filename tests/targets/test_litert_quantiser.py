"""ai-edge-quantizer in its toolchain: layers are told by their weights, and those to be kept stay in fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save
from torch import nn

from avsdk.engines.litert import LiteRtSession
from avsdk.errors import NotAvailable
from avsdk.golden import write_golden
from avsdk.parity import deviation
from avsdk.session import Artifact
from avsdk.spec import GraphSpec, TensorSpec
from avsdk_targets.compiler import CompileJob, Quantisation
from avsdk_targets.compilers.litert import LiteRtCompiler
from avsdk_targets.litert_quantiser import _same

SHAPE = (1, 3, 16, 16)
SPEC = GraphSpec("net", (TensorSpec("x", "float32", SHAPE),), (TensorSpec("y", "float32", SHAPE),))


class Small(nn.Module):
    """Two convolutions with an instance norm between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(torch.relu(self.norm(self.first(x))))
        return result


def job(folder: Path, kept: tuple[str, ...], *, quantised: bool = True) -> CompileJob:
    """The program, the ONNX layers with the same weights, and smooth samples."""
    torch.manual_seed(0)
    network = Small().eval()
    torch.export.save(torch.export.export(network, (torch.rand(SHAPE),)), folder / "net.pt2")
    weights = [numpy_helper.from_array(layer.weight.detach().numpy(), name)
               for name, layer in (("w0", network.first), ("w1", network.last))]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["h"], name="first", pads=[1] * 4),
        helper.make_node("Conv", ["h", "w1"], ["y"], name="last", pads=[1] * 4),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy"]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "net.onnx")
    steps = np.linspace(0, 3, 16)
    feeds = [np.sin(steps * (1 + place) + np.arange(3)[:, None, None] + steps[:, None])[None] for place in range(4)]
    samples = [{"x": item.astype(np.float32)} for item in feeds]
    with torch.no_grad():
        answers = [{"y": network(torch.from_numpy(item["x"])).numpy()} for item in samples]
    write_golden(folder / "net.npz", list(zip(samples, answers, strict=True)))
    (folder / "out").mkdir()
    quantisation = Quantisation(folder / "net.npz", folder / "cache", kept) if quantised else None
    return CompileJob(
        folder / "net.onnx", SPEC, "cpu", "host", "int8", folder / "out", program=folder / "net.pt2",
        golden=folder / "net.npz", quantisation=quantisation,
    )  # fmt: skip


def test_int8_for_a_processor_needs_calibration(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="not quantised for a processor without calibration") as caught:
        LiteRtCompiler().compile(job(tmp_path, (), quantised=False))
    assert "--calibration" in caught.value.fix


@pytest.mark.parametrize(("kept", "int8"), [((), 2), (("first",), 1)])
def test_layers_are_quantised_and_kept(kept: tuple[str, ...], int8: int, tmp_path: Path) -> None:
    verdict = LiteRtCompiler().check("cpu", "host", "int8")
    if not verdict.ok:
        pytest.skip(verdict.reason)
    asked = job(tmp_path, kept)
    artifact = LiteRtCompiler().compile(asked).artifact
    layers = artifact.options["layers"]
    assert list(layers) == ["first", "last"]
    assert [name for name, precision in layers.items() if precision == "fp32"] == list(kept)
    assert sum(precision == "int8" for precision in layers.values()) == int8
    opened = Artifact("net", "litert", "cpu", "int8+fp32", artifact.files, artifact.shapes, artifact.options)
    with np.load(tmp_path / "net.npz") as golden, LiteRtSession.open(tmp_path / "out", opened, SPEC, 1) as session:
        answer = session.run({"x": golden["in.0.x"]})["y"]
        assert deviation("net", "y", golden["out.0.y"], answer).snr_db > 20.0
        shares = session.execution().precision_shares
    assert shares["int8"] > 0.2
    assert shares["fp32"] > 0.01, "the norm is never quantised"


def test_layers_are_told_by_their_weights() -> None:
    assert _same((100.0, 5.0, 50.0), (100.0, 5.01, 50.0))
    assert not _same((100.0, 5.0, 50.0), (100.0, 6.0, 50.0))
    assert not _same((100.0, 5.0, 50.0), (99.0, 5.0, 50.0))
