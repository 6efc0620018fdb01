"""Arria 10: the plan by Intel's table, a whole graph in block floating point, the estimate, the compile command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from avsdk.errors import ModelRefused, NotAvailable, ToolchainCrashed, UnknownName, UsageError
from avsdk.golden import write_golden
from avsdk.schema import encode
from avsdk.spec import AxisRange, GraphSpec, TensorSpec
from avsdk_targets.block_floating_point import FORMATS, quantised
from avsdk_targets.build import Exporter, ExportOptions
from avsdk_targets.compilers.openvino_fpga import FpgaCompiler, build, openvino_runner
from avsdk_targets.device import load_device
from avsdk_targets.doctor import diagnose
from avsdk_targets.fpga_architecture import Architecture, architecture_for, architecture_from_file
from avsdk_targets.fpga_emulation import Runner, emulation_of
from avsdk_targets.fpga_layers import partition
from avsdk_targets.prepared import Prepared
from avsdk_targets.target import resolve

UNIT = Architecture("A10_Performance", "FP11", k_vector=64, c_vector=16, fmax_mhz=275)
ARCH = """
# made for this test
family : 'A10'
k_vector : 32
c_vector : 16
arch_precision : FP11
filter_size_width_max : 7
filter_size_height_max : 5
enable_eltwise_mult : true
pe_array {
  num_interleaved_features : 5
}
activation {
  generic_aux_parameters { k_vector : 16 }
  enable_relu : true
  enable_sigmoid : false
}
"""


def model_of(
    nodes: list[onnx.NodeProto],
    shape: tuple[int, ...],
    constants: dict[str, np.ndarray],
    out: tuple[int, ...] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    return model


def single(
    op: str, shape: tuple[int, ...], weights: tuple[int, ...] | None = None, **attributes: Any
) -> onnx.ModelProto:
    constants = {} if weights is None else {"w": np.zeros(weights, np.float32)}
    return model_of([helper.make_node(op, ["x", *constants], ["y"], **attributes)], shape, constants)


def scaled(scale: float) -> onnx.ModelProto:
    names = ("scale", "shift", "mean", "variance")
    constants = {name: np.full(4, value, np.float32) for name, value in zip(names, (scale, 0, 0, 1), strict=True)}
    return model_of([helper.make_node("BatchNormalization", ["x", *names], ["y"])], (1, 4, 8, 8), constants)


def reference_runner(content: bytes) -> Any:
    evaluator = ReferenceEvaluator(onnx.load_from_string(content))
    names = [str(name) for name in evaluator.output_names]
    return lambda feeds: dict(zip(names, evaluator.run(None, dict(feeds)), strict=True))


# -- the .arch file ----------------------------------------------------------------------------------------------------


def arch_file(folder: Path, text: str = ARCH) -> Path:
    file = folder / "own.arch"
    file.write_text(text)
    return file


def test_an_arch_file_is_read(tmp_path: Path) -> None:
    found = architecture_from_file(arch_file(tmp_path))
    assert (found.k_vector, found.c_vector, found.num_lanes, found.arch_precision) == (32, 16, 1, "FP11")
    assert found.filter_max == (5, 7)
    assert found.peak_gflops == 2 * 32 * 16 * 265 / 1000
    assert found.lacks("enable_sigmoid")
    assert found.lacks("pool")
    assert not found.lacks("enable_relu")
    assert not found.lacks("enable_eltwise_mult")
    assert found.march == str(tmp_path / "own.arch")


def test_modules_are_found_wherever_the_file_names_them(tmp_path: Path) -> None:
    text = ARCH.replace("enable_relu", "enable_clamp") + "custom_aux_primitive { layer_name : 'softmax' }\npool {\n}\n"
    found = architecture_from_file(arch_file(tmp_path, text))
    assert not found.lacks("softmax")
    assert not found.lacks("pool")
    served = {op: partition(single(op, (1, 4)), found).layers[0].on_fpga for op in ("Relu", "Clip", "Softmax", "Tanh")}
    assert served == {"Relu": True, "Clip": True, "Softmax": True, "Tanh": False}


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("'A10'", "'AGX7'", "is for the family 'AGX7'"),
        ("family : 'A10'", "", "is for the family None"),
        ("c_vector : 16\n", "c_vector : 5\n", "c_vector 5"),
        ("k_vector : 32", "k_vector : 40", "k_vector 40 and c_vector 16"),
        ("k_vector : 32", "k_vector : 256", "4 to 128"),
        ("k_vector : 32", "k_vector : many", "k_vector 'many'"),
        ("k_vector : 32", "num_lanes : 0\nk_vector : 32", "num_lanes 0"),
        ("pe_array {", "}\npe_array {", "NAME { ... } groups"),
        ("k_vector : 32\nc_vector", "c_vector", "k_vector None"),
        ("enable_relu : true", "enable_relu true", "'true' after 'enable_relu'"),
        ("enable_sigmoid : false\n}", "enable_sigmoid : false\n", "the group 'activation' of"),
        ("pe_array {", "pe_array }", "'}' after 'pe_array'"),
        ("filter_size_width_max : 7", "filter_size_width_max :", "expected"),
        ("pe_array {", "a { a { a { a { a { a { a { a { a { a {", "deeper than 8"),
        ("# made", "x" * 70_000 + "# made", "at most 65536"),
    ],
)
def test_an_arch_file_that_makes_no_sense_is_refused(old: str, new: str, text: str, tmp_path: Path) -> None:
    assert old in ARCH
    with pytest.raises(ModelRefused) as caught:
        architecture_from_file(arch_file(tmp_path, ARCH.replace(old, new)))
    assert text.lower() in str(caught.value).lower()


def test_a_precision_of_agilex_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="FP13AGX"):
        architecture_from_file(arch_file(tmp_path, ARCH.replace("FP11", "FP13AGX")))


def test_an_arch_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no file"):
        architecture_from_file(tmp_path / "absent.arch")
    (tmp_path / "b.arch").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelRefused, match="is no text"):
        architecture_from_file(tmp_path / "b.arch")


def test_the_profile_has_an_architecture_per_precision(tmp_path: Path) -> None:
    options = load_device("arria10").options
    full, small = architecture_for(options, "fp16"), architecture_for(options, "fp11")
    assert (full.arch_precision, small.arch_precision) == ("FP16", "FP11")
    assert full.march == f"$COREDLA_ROOT/example_architectures/{full.file}.arch"
    own = architecture_for({**options, "arch": str(arch_file(tmp_path))}, "fp11")
    assert own.k_vector == 32
    assert own.fmax_mhz == full.fmax_mhz
    with pytest.raises(UsageError, match="has arch_precision FP11, and fp16 was asked for"):
        architecture_for({**options, "arch": str(tmp_path / "own.arch")}, "fp16")


# -- Intel's table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (single("Conv", (1, 4, 32, 32), (8, 4, 3, 3)), ""),
        (single("Conv", (1, 4, 32, 32), (8, 4, 15, 3)), "Conv with a filter of 15 is above the limit of 14"),
        (single("Conv", (1, 4, 64, 64), (8, 4, 3, 3), strides=[16, 16]), "stride 16 is above the limit of 15"),
        (single("Conv", (1, 4, 8, 8, 8), (8, 4, 3, 3, 3)), ""),
        (single("Conv", (1, 4, 16, 8, 8), (8, 4, 15, 3, 3)), "a filter of 15 is above the limit of 14"),
        (single("Conv", (1, 4, 32), (8, 4, 3)), "Conv over 1 axes is not listed"),
        (single("Conv", (1, 4, 32, 32), (4, 1, 3, 3), group=4), ""),
        (single("Conv", (1, 4, 32, 32), (4, 2, 3, 3), group=2), "Conv with 2 groups of 2 channels is not listed"),
        (single("ConvTranspose", (1, 4, 8, 8), (4, 8, 4, 4), strides=[2, 2]), ""),
        (single("ConvTranspose", (1, 4, 8, 8), (4, 8, 4, 4), strides=[3, 3]), "[3, 3] is not one of 1, 2, 4, 8"),
        (single("ConvTranspose", (1, 4, 8, 8), (4, 8, 2, 2), pads=[2, 2, 2, 2]), "padding 2 is above the limit of 1"),
        (single("Gemm", (1, 32), (32, 8)), ""),
        (single("MatMul", (1, 32), (32, 8)), ""),
        (single("Gemm", (4, 32), (32, 8)), ""),
        (single("MatMul", (1, 7, 32), (32, 8)), "MatMul of 7 rows in a batch of 1 is not listed"),
        (model_of([helper.make_node("MatMul", ["x", "x"], ["y"])], (8, 8), {}), "two computed tensors is not listed"),
        (single("MaxPool", (1, 4, 32, 32), kernel_shape=[13, 13]), ""),
        (single("MaxPool", (1, 4, 32, 32), kernel_shape=[14, 14]), "a window of 14 is above the limit of 13"),
        (single("MaxPool", (1, 4, 32, 32), kernel_shape=[3, 3], strides=[5, 5]), "stride 5 is above the limit of 4"),
        (single("AveragePool", (1, 4, 32, 32), kernel_shape=[3, 4]), "window of [3, 4] is not square"),
        (single("GlobalAveragePool", (1, 4, 7, 7)), ""),
        (single("GlobalAveragePool", (1, 4, 32, 32)), "GlobalAveragePool over [32, 32]"),
        (single("Softmax", (1, 4096)), ""),
        (single("Softmax", (1, 4097)), "Softmax over 4097 is above the limit of 4096"),
        (single("Relu", (1, 4)), ""),
        (single("Tanh", (1, 4)), ""),
        (single("DepthToSpace", (1, 4, 8, 8), blocksize=2), ""),
        (single("DepthToSpace", (1, 4, 8, 8), blocksize=2, mode="CRD"), "DepthToSpace with mode CRD is not listed"),
        (scaled(3.0), ""),
        (scaled(1e6), "BatchNormalization with a scale or shift of 1e+06 is above fp16's limit of 65504"),
        (single("Erf", (1, 4)), "Erf is not listed"),
        (single("InstanceNormalization", (1, 4, 8, 8), (4,)), "InstanceNormalization is not listed"),
        (single("Flatten", (1, 4)), "Flatten goes where its input is"),
    ],
)  # fmt: skip
def test_each_node_is_judged_by_the_table(model: onnx.ModelProto, reason: str) -> None:
    (layer,) = partition(model, UNIT).layers
    assert reason in layer.reason
    assert layer.on_fpga == (not reason)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (single("Sigmoid", (1, 4)), "does not enable enable_sigmoid"),
        (single("MaxPool", (1, 4, 8, 8), kernel_shape=[3, 3]), "no pool module"),
        (single("Softmax", (1, 4)), "no softmax module"),
        (single("Conv", (1, 4, 8, 8), (4, 1, 3, 3), group=4), "no depthwise module"),
        (single("Conv", (1, 4, 32, 32), (8, 4, 6, 7)), "a filter of 6 is above the limit of 5"),
        (single("Relu", (1, 4)), ""),
        (single("Clip", (1, 4)), "does not enable enable_clamp"),
    ],
)
def test_modules_that_the_arch_file_leaves_out_are_missed(model: onnx.ModelProto, reason: str, tmp_path: Path) -> None:
    (layer,) = partition(model, architecture_from_file(arch_file(tmp_path))).layers
    assert reason in layer.reason
    assert layer.on_fpga == (not reason)


def network() -> onnx.ModelProto:
    """Convolution, ReLU, an Erf that must stay behind, and a second convolution."""
    generator = np.random.default_rng(5)
    constants = {
        "w1": generator.normal(0, 0.2, (24, 3, 3, 3)).astype(np.float32),
        "b1": generator.normal(0, 0.2, 24).astype(np.float32),
        "w2": generator.normal(0, 0.2, (8, 24, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Erf", ["b"], ["c"]),
        helper.make_node("Conv", ["c", "w2"], ["y"], name="second"),
    ]
    return model_of(nodes, (1, 3, 8, 8), constants, (1, 8, 8, 8))


def test_the_plan_counts_work_parts_and_clocks() -> None:
    plan = partition(network(), UNIT)
    assert [layer.on_fpga for layer in plan.layers] == [True, True, False, True]
    assert plan.subgraphs == 2
    assert plan.refused() == {"Erf is not listed": ("Erf_2",)}
    first, second = 2 * 64 * 24 * 27, 2 * 64 * 8 * 24
    assert plan.fpga_share == pytest.approx((first + second + 64 * 24) / (first + second + 2 * 64 * 24))
    assert plan.cycles == 9 * 64 + 2 * 64, "3 of 16 channels take a whole step, 24 of them take two"


# -- the emulation -----------------------------------------------------------------------------------------------------


def emulated(
    model: onnx.ModelProto, unit: Architecture, feeds: np.ndarray, runner: Runner = reference_runner
) -> np.ndarray:
    found = emulation_of(model, unit, partition(model, unit), runner).run({"x": feeds})
    return np.asarray(found["y"])


def exact(model: onnx.ModelProto, feeds: np.ndarray) -> np.ndarray:
    return np.asarray(reference_runner(model.SerializeToString())({"x": feeds})["y"])


def snr_db(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum()))


def as_format(name: str, c_vector: int = 16) -> Architecture:
    return Architecture("any", name.upper(), 64, c_vector)


def test_more_bits_and_smaller_blocks_lose_less() -> None:
    model, feeds = network(), np.random.default_rng(1).uniform(-2, 2, (1, 3, 8, 8)).astype(np.float32)
    wanted = exact(model, feeds)
    fine, coarse = (snr_db(wanted, emulated(model, as_format(name), feeds)) for name in ("fp16", "fp11"))
    assert fine > coarse + 20
    assert 20 < coarse < 50
    assert snr_db(wanted, emulated(model, as_format("fp11", 4), feeds)) > snr_db(
        wanted, emulated(model, as_format("fp11", 64), feeds)
    )


def test_what_the_format_holds_is_computed_exactly() -> None:
    generator = np.random.default_rng(2)
    weights = {"w": generator.integers(-7, 8, (8, 16, 3, 3)).astype(np.float32)}
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], (1, 16, 6, 6), weights)
    feeds = generator.integers(-7, 8, (1, 16, 6, 6)).astype(np.float32)
    assert np.abs(exact(model, feeds)).max() < 2048, "or fp16 would not hold the sums"
    assert np.array_equal(emulated(model, UNIT, feeds), exact(model, feeds))


@pytest.mark.parametrize(
    ("op", "shape", "weights", "attributes", "axes"),
    [
        ("Conv", (1, 12, 5, 5), (8, 12, 3, 3), {}, (1, 1, 1, 1)),
        ("Conv", (1, 12, 5, 5), (12, 1, 3, 3), {"group": 12}, (1, 12, 1, 1)),
        ("ConvTranspose", (1, 12, 5, 5), (12, 8, 2, 2), {"strides": [2, 2]}, (1, 1, 0, 1)),
        ("Gemm", (1, 12), (12, 8), {}, (1, 1, 0, 1)),
        ("Gemm", (1, 12), (8, 12), {"transB": 1}, (1, 1, 1, 1)),
        ("MatMul", (1, 12), (12, 8), {}, (-1, 1, -2, 1)),
    ],
)
def test_blocks_lie_along_the_channels_that_are_summed(
    op: str, shape: tuple[int, ...], weights: tuple[int, ...], attributes: dict[str, Any], axes: tuple[int, ...]
) -> None:
    """The definition for one node: round both sides in blocks of four, then compute it exactly."""
    generator = np.random.default_rng(3)
    filters = (generator.normal(0, 1, weights) * np.exp(generator.normal(0, 2, weights))).astype(np.float32)
    feeds = (
        (generator.normal(0, 1, shape) * np.exp(generator.normal(0, 2, shape))).astype(np.float16).astype(np.float32)
    )
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    unit = as_format("fp11", 4)
    found = emulated(model_of([node], shape, {"w": filters}), unit, feeds)
    axis, groups, filter_axis, filter_groups = axes
    rounded = quantised(filters, FORMATS["fp11"], block=4, axis=filter_axis, groups=filter_groups)
    given = quantised(feeds, FORMATS["fp11"], block=4, axis=axis, groups=groups)
    wanted = exact(model_of([node], shape, {"w": rounded}), given).astype(np.float16).astype(np.float32)
    assert np.array_equal(found, wanted)


def test_filters_that_the_graph_computes_from_constants_are_rounded_too() -> None:
    weights = np.random.default_rng(4).normal(0, 1, (8, 12)).astype(np.float32)
    turned = [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    plain = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    feeds = np.random.default_rng(5).normal(0, 1, (1, 12)).astype(np.float32)
    found = emulated(model_of(turned, (1, 12), {"w": weights}), UNIT, feeds)
    assert np.array_equal(found, emulated(model_of(plain, (1, 12), {"w": weights.T.copy()}), UNIT, feeds))


def test_values_beyond_fp16_are_held_and_counted() -> None:
    model = single("MatMul", (1, 4), (4, 2))
    emulation = emulation_of(model, UNIT, partition(model, UNIT), reference_runner)
    emulation.run({"x": np.array([[1e6, 1, 2, 3]], np.float32)})
    assert emulation.overflows == 1


def test_openvino_runs_the_pieces_as_the_reference_does() -> None:
    pytest.importorskip("openvino")
    feeds = np.random.default_rng(6).uniform(-2, 2, (1, 3, 8, 8)).astype(np.float32)
    assert np.allclose(
        emulated(network(), UNIT, feeds, openvino_runner), emulated(network(), UNIT, feeds), atol=5e-2
    )  # a last bit in fp32 may round to the next of 64 steps


# -- the compiler ------------------------------------------------------------------------------------------------------

AXIS = ("batch", 3, 8, 8)
GRAPH = GraphSpec(
    "g",
    (TensorSpec("x", "float32", AXIS),),
    (TensorSpec("y", "float32", ("batch", 8, 8, 8)),),
    {"batch": AxisRange(1, 4, 1, 1)},
)


def request(folder: Path, precision: str = "fp16", **options: str) -> dict[str, Any]:
    pytest.importorskip("openvino")
    onnx.save(network(), folder / "g.onnx")
    samples = []
    for batch in (2, 1):
        feeds = np.random.default_rng(batch).uniform(-2, 2, (batch, 3, 8, 8)).astype(np.float32)
        wanted = np.concatenate([exact(network(), feeds[index : index + 1]) for index in range(batch)])
        samples.append(({"x": feeds}, {"y": wanted}))
    write_golden(folder / "golden.npz", samples)
    return {
        "onnx": str(folder / "g.onnx"),
        "golden": str(folder / "golden.npz"),
        "graph": encode(GRAPH),
        "device": "fpga",
        "precision": precision,
        "sizes": {"batch": 1},
        "options": {**load_device("arria10").options, **options},
        "out": str(folder),
    }


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH whose only dla_compiler notes its arguments, and the suite's folder with the two examples."""
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "dla_compiler"
    script.write_text(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" > arguments.txt\n"
        'while [ $# -gt 0 ]; do [ "$1" = --o ] && out=$2; shift; done\n'
        '[ -e "$0.silent" ] || printf compiled > "$out"\n'
        'echo estimated 42 frames\nexit $(cat "$0.code" 2>/dev/null || echo 0)\n'
    )
    script.chmod(0o755)
    examples = tmp_path / "root" / "example_architectures"
    examples.mkdir(parents=True)
    for name in ("A10_FP16_Performance", "A10_Performance"):
        (examples / f"{name}.arch").write_text(ARCH)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("COREDLA_ROOT", str(tmp_path / "root"))
    return script


