"""Rewriting a whole model: when it is done at all, opsets up and down, sizes, constants, large weights, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.targets.rewriting import model_of, normal, one, ops, require_same, rewritten, run

from avsdk.errors import NotAvailable
from avsdk.onnx_check import OnnxFacts, check_onnx
from avsdk.spec import AxisRange, GraphSpec, TensorSpec
from avsdk_targets import rewrite as module
from avsdk_targets.rewrite import RewritePlan, converted, rewritten_model
from avsdk_targets.rewrites import lower, weights
from avsdk_targets.rewrites.steps import rewrite

GRAPH = GraphSpec(
    "tested",
    (TensorSpec("x", "float32", ("n", 4)),),
    (TensorSpec("y0", "float32", ("n", 4)),),
    {"n": AxisRange(1, 9, 1, 2)},
)


def opset_of(model: onnx.ModelProto) -> int:
    return int(model.opset_import[0].version)


# -- whether anything is to be done ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "wanted"),
    [
        (RewritePlan(), False),
        (RewritePlan(opset=(7, 20)), False),
        (RewritePlan(opset=(7, 19)), True),
        (RewritePlan(opset=(21, 22)), True),
        (RewritePlan(ir=10), False),
        (RewritePlan(ir=9), True),
        (RewritePlan(lacking=frozenset({"GRU"})), False),
        (RewritePlan(lacking=frozenset({"Relu"})), True),
        (RewritePlan(static=True), True),
    ],
)
def test_the_facts_decide(plan: RewritePlan, wanted: bool) -> None:
    facts = OnnxFacts(ir=10, opsets={"": 20}, ops={"Relu": 3}, external=(), size=1)
    assert plan.asks_for(facts) is wanted


def test_a_model_that_fits_is_not_touched_and_no_process_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "call_in_child", lambda *_, **__: pytest.fail("a process was started"))
    file = tmp_path / "model.onnx"
    onnx.save(one("Relu", {"x": ["n", 4]}, "x"), file)
    found = rewritten_model(file, tmp_path / "out", RewritePlan(opset=(7, 20), ir=10), GRAPH, None)
    assert (found.onnx, found.applied) == (file, ())
    assert converted(file, tmp_path / "out.onnx", 7, 20).onnx == file


def test_in_a_child_sizes_are_fixed_and_the_file_is_another(tmp_path: Path) -> None:
    file, out = tmp_path / "model.onnx", tmp_path / "out"
    out.mkdir()
    onnx.save(one("HardSwish", {"x": ["n", 4]}, "x"), file)
    plan = RewritePlan(opset=(7, 13), ir=7, lacking=frozenset({"HardSwish"}), static=True)
    found = rewritten_model(file, out, plan, GRAPH, {"n": 3})
    assert found.applied == ("sizes fixed: x 3x4", "HardSwish spelt out (1)", "opset 20 -> 13")
    assert found.onnx.parent == out
    after = onnx.load(found.onnx)
    assert [axis.dim_value for axis in after.graph.input[0].type.tensor_type.shape.dim] == [3, 4]
    assert after.ir_version == 7


def test_what_cannot_be_done_is_typed_across_the_process(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    grid = one("GridSample", {"x": [1, 1, 4, 4], "g": [1, 2, 2, 2]}, "x", "g")
    onnx.save(grid, file)
    with pytest.raises(NotAvailable, match="opset 13, the newest of this engine, has no GridSample") as caught:
        converted(file, tmp_path / "out.onnx", 7, 13)
    assert "GridSample of opset 20" in caught.value.failed


# -- down --------------------------------------------------------------------------------------------------------------

_FOUR: dict[str, Any] = {"x": [1, 4, 6, 6]}
_ONES = np.array([1], np.int64)

DOWN = [
    one("ReduceMean", _FOUR, "x", "a", weights={"a": np.array([1, 3])}),
    one("ReduceL2", _FOUR, "x", "a", weights={"a": np.array([-1])}, keepdims=0),
    one("ReduceMax", _FOUR, "x"),
    one("ReduceMin", _FOUR, "x", noop_with_empty_axes=1, opset=18),
    one("Split", _FOUR, "x", outputs=3, num_outputs=3, axis=2),
    one("Split", _FOUR, "x", outputs=2, num_outputs=2, axis=-1),
    one("Split", {"x": [1, 5]}, "x", outputs=3, num_outputs=3, axis=1),
    one("Pad", _FOUR, "x", "p", "", "a", weights={"p": np.array([1, 2, 3, 4]), "a": np.array([3, -2])}),
    one("Pad", _FOUR, "x", "p", weights={"p": np.array([0, 0, 1, 2, 0, 0, 2, 1])}, mode="reflect"),
    one("Resize", _FOUR, "x", "", "s", weights={"s": np.array([2, 3], np.float32)}, axes=[2, 3], mode="linear"),
    one("Resize", _FOUR, "x", "", "", "s", weights={"s": np.array([9, 4])}, axes=[-1, -2], mode="nearest"),
    one("Relu", _FOUR, "x", opset=27),
    one("Add", _FOUR, "x", "x", opset=27),
    one("Reshape", _FOUR, "x", "s", weights={"s": np.array([2, -1])}, allowzero=1),
    one("AveragePool", _FOUR, "x", kernel_shape=[2, 2], dilations=[1, 1]),
    one("BatchNormalization", _FOUR, "x", "a", "a", "a", "a", weights={"a": np.arange(1, 5, dtype=np.float32)}),
    one("Cast", _FOUR, "x", to=TensorProto.FLOAT, saturate=1, opset=25),
    one("Trilu", {"x": [2, 4, 5]}, "x", "k", weights={"k": np.array(1)}),
    one("Trilu", {"x": [4, 3]}, "x", upper=0),
    one("CastLike", _FOUR, "x", "w", weights={"w": np.ones(1, np.float32)}),
    one("Softmax", _FOUR, "x", axis=1, opset=25),
]


@pytest.mark.parametrize("before", DOWN, ids=lambda model: f"{model.graph.node[0].op_type}-{opset_of(model)}")
def test_down_to_13(before: onnx.ModelProto, tmp_path: Path) -> None:
    after, applied = rewritten(before, tmp_path, opset=(7, 13))
    assert opset_of(after) == 13
    assert f"opset {opset_of(before)} -> 13" in applied
    shape = [axis.dim_value for axis in before.graph.input[0].type.tensor_type.shape.dim]
    if opset_of(before) > 26:  # beyond ONNX Runtime; of these operators only the types grew since
        before.opset_import[0].version = 13
    require_same(before, after, {"x": normal(np.random.default_rng(0), *shape)})


def test_shape_of_some_axes(tmp_path: Path) -> None:
    node = helper.make_node("Shape", ["x"], ["s"], start=1, end=3)
    cast = helper.make_node("Cast", ["s"], ["y"], to=TensorProto.FLOAT)
    before = model_of([node, cast], {"x": ["n", "c", "h", "w"]}, ["y"])
    after, _ = rewritten(before, tmp_path, opset=(7, 13))
    require_same(before, after, {"x": np.zeros((2, 3, 4, 5), np.float32)})


def test_bodies_of_control_flow_are_brought_down_too(tmp_path: Path) -> None:
    axes = helper.make_node("Constant", [], ["a"], value=numpy_helper.from_array(np.array([1])))
    body = [axes, helper.make_node("ReduceMean", ["x", "a"], ["m"]), helper.make_node("HardSwish", ["m"], ["o"])]
    info = helper.make_tensor_value_info("o", TensorProto.FLOAT, [2, 1])
    other = [helper.make_node("Slice", ["x", "zero", "one", "one"], ["o2"])]
    info2 = helper.make_tensor_value_info("o2", TensorProto.FLOAT, [2, 1])
    then, otherwise = helper.make_graph(body, "then", [], [info]), helper.make_graph(other, "else", [], [info2])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["t"], keepdims=0),
        helper.make_node("Greater", ["t", "limit"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=otherwise),
    ]
    held = {"limit": np.array(0, np.float32), "zero": np.array([0]), "one": np.array([1])}
    before = model_of(nodes, {"x": [2, 4]}, ["y"], held)
    after, _ = rewritten(before, tmp_path, opset=(7, 13), lacking=["HardSwish"])
    for sign in (1, -1):
        require_same(before, after, {"x": sign * np.abs(normal(np.random.default_rng(0), 2, 4))})


@pytest.mark.parametrize("op", sorted(lower._REDUCTIONS))
@pytest.mark.parametrize("axes", [{}, {"a": np.zeros(0, np.int64)}])
def test_a_reduction_over_no_axes_still_takes_each_element_its_way(
    op: str, axes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    before = one(op, {"x": [2, 5]}, "x", *axes, weights=axes, opset=18, noop_with_empty_axes=1)
    after, _ = rewritten(before, tmp_path, opset=(7, 13))
    x = normal(np.random.default_rng(0), 2, 5)
    require_same(before, after, {"x": np.abs(x) if op == "ReduceLogSum" else x})


def test_branches_that_use_one_name_for_two_constants_do_not_take_each_others(tmp_path: Path) -> None:
    def branch(shift: int) -> onnx.GraphProto:
        held = numpy_helper.from_array(np.array(shift))
        nodes = [helper.make_node("Constant", [], ["k"], value=held), helper.make_node("Trilu", ["x", "k"], ["o"])]
        return helper.make_graph(nodes, "one", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)])

    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch(1), else_branch=branch(-1))
    before = model_of([choice], {"x": [3, 3]}, ["y"], {"c": np.array(True)}, opset=14)
    with pytest.raises(NotAvailable, match="Trilu of opset 14.*'k' is no constant"):
        rewritten(before, tmp_path, opset=(7, 13))


@pytest.mark.parametrize(
    ("before", "text"),
    [
        (one("ReduceMean", {"x": [2, 3]}, "x", "a", weights={}), "'a' is no constant"),
        (one("Resize", _FOUR, "x", "", "s", weights={"s": np.ones(4, np.float32)}, antialias=1, mode="linear"),
         "Resize of opset 13 has no attribute antialias"),
        (one("Pad", _FOUR, "x", "p", weights={"p": np.ones(8, np.int64)}, mode="wrap"), "has no mode=wrap"),
        (one("RoiAlign", {"x": [1, 1, 4, 4], "r": [1, 4]}, "x", "r", "b", weights={"b": np.zeros(1, np.int64)}),
         "has no coordinate_transformation_mode=half_pixel"),
        (one("Cast", {"x": [2]}, "x", to=TensorProto.FLOAT8E4M3FN), "does not give tensor(float8e4m3fn)"),
        (one("BitShift", {"x": [2]}, "x", "x", direction="LEFT", opset=28, kind=TensorProto.INT32),
         "does not take tensor(int32)"),
        (one("AveragePool", _FOUR, "x", kernel_shape=[2, 2], dilations=[2, 2]), "has no attribute dilations"),
    ],
)  # fmt: skip
def test_what_the_older_operator_lacks_is_refused_by_name(before: onnx.ModelProto, text: str, tmp_path: Path) -> None:
    if before.graph.node[0].op_type == "ReduceMean":
        before.graph.input.append(helper.make_tensor_value_info("a", TensorProto.INT64, [1]))
    if before.graph.node[0].op_type == "Cast":
        before.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT8E4M3FN
    op, opset = before.graph.node[0].op_type, opset_of(before)
    with pytest.raises(NotAvailable, match=f"^{op} of opset {opset} .*cannot be written for this engine") as caught:
        rewritten(before, tmp_path, opset=(7, 13))
    assert text in caught.value.failed
    assert "avsdk devices" in caught.value.fix


def test_the_ir_version_comes_down_with_the_opset_and_where_asked(tmp_path: Path) -> None:
    before = one("Relu", {"x": [2]}, "x", opset=20)
    assert rewritten(before, tmp_path, opset=(7, 13))[0].ir_version == 7
    after, applied = rewritten(before, tmp_path, ir=8)
    assert (after.ir_version, applied) == (8, ["IR version 10 -> 8"])


# -- up ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lowest", [11, 13, 18, 23])
def test_up_from_7(lowest: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "v", "v", "v", "v"], ["b"]),
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("Upsample", ["r"], ["u"], mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]),
        helper.make_node("ReduceMean", ["u"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Softmax", ["m"], ["y"], axis=1),
    ]
    if lowest >= 11:
        nodes[3] = helper.make_node("MaxPool", ["r"], ["u"], kernel_shape=[2, 2])
    held = {"w": normal(np.random.default_rng(0), 2, 3, 3, 3), "v": np.ones(2, np.float32)}
    before = model_of(nodes, {"x": ["n", 3, 6, 6]}, ["y"], held, opset=7, ir=4)
    after, applied = rewritten(before, tmp_path, opset=(lowest, 26))
    assert opset_of(after) == lowest
    assert applied[0] == f"opset 7 -> {lowest}"
    require_same(before, after, {"x": normal(np.random.default_rng(1), 2, 3, 6, 6)})


_IMAGE: dict[str, Any] = {"x": [1, 1, 4, 5]}


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("op", "opset", "scales"), [("Upsample", 9, [2, 3]), ("Resize", 10, [2, 1.5]), ("Resize", 10, [0.7, 0.5])]
)
def test_what_was_resized_by_corners_still_is(
    op: str, opset: int, scales: list[float], mode: str, tmp_path: Path
) -> None:
    """Opset 11 gave pixels centres, and the converter says nothing of it."""
    held = {"s": np.array([1, 1, *scales], np.float32)}
    before = one(op, _IMAGE, "x", "s", weights=held, opset=opset, mode=mode)
    after, _ = rewritten(before, tmp_path, opset=(13, 20))
    require_same(before, after, {"x": normal(np.random.default_rng(0), 1, 1, 4, 5)})


def test_a_hardmax_of_the_last_axis_keeps_it(tmp_path: Path) -> None:
    before = one("Hardmax", {"x": [3, 4]}, "x", opset=11)
    after, _ = rewritten(before, tmp_path, opset=(13, 20))
    require_same(before, after, {"x": normal(np.random.default_rng(0), 3, 4)})


@pytest.mark.parametrize(
    ("before", "text"),
    [
        (one("Hardmax", {"x": [2, 3, 4]}, "x", opset=11), "Hardmax over all axes from 1 on"),
        (one("Resize", _IMAGE, "x", "s", weights={"s": np.array([1, 1, 2, 0.5], np.float32)}, opset=10),
         "makes one axis smaller and another larger"),
        (one("Upsample", {**_IMAGE, "s": [4]}, "x", "s", opset=9), "are no constants, and before opset 11 they chose"),
    ],
)  # fmt: skip
def test_what_the_newer_operator_cannot_say_is_refused(before: onnx.ModelProto, text: str, tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="cannot be brought from opset") as caught:
        rewritten(before, tmp_path, opset=(13, 20))
    assert text in caught.value.failed


def test_what_cannot_go_up_is_refused(tmp_path: Path) -> None:
    before = one("Upsample", {"x": [1, 1, 2, 2]}, "x", opset=7, mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
    before.ir_version = 4
    try:
        after, _ = rewritten(before, tmp_path, opset=(13, 26))
    except NotAvailable as error:
        assert "from opset 7 to 13" in error.failed
    else:
        require_same(before, after, {"x": np.ones((1, 1, 2, 2), np.float32)})


# -- sizes and constants -----------------------------------------------------------------------------------------------


def test_what_depends_on_fixed_sizes_only_is_computed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["x", "t"], ["y"]),
    ]
    before = model_of(nodes, {"x": ["n", 2, 3]}, ["y"], {"zero": np.array([0]), "rest": np.array([6])})
    after, _ = rewritten(before, tmp_path, shapes={"x": [5, 2, 3]})
    assert ops(after) == {"Reshape"}
    require_same(before, after, {"x": normal(np.random.default_rng(0), 5, 2, 3)})


def test_an_output_that_is_constant_stays_an_output(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["y"], to=TensorProto.FLOAT),
    ]
    before = model_of(nodes, {"x": ["n", 2]}, ["y"])
    after, _ = rewritten(before, tmp_path, shapes={"x": [3, 2]})
    require_same(before, after, {"x": np.zeros((3, 2), np.float32)})


def test_sizes_that_the_model_contradicts_are_refused(tmp_path: Path) -> None:
    held = {"w": np.ones((4, 2), np.float32)}
    before = one("MatMul", {"x": ["n", "c"]}, "x", "w", weights=held)
    with pytest.raises(NotAvailable, match="does not fit these sizes") as caught:
        rewritten(before, tmp_path, shapes={"x": [1, 5]})
    assert "--axis" in caught.value.fix


@pytest.mark.parametrize(
    ("op", "shape", "scales", "attributes"),
    [
        ("Resize", [1, 1, 4, 5], [1, 1, 1.7, 0.6],
         {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
        ("LRN", [1, 5, 3, 3], None, {"size": 3}),
        ("LpNormalization", [2, 3, 4], None, {"p": 1, "axis": 0}),
    ],
)  # fmt: skip
def test_what_onnx_itself_computes_otherwise_is_left_to_the_engine(
    op: str, shape: list[int], scales: list[float] | None, attributes: dict[str, Any], tmp_path: Path
) -> None:
    held = {"a": normal(np.random.default_rng(0), *shape)}
    operands = ["a"]
    if scales is not None:
        held["s"] = np.array(scales, np.float32)
        operands = ["a", "", "s"]
    nodes = [helper.make_node(op, operands, ["c"], **attributes), helper.make_node("Identity", ["x"], ["y"])]
    before = model_of(nodes, {"x": ["n", 2]}, ["y", "c"], held)
    after, _ = rewritten(before, tmp_path, opset=(7, 20), shapes={"x": [2, 2]})
    require_same(before, after, {"x": np.zeros((2, 2), np.float32)})


def test_random_numbers_are_not_folded(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("RandomNormal", [], ["r"], shape=[2, 2]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    after, _ = rewritten(model_of(nodes, {"x": ["n", 2]}, ["y"]), tmp_path, shapes={"x": [2, 2]})
    assert "RandomNormal" in ops(after)


# -- what must not be lost ---------------------------------------------------------------------------------------------


def test_external_data_comes_along(tmp_path: Path) -> None:
    held = {"w": normal(np.random.default_rng(0), 64, 64)}
    before = one("MatMul", {"x": [1, 64]}, "x", "w", weights=held)
    file = tmp_path / "model.onnx"
    onnx.save(before, file, save_as_external_data=True, location="model.data", size_threshold=0)
    out = tmp_path / "out"
    out.mkdir()
    found = converted(file, out / "model.onnx", 7, 13)
    assert found.onnx.stat().st_size < 4096
    assert (out / "model.data").stat().st_nlink == 1, "our own reader takes no file with a second name"
    check_onnx(found.onnx)
    after = onnx.load(found.onnx)
    require_same(one("MatMul", {"x": [1, 64]}, "x", "w", weights=held), after, {"x": held["w"][:1]})


def test_external_data_is_read_where_a_rule_needs_the_values(tmp_path: Path) -> None:
    """Small constants may be external too, and what is computed from large ones becomes a weight of the model."""
    held = {"w": normal(np.random.default_rng(0), 64, 64), "a": np.array([1])}
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["m"]),
        helper.make_node("ReduceMean", ["m", "a"], ["y"]),
    ]
    before = model_of(nodes, {"x": ["n", 64]}, ["y"], held)
    file, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(before, file, save_as_external_data=True, location="model.data", size_threshold=0)
    request = {
        "onnx": str(file),
        "out": str(out),
        "opset": [7, 13],
        "ir": None,
        "lacking": [],
        "shapes": {"x": [2, 64]},
    }
    rewrite(request)
    after = onnx.load(out)
    assert ops(after) == {"MatMul", "ReduceMean"}
    x = normal(np.random.default_rng(1), 2, 64)
    np.testing.assert_allclose(run(after, {"x": x})[0], (x @ held["w"].T).mean(1, keepdims=True), rtol=1e-4, atol=1e-5)


def test_many_weights_are_written_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_INLINE_BYTES", 1 << 14)
    held = {"w": normal(np.random.default_rng(0), 64, 64)}
    before = one("MatMul", {"x": [1, 64]}, "x", "w", weights=held)
    after, _ = rewritten(before, tmp_path, opset=(7, 13))
    assert (tmp_path / "after.onnx").stat().st_size < 4096
    assert (tmp_path / "after.onnx.data").stat().st_size >= 1 << 14
    require_same(before, after, {"x": held["w"][:1]})


def test_they_are_not_written_over_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight lies in a file of the very name that the others would get."""
    monkeypatch.setattr(weights, "_INLINE_BYTES", 1 << 14)
    held = {name: normal(np.random.default_rng(seed), 64, 64) for seed, name in enumerate(("w", "v"))}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("MatMul", ["m", "v"], ["y"])]
    before = model_of(nodes, {"x": [1, 64]}, ["y"], held)
    model = onnx.ModelProto()
    model.CopyFrom(before)
    external = model.graph.initializer[0]
    (tmp_path / "out.onnx.data").write_bytes(external.raw_data)
    onnx.external_data_helper.set_external_data(external, "out.onnx.data", offset=0, length=64 * 64 * 4)
    external.ClearField("raw_data")
    weights.save(model, tmp_path / "out.onnx", tmp_path)
    assert (tmp_path / "out.onnx.data").stat().st_size == 64 * 64 * 4
    assert (tmp_path / "out.onnx.weights").exists()
    require_same(before, onnx.load(tmp_path / "out.onnx"), {"x": held["w"][:1]})


