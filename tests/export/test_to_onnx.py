"""The style network as ExportedProgram and ONNX: same numbers, pinned versions, clean graph, same bytes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.export.conftest import Exported
from tests.export.models import Branches, Norms, vector_spec
from torch import nn

from avsdk.errors import UsageError
from avsdk.onnx_check import check_onnx
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, TensorSpec
from avsdk_export.program import export_program, nearest_size, tracing_sizes
from avsdk_export.to_onnx import GRAPH_KEY, SPEC_KEY, check_inference_only, onnx_from_program, write_onnx

SIZES = [(1, 64, 64), (3, 96, 128), (1, 428, 640), (2, 68, 100)]


def picture(batch: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator).float()


def relative_error(found: np.ndarray, wanted: torch.Tensor) -> float:
    return float(np.abs(found - wanted.numpy()).max() / wanted.abs().max())


@pytest.mark.parametrize("size", SIZES)
def test_onnx_runtime_gives_the_numbers_of_pytorch(style: Exported, size: tuple[int, int, int]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(style.onnx), providers=["CPUExecutionProvider"])
    image = picture(*size)
    (styled,) = session.run(["styled"], {"image": image.numpy()})
    assert relative_error(styled, style.network(image)) < 1e-5


def test_openvino_gives_the_numbers_of_pytorch(style: Exported) -> None:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(str(style.onnx), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for size in SIZES[:2]:
        image = picture(*size)
        assert relative_error(compiled(image.numpy())[0], style.network(image)) < 3e-5


def test_the_program_runs_at_fixed_sizes(style: Exported) -> None:
    module = torch.export.load(style.program_file).module()
    image = picture(1, 96, 128)
    torch.testing.assert_close(module(image), style.network(image))


def test_operators(style: Exported) -> None:
    """One node per layer: no shape arithmetic, no norm in training mode."""
    found = Counter(node.op_type for node in style.model.graph.node)
    assert found == {"Pad": 16, "Conv": 16, "InstanceNormalization": 15, "Relu": 10, "Add": 5, "Resize": 2}
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in style.model.graph.initializer}
    for node in style.model.graph.node:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Resize":
            assert attributes["coordinate_transformation_mode"] == b"asymmetric"
            assert (attributes["mode"], attributes["nearest_mode"]) == (b"nearest", b"floor")
            assert constants[node.input[2]].tolist() == [1, 1, 2, 2]
        if node.op_type == "Pad":
            assert attributes["mode"] == b"reflect"
            assert node.input[1] in constants


def test_versions_and_axes(style: Exported) -> None:
    assert style.model.ir_version == 10
    assert [(item.domain, item.version) for item in style.model.opset_import] == [("", 20)]
    assert not style.model.functions
    for value in (style.model.graph.input[0], style.model.graph.output[0]):
        dims = value.type.tensor_type.shape.dim
        assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "height", "width"]
    facts = check_onnx(style.onnx)
    assert (facts.ir, facts.opset, facts.external) == (10, 20, ())


def test_the_spec_is_inside(style: Exported) -> None:
    metadata = {item.key: item.value for item in onnx.load(style.onnx).metadata_props}
    assert metadata[GRAPH_KEY] == "transform"
    assert ModelSpec.from_json(json.loads(metadata[SPEC_KEY])) == style.spec


def test_same_bytes_and_nothing_of_this_machine(style: Exported, tmp_path: Path) -> None:
    again = onnx_from_program(style.program, style.graph, style.spec)
    write_onnx(again, tmp_path / "again.onnx")
    content = style.onnx.read_bytes()
    assert (tmp_path / "again.onnx").read_bytes() == content
    for text in (b".py", b"forward", str(Path(__file__).parents[2]).encode()):
        assert text not in content


def test_large_weights_go_beside_the_file(style: Exported, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = onnx.ModelProto()
    model.CopyFrom(style.model)
    for _ in range(2):  # a second writing replaces the data, it does not append
        written = write_onnx(model, tmp_path / "m.onnx", external_above=1_000_000)
        model.CopyFrom(style.model)
    assert [file.name for file in written] == ["m.onnx", "m.onnx.data"]
    facts = check_onnx(written[0])
    assert facts.external == ("m.onnx.data",)
    assert written[0].stat().st_size < 100_000 < 6_000_000 < written[1].stat().st_size < 7_000_000
    session = onnxruntime.InferenceSession(str(written[0]), providers=["CPUExecutionProvider"])
    image = picture(1, 64, 64)
    assert relative_error(session.run(None, {"image": image.numpy()})[0], style.network(image)) < 1e-5


def test_instance_norms_of_every_kind(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = GraphSpec(
        "norms",
        (TensorSpec("x", "float32", ("batch", 4, "height", 8)),),
        (TensorSpec("y", "float32", ("batch", 4, "length")),),
        {"batch": AxisRange(1, 8), "height": AxisRange(2, 64)},
    )
    network = Norms()
    with torch.no_grad():
        network.running.running_mean.uniform_(-1, 1)
        network.running.running_var.uniform_(0.5, 2)
    network.eval()
    model = onnx_from_program(export_program(network, graph), graph, ModelSpec("norms", "tensor", (graph,)))
    ops = Counter(node.op_type for node in model.graph.node)
    assert ops["InstanceNormalization"] == 2
    assert ops["BatchNormalization"] == 1
    write_onnx(model, tmp_path / "norms.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "norms.onnx"), providers=["CPUExecutionProvider"])
    x = torch.randn(3, 4, 6, 8)
    with torch.no_grad():
        assert relative_error(session.run(None, {"x": x.numpy()})[0], network(x)) < 1e-5


def test_control_flow_on_data_is_refused() -> None:
    with pytest.raises(UsageError, match="torch.export cannot export graph 'model'") as caught:
        export_program(Branches(), vector_spec().graphs[0])
    assert "batch 1..32" in caught.value.expected


def test_a_range_that_the_module_cannot_serve_is_refused() -> None:
    spec = vector_spec()

    class OnlyThree(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.zeros(3, 4)

    with pytest.raises(UsageError, match="torch.export cannot export"):
        export_program(OnlyThree(), spec.graphs[0])


@pytest.mark.parametrize(("outputs", "text"), [(5, "is float32 [3, 4]"), (4, "")])
def test_outputs_must_be_those_of_the_spec(outputs: int, text: str) -> None:
    graph = vector_spec(outputs=outputs).graphs[0]
    sizes = tracing_sizes(graph)
    assert sizes == {"batch": 2}
    if text:
        with pytest.raises(UsageError, match=r"output 'y' of graph 'model' is float32 \[2, 4\]"):
            export_program(nn.Linear(4, 4), graph)
    else:
        export_program(nn.Linear(4, 4), graph)


def test_number_of_outputs_must_be_that_of_the_spec() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x + 1

    with pytest.raises(UsageError, match="returns 2 tensors"):
        export_program(Two(), vector_spec().graphs[0])


def test_a_network_that_trains_is_refused() -> None:
    norm = onnx.helper.make_node("BatchNormalization", list("xsbmv"), ["y", "m2", "v2"], name="norm", training_mode=1)
    inner = onnx.helper.make_graph([norm], "inner", [], [])
    branch = onnx.helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    for node in (norm, branch):
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
        with pytest.raises(UsageError, match=r"'norm' \(BatchNormalization\) of graph 'model' is in training mode"):
            check_inference_only(model, vector_spec().graphs[0])


def test_training_flags_do_not_reach_the_graph() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)).train()
    spec = vector_spec()
    model = onnx_from_program(export_program(network, spec.graphs[0]), spec.graphs[0], spec)
    assert "Dropout" not in {node.op_type for node in model.graph.node}
    assert network.training  # the caller's module is left as it was


def test_sizes_to_trace_with(style: Exported) -> None:
    sizes = tracing_sizes(style.graph)
    assert sizes == {"batch": 2, "height": 76, "width": 84}
    assert all(style.graph.axes[name].admits(size) for name, size in sizes.items())
    assert nearest_size(AxisRange(10, 100, 8, 16), 3) == 16
    assert nearest_size(AxisRange(10, 100, 8, 16), 500) == 96
