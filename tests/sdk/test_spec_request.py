"""What a user asks for is laid over a model's spec where it fits, and refused where it contradicts the model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from avsdk.errors import SizeNotBuilt, UnknownName, UsageError
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, Step, TensorSpec
from avsdk.spec_request import AskedRange, AskedTensor, SpecRequest, request_from, requested_spec

GRAPH = GraphSpec(
    "net",
    (TensorSpec("frames", "float32", ("N", 40, "T")), TensorSpec("speaker", "int64", ("N",))),
    (TensorSpec("scores", "float32", ("N", "T", 10)),),
    {"N": AxisRange(1, 4096), "T": AxisRange(1, 4096, 1, 64)},
)
SPEC = ModelSpec("foreign", "tensor", (GRAPH,))


def test_a_request_survives_its_way_through_the_options() -> None:
    request = SpecRequest(
        "name", "audio", {"frames": AskedTensor(("batch", 40, "time"))}, {}, {"time": AskedRange(5, 9, 2, 8)},
        (Step("sound_mono", {"sample_rate_hz": 16000}),), (Step("top_k", {"k": 3}),),
    )  # fmt: skip
    assert request_from(request.to_option()) == request
    assert SpecRequest().to_option() == {}, "no request leaves a source's fingerprint as it was"
    assert request_from({}) == SpecRequest()


def test_axes_get_names_in_every_tensor_and_ranges() -> None:
    request = SpecRequest(
        inputs={"frames": AskedTensor(("batch", 40, "time"))},
        axes={"batch": AskedRange(1, 8), "time": AskedRange(50, 2000, default=400)},
    )
    (graph,) = requested_spec(SPEC, request, free=frozenset({"batch", "time"})).graphs
    assert [tensor.shape for tensor in graph.inputs] == [("batch", 40, "time"), ("batch",)]
    assert graph.outputs[0].shape == ("batch", "time", 10)
    assert graph.axes == {"batch": AxisRange(1, 8), "time": AxisRange(50, 2000, 1, 400)}


def test_a_dynamic_axis_can_be_fixed() -> None:
    request = SpecRequest(inputs={"frames": AskedTensor((1, 40, "T"))})
    (graph,) = requested_spec(SPEC, request).graphs
    assert [tensor.shape for tensor in (*graph.inputs, *graph.outputs)] == [(1, 40, "T"), (1,), (1, "T", 10)]
    assert set(graph.axes) == {"T"}


@pytest.mark.parametrize(
    ("asked", "default"),
    [
        (AskedRange(50, 2000), 64),
        (AskedRange(100, 2000), 100),
        (AskedRange(1, 50), 50),
        (AskedRange(64, 256, 128), 128),
    ],
)
def test_the_default_is_the_nearest_admitted_size(asked: AskedRange, default: int) -> None:
    (graph,) = requested_spec(SPEC, SpecRequest(axes={"T": asked}), free=frozenset({"T"})).graphs
    assert graph.axes["T"].default == default


def test_a_models_own_range_can_only_be_narrowed() -> None:
    own = replace(SPEC, graphs=(replace(GRAPH, axes={**GRAPH.axes, "T": AxisRange(16, 256, 4, 64)}),))
    (graph,) = requested_spec(own, SpecRequest(axes={"T": AskedRange(32, 128)})).graphs
    assert graph.axes["T"] == AxisRange(32, 128, 4, 64), "its step is kept"
    for asked in (AskedRange(8, 128), AskedRange(32, 300), AskedRange(32, 128, 3)):
        with pytest.raises(UsageError, match="axis 'T' of graph 'net' was asked for as") as caught:
            requested_spec(own, SpecRequest(axes={"T": asked}))
        assert "within the model's own, 16..256, a multiple of 4" in caught.value.expected
        assert caught.value.fix.startswith("--axis T=")


def test_fixed_sizes_of_examples_can_become_dynamic() -> None:
    fixed = GraphSpec("m", (TensorSpec("x", "float32", (1, 3, 32)),), (TensorSpec("y", "float32", (1, 3, 16)),))
    request = SpecRequest(inputs={"x": AskedTensor((1, 3, "length"))}, axes={"length": AskedRange(16, 64)})
    (graph,) = requested_spec(ModelSpec("m", "tensor", (fixed,)), request, free=True).graphs
    assert graph.inputs[0].shape == (1, 3, "length")
    assert graph.axes == {"length": AxisRange(16, 64, 1, 32)}, "the example's size is the default"
    assert all(isinstance(axis, str) and axis not in graph.axes for axis in graph.outputs[0].shape)
    with pytest.raises(UsageError, match="gives the tensor 'x' the shape"):
        requested_spec(ModelSpec("m", "tensor", (fixed,)), request)


@pytest.mark.parametrize(
    ("request_", "kind", "text"),
    [
        (SpecRequest(axes={"time": AskedRange(1, 2)}), UnknownName, "unknown dynamic axis 'time'"),
        (SpecRequest(inputs={"frame": AskedTensor(("N", 40, "T"))}), UnknownName, "unknown input 'frame'"),
        (SpecRequest(outputs={"score": AskedTensor((1,))}), UnknownName, "unknown output 'score'"),
        (SpecRequest(inputs={"frames": AskedTensor(("N", 40))}), UsageError, "the shape ['N', 40]"),
        (SpecRequest(inputs={"frames": AskedTensor(("N", 41, "T"))}), UsageError, "the shape ['N', 41, 'T']"),
        (SpecRequest(inputs={"frames": AskedTensor((0, 40, "T"))}), UsageError, "the shape [0, 40, 'T']"),
        (SpecRequest(axes={"T": AskedRange(50, 40)}), UsageError, "cannot be 50..40"),
        (SpecRequest(axes={"T": AskedRange(50, 1 << 40)}), UsageError, "cannot be 50..1099511627776"),
        (SpecRequest(axes={"T": AskedRange(50, 90, 1, 40)}), UsageError, "with the default 40"),
    ],
)
def test_what_contradicts_the_model_is_refused(request_: SpecRequest, kind: type[UsageError], text: str) -> None:
    with pytest.raises(kind) as caught:
        requested_spec(SPEC, request_, free=frozenset({"N", "T"}))
    assert text in str(caught.value)


def test_an_axis_that_only_the_request_names_needs_a_range() -> None:
    fixed = GraphSpec("m", (TensorSpec("x", "float32", (1, 3)),), (TensorSpec("y", "float32", (1,)),))
    with pytest.raises(UsageError, match="the axis 'n' has no range") as caught:
        requested_spec(ModelSpec("m", "tensor", (fixed,)), SpecRequest(inputs={"x": AskedTensor(("n", 3))}), free=True)
    assert "--axis n=MIN:MAX" in caught.value.fix


def test_sizes_speak_of_every_graph_or_of_one() -> None:
    other = GraphSpec("decoder", GRAPH.inputs[:1], GRAPH.outputs, {**GRAPH.axes, "extra": AxisRange(1, 9)})
    spec = replace(SPEC, graphs=(GRAPH, other))
    sizes = {"T": 100, "decoder.T": 200, "extra": 5}
    assert spec.sizes_for(GRAPH, sizes) == {"N": 1, "T": 100}
    assert spec.sizes_for(other, sizes) == {"N": 1, "T": 200, "extra": 5}
    with pytest.raises(UsageError, match="no dynamic axis 'depth'"):
        spec.sizes_for(GRAPH, {"depth": 1})
    with pytest.raises(SizeNotBuilt, match="cannot be 5000"):
        spec.sizes_for(other, {"decoder.T": 5000})


def test_ranges_may_speak_of_one_graph() -> None:
    other = replace(GRAPH, name="decoder")
    found = requested_spec(
        replace(SPEC, graphs=(GRAPH, other)), SpecRequest(axes={"decoder.T": AskedRange(5, 6)}), free=frozenset({"T"})
    )
    assert [str(graph.axes["T"]) for graph in found.graphs] == ["1..4096", "5..6"]