def test_large_constants_in_nodes_and_weights_listed_as_inputs_are_kept(tmp_path: Path) -> None:
    """Before IR version 4 every weight was an input as well."""
    big = normal(np.random.default_rng(0), 64, 64)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(big)),
        helper.make_node("MatMul", ["x", "c"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    before = model_of(nodes, {"x": [1, 64], "b": [64]}, ["y"], {"b": big[0]}, opset=9, ir=3)
    after, _ = rewritten(before, tmp_path, opset=(13, 20))
    assert [item.name for item in after.graph.input] == ["x"]
    x = normal(np.random.default_rng(1), 1, 64)
    np.testing.assert_allclose(run(after, {"x": x})[0], x @ big + big[0], rtol=1e-4, atol=1e-4)


def test_functions_of_the_model_are_written_out(tmp_path: Path) -> None:
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    node = helper.make_node("Twice", ["x"], ["y"], domain="mine")
    before = model_of([node], {"x": [3]}, ["y"])
    before.functions.append(function)
    before.opset_import.append(helper.make_opsetid("mine", 1))
    after, applied = rewritten(before, tmp_path, opset=(7, 13))
    assert ops(after) == {"Add"}
    assert applied[0] == "1 function of the model written out"
    require_same(before, after, {"x": np.ones(3, np.float32)})


def test_new_names_are_none_that_the_model_has(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("HardSwish", ["HardSwish__1"], ["HardSwish__2"]),
        helper.make_node("HardSwish", ["HardSwish__2"], ["y"]),
    ]
    before = model_of(nodes, {"HardSwish__1": [4]}, ["y"])
    after, _ = rewritten(before, tmp_path, opset=(7, 13), lacking=["HardSwish"])
    require_same(before, after, {"HardSwish__1": normal(np.random.default_rng(0), 4)})


def test_sizes_are_fixed_around_an_operator_of_another_domain(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Odd", ["r"], ["y"], domain="com.example")]
    before = model_of(nodes, {"x": ["n"]}, ["y"])
    before.opset_import.append(helper.make_opsetid("com.example", 1))
    after, applied = rewritten(before, tmp_path, shapes={"x": [3]}, check=False)
    assert applied == ["sizes fixed: x 3"]
    assert ops(after) == {"Relu", "Odd"}


def test_an_operator_of_another_domain_is_left_alone(tmp_path: Path) -> None:
    node = helper.make_node("Gelu", ["x"], ["y"], domain="com.example")
    before = model_of([node], {"x": [3]}, ["y"])
    before.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 3
    before.opset_import.append(helper.make_opsetid("com.example", 1))
    after, _ = rewritten(before, tmp_path, opset=(7, 13), lacking=["Gelu"])
    assert ops(after) == {"Gelu"}