def test_without_the_suite_the_error_says_all_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = request(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.raises(NotAvailable) as caught:
        build(given)
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert "dla_compiler is not on PATH, so graph 'g' was not compiled" in text
    assert "plan HETERO:FPGA,CPU" in text
    assert "1 x Erf is not listed" in text
    assert "accuracy at FP16, emulated on 1 golden sample: y SNR " in text
    assert "accuracy at FP11, emulated on 1 golden sample: y SNR " in text
    assert "estimate, not measured: at least " in text
    assert (
        "would run:\n    ovc g.onnx --input x[1,3,8,8] --output_model g.xml --compress_to_fp16=False\n"
        "    dla_compiler --march $COREDLA_ROOT/example_architectures/A10_FP16_Performance.arch "
        "--network-file g.xml --foutput-format=open_vino_hetero --o g.compiled.bin --batch-size=1 "
        "--fanalyze-performance --fplugin HETERO:FPGA,CPU" in text
    )
    assert not list(tmp_path.glob("*.bin")), "never a file that looks like a compiled one"


def test_an_export_leaves_the_onnx_with_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    target = resolve("arria10")
    onnx.save(network(), tmp_path / "tiny.onnx")
    with Exporter(str(tmp_path / "tiny.onnx"), ExportOptions(tmp_path), lambda text: None) as exporter:
        with pytest.raises(Prepared) as caught:
            exporter.export(target)
        left = exporter.with_onnx_left(target, caught.value)
    assert left.exit_code == 3
    assert isinstance(left, Prepared)
    assert left.path is not None
    graph = next(left.path.glob("*.onnx")).stem
    report = json.loads((left.path / f"{graph}.arria10.json").read_text())
    assert [words[0] for words in report["commands"]] == ["ovc", "dla_compiler"]
    assert [item["arch_precision"] for item in report["accuracy"]] == ["FP16", "FP11"]
    assert report["accuracy"][0]["outputs"][0]["snr_db"] > 40
    assert report["estimate_kind"].startswith("estimate")


@pytest.mark.parametrize(
    ("golden", "text"),
    [
        ("", "no golden sample has these sizes"),
        ("golden.npz", "OpenVINO could not run a part of the graph: no such thing"),
    ],
)
def test_a_report_without_accuracy_says_why(
    golden: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(content: bytes) -> None:
        raise RuntimeError("Exception from src/a.cpp:1:\n" + "no such thing\n")

    given = {**request(tmp_path), "golden": str(tmp_path / golden) if golden else None}
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr("avsdk_targets.compilers.openvino_fpga.openvino_runner", failing)
    with pytest.raises(NotAvailable) as caught:
        build(given)
    assert f"accuracy not measured: {text}" in str(caught.value)
    assert "estimate, not measured: at least" in str(caught.value)


def test_with_the_suite_its_compiler_is_run(tmp_path: Path, suite: Path) -> None:
    del suite
    made = build(request(tmp_path))
    assert (tmp_path / "arguments.txt").read_text().split("\n")[:-1] == [
        "--march", str(tmp_path / "root/example_architectures/A10_FP16_Performance.arch"), "--network-file", "g.xml",
        "--foutput-format=open_vino_hetero", "--o", "g.compiled.bin", "--batch-size=1", "--fanalyze-performance",
        "--fplugin", "HETERO:FPGA,CPU",
    ]  # fmt: skip
    assert made["files"] == ["g.compiled.bin", "g.arch", "g.xml", "g.bin"]
    assert all((tmp_path / name).is_file() for name in made["files"])
    assert made["options"]["log"] == "estimated 42 frames"
    assert made["options"]["report"]["fpga_share"] > 0.9
    assert str(tmp_path) not in json.dumps([made["options"], made["built_with"]]), "no path of this machine ships"
    assert FpgaCompiler().check("fpga", "arria10", "fp16").ok


def test_a_users_arch_file_is_compiled_for(tmp_path: Path, suite: Path) -> None:
    del suite
    build(request(tmp_path, "fp11", arch=str(arch_file(tmp_path))))
    assert (tmp_path / "arguments.txt").read_text().split("\n")[1] == str(tmp_path / "own.arch")


def test_another_arch_file_or_compiler_is_another_build(tmp_path: Path, suite: Path) -> None:
    compiler, settings = FpgaCompiler(), {"arch": str(arch_file(tmp_path))}
    before, identity = compiler.settings_identity(settings), compiler.identity()
    arch_file(tmp_path, ARCH.replace("k_vector : 32", "k_vector : 64"))
    assert compiler.settings_identity(settings) != before
    suite.write_text("#!/bin/sh\n")
    assert compiler.identity() != identity
    assert compiler.settings_identity({}) == {}


@pytest.mark.parametrize(
    ("flag", "content", "text"),
    [
        ("code", "7", "ended with exit code 7:\nestimated 42 frames"),
        ("silent", "", "wrote no g.compiled.bin"),
    ],
)
def test_a_failing_compiler_is_typed(flag: str, content: str, text: str, tmp_path: Path, suite: Path) -> None:
    suite.with_name(f"dla_compiler.{flag}").write_text(content)
    with pytest.raises(ToolchainCrashed) as caught:
        build(request(tmp_path))
    assert text in str(caught.value)


def test_without_its_folder_the_examples_are_not_found(
    tmp_path: Path, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del suite
    monkeypatch.delenv("COREDLA_ROOT")
    with pytest.raises(NotAvailable, match="there is no architecture file .COREDLA_ROOT"):
        build(request(tmp_path))


def test_a_check_tells_what_stays_on_the_processor() -> None:
    found = FpgaCompiler().findings(network(), "g", [], "fpga", "arria10", "fp16")
    assert [(item.node, item.kind, item.blocks) for item in found] == [("Erf_2", "elsewhere", False)]
    assert found[0].text == "stays on the processor: Erf is not listed"
    nothing = FpgaCompiler().findings(single("Erf", (1, 4)), "g", [], "fpga", "arria10", "fp16")
    assert [item.blocks for item in nothing] == [False, True]


def test_doctor_promises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("COREDLA_ROOT", raising=False)
    (state,) = diagnose("arria10")
    assert (state.verified, state.can_compile, state.can_run) == ("contract", False, False)
    assert "dla_compiler" in state.reason
    assert FpgaCompiler().check("cpu", "host", "fp16").reason.startswith("it compiles for fpga")
