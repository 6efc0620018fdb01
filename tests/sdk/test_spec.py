from __future__ import annotations

import json

import pytest

from avsdk.errors import AvsdkError, BundleRefused, SizeNotBuilt, UsageError
from avsdk.spec import AxisRange, GraphSpec, ModelSpec, Step, TensorSpec

AXES = {"batch": AxisRange(1, 64), "height": AxisRange(64, 4096, 4, 256), "width": AxisRange(64, 4096, 4, 256)}
SHAPE = ("batch", 3, "height", "width")
GRAPH = GraphSpec(
    "transform", (TensorSpec("image", "float32", SHAPE),), (TensorSpec("styled", "float32", SHAPE),), AXES
)
MODEL = ModelSpec("style_transfer/wave", "style_transfer", (GRAPH,), (Step("image_rgb"), Step("pad", {"multiple": 4})))


def test_there_and_back_through_json() -> None:
    document = json.loads(json.dumps(MODEL.to_json()))
    assert document["schema"] == 1
    assert ModelSpec.from_json(document) == MODEL
    assert MODEL.graph("transform") is GRAPH


@pytest.mark.parametrize(
    "change",
    [{"schema": 2}, {"extra": 1}, {"graphs": [{"name": "x"}]}, {"preprocess": [{"opp": "x"}]}, {"model": None}],
)
def test_a_damaged_spec_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BundleRefused):
        ModelSpec.from_json({**MODEL.to_json(), **change}, refused=BundleRefused)


@pytest.mark.parametrize(
    ("size", "fits"), [(64, True), (68, True), (4096, True), (60, False), (66, False), (4100, False), (0, False)]
)
def test_an_axis_admits_its_range_and_multiples(size: int, fits: bool) -> None:
    assert AXES["height"].admits(size) is fits


def test_an_axis_says_what_it_takes() -> None:
    assert str(AXES["height"]) == "64..4096, a multiple of 4"
    assert str(AXES["batch"]) == "1..64"


def test_sized() -> None:
    assert GRAPH.inputs[0].sized({"batch": 2, "height": 64, "width": 128}) == (2, 3, 64, 128)


def test_complete_sizes() -> None:
    assert GRAPH.complete_sizes({"height": 400}) == {"batch": 1, "height": 400, "width": 256}


@pytest.mark.parametrize(
    ("partial", "error", "message", "expected"),
    [
        ({"hieght": 400}, UsageError, "no dynamic axis 'hieght'", "one of: batch, height, width"),
        (
            {"height": 401},
            SizeNotBuilt,
            "axis 'height' of graph 'transform' cannot be 401",
            "64..4096, a multiple of 4",
        ),
        ({"batch": 65}, SizeNotBuilt, "cannot be 65", "1..64"),
    ],
)
def test_sizes_that_do_not_fit(partial: dict[str, int], error: type[AvsdkError], message: str, expected: str) -> None:
    with pytest.raises(error, match=message) as caught:
        GRAPH.complete_sizes(partial)
    assert caught.value.expected == expected


def test_sizes_are_read_off_the_inputs() -> None:
    assert GRAPH.sizes_of({"image": (2, 3, 64, 128)}) == {"batch": 2, "height": 64, "width": 128}


@pytest.mark.parametrize(
    ("shape", "message"),
    [((3, 64, 64), "has shape"), ((1, 4, 64, 64), "axis 3 of input 'image' is 4"), ((1, 3, 63, 64), "cannot be 63")],
)
def test_shapes_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(SizeNotBuilt, match=message):
        GRAPH.sizes_of({"image": shape})


def test_inputs_that_share_an_axis_must_agree() -> None:
    graph = GraphSpec(
        "two",
        (TensorSpec("a", "float32", ("batch", 2)), TensorSpec("b", "float32", ("batch",))),
        (),
        {"batch": AxisRange(1, 8)},
    )
    assert graph.sizes_of({"a": (3, 2), "b": (3,)}) == {"batch": 3}
    with pytest.raises(SizeNotBuilt, match="axis 'batch' of input 'b' is 4"):
        graph.sizes_of({"a": (3, 2), "b": (4,)})
