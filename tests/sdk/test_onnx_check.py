"""The ONNX reader against a corpus of hostile and damaged files, each made here."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from avsdk.errors import ModelRefused, NotAvailable, UsageError
from avsdk.onnx_check import OnnxLimits, check_onnx, require_limits

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def external_tensor(name: str = "w", **entries: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=WEIGHT.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model_with(weight: TensorProto, **graph_parts: object) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", weight.name], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def save(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "weights.bin"
    file.write_bytes(WEIGHT.tobytes())
    return file


def test_facts_of_a_plain_model(tmp_path: Path) -> None:
    path = save(model_with(numpy_helper.from_array(WEIGHT, "w")), tmp_path)
    facts = check_onnx(path)
    assert (facts.ir, facts.opset, facts.ops, facts.external) == (10, 20, {"MatMul": 1}, ())
    assert facts.size == path.stat().st_size
    assert [(item.name, item.type, item.shape) for item in facts.inputs] == [("x", TensorProto.FLOAT, ("batch", 3))]
    assert [item.shape for item in facts.outputs] == [("batch", 4)]


def test_facts_of_external_data(tmp_path: Path, weights: Path) -> None:
    path = save(model_with(external_tensor(offset="0", length="48")), tmp_path)
    facts = check_onnx(path)
    assert facts.external == ("weights.bin",)
    assert facts.size == path.stat().st_size + 48


def test_external_data_in_a_sub_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(WEIGHT.tobytes())
    path = save(model_with(external_tensor(location="data/w.bin")), tmp_path)
    assert check_onnx(path).external == ("data/w.bin",)


def test_weights_listed_as_inputs_are_no_inputs(tmp_path: Path) -> None:
    model = model_with(numpy_helper.from_array(WEIGHT, "w"))
    model.graph.input.add().CopyFrom(helper.make_tensor_value_info("w", TensorProto.FLOAT, WEIGHT.shape))
    assert [item.name for item in check_onnx(save(model, tmp_path)).inputs] == ["x"]


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"location": "../weights.bin"}, "leaves its folder"),
        ({"location": "a/../../weights.bin"}, "leaves its folder"),
        ({"location": "/etc/passwd"}, "leaves its folder"),
        ({"location": "..\\weights.bin"}, "leaves its folder"),
        ({"location": "C:weights.bin"}, "a short relative path"),
        ({"location": ""}, "leaves its folder"),
        ({"location": "."}, "leaves its folder"),
        ({"location": "folder"}, "not a regular file"),
        ({"location": "absent.bin"}, "missing"),
        ({"location": "x" * 300}, "a short relative path"),
        ({"location": "a/" * 2000}, "a short relative path"),
        ({"location": "weights\x00.bin"}, "a short relative path"),
        ({"location": "link.bin"}, "symbolic link"),
        ({"location": "linked/weights.bin"}, "symbolic link"),
        ({"location": "hard.bin"}, "hard links"),
        ({"location": "*/_ORT_MEM_ADDR_/*"}, "into memory"),
        ({"location": "*/_ORT_NATIVE_ENDIAN_MEM_ADDR_/*"}, "into memory"),
        ({"offset": "-4"}, "a decimal number"),
        ({"length": "-1"}, "a decimal number"),
        ({"offset": "1e3"}, "a decimal number"),
        ({"offset": "٣"}, "a decimal number"),
        ({"length": "9" * 30}, "a decimal number"),
        ({"length": str(10**15)}, "no more than the file's 48 bytes"),
        ({"offset": "4", "length": "48"}, "no more than the file's 48 bytes"),
        ({"offset": "4"}, "no more than the file's 48 bytes"),
        ({"length": "4"}, "the given length 4"),
        ({"basepath": "/"}, "the key 'basepath'"),
        ({"__class__": "x"}, "the key '__class__'"),
    ],
)
def test_hostile_external_data(tmp_path: Path, weights: Path, entries: dict[str, str], text: str) -> None:
    inner = tmp_path / "inner"
    (inner / "folder").mkdir(parents=True)
    (inner / "weights.bin").write_bytes(WEIGHT.tobytes())
    (inner / "link.bin").symlink_to(weights)
    (inner / "linked").symlink_to(tmp_path, target_is_directory=True)
    (inner / "hard.bin").hardlink_to(weights)
    path = save(model_with(external_tensor(**entries)), inner)
    with pytest.raises(ModelRefused) as caught:
        check_onnx(path)
    assert text in str(caught.value)
    assert str(path) in caught.value.failed
    assert caught.value.exit_code == 5


def test_external_without_location(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    with pytest.raises(ModelRefused, match="no location"):
        check_onnx(save(model_with(tensor), tmp_path))


def test_external_data_that_is_not_marked_external(tmp_path: Path) -> None:
    tensor = external_tensor(location="/etc/passwd")
    tensor.ClearField("data_location")
    with pytest.raises(ModelRefused, match="leaves its folder"):
        check_onnx(save(model_with(tensor), tmp_path))


def test_key_given_twice(tmp_path: Path, weights: Path) -> None:
    tensor = external_tensor()
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(ModelRefused, match="each once"):
        check_onnx(save(model_with(tensor), tmp_path))


def test_shape_larger_than_any_file(tmp_path: Path, weights: Path) -> None:
    tensor = external_tensor()
    tensor.dims[:] = [2**40, 2**10]
    with pytest.raises(ModelRefused, match="no more than"):
        check_onnx(save(model_with(tensor), tmp_path))
    tensor.dims[:] = [-1, 4]
    with pytest.raises(ModelRefused, match="no more than"):
        check_onnx(save(model_with(tensor), tmp_path))


def in_subgraph(model: onnx.ModelProto, bad: TensorProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [bad])
    outer = helper.make_graph([helper.make_node("If", ["c"], ["z"], then_branch=inner)], "outer", [], [])
    model.graph.node.append(helper.make_node("Loop", ["n"], ["z"], body=outer))


def in_graphs_attribute(model: onnx.ModelProto, bad: TensorProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [bad])
    model.graph.node.append(helper.make_node("Custom", ["n"], ["z"], bodies=[inner]))


def in_constant(model: onnx.ModelProto, bad: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["z"], value=bad))


def in_tensors_attribute(model: onnx.ModelProto, bad: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Custom", [], ["z"], values=[bad]))


def in_function(model: onnx.ModelProto, bad: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["z"], value=bad)
    model.functions.append(helper.make_function("own", "F", [], ["z"], [node], [helper.make_opsetid("", 20)]))


def in_sparse_initializer(model: onnx.ModelProto, bad: TensorProto) -> None:
    model.graph.sparse_initializer.add(values=bad)


def in_sparse_indices(model: onnx.ModelProto, bad: TensorProto) -> None:
    node = model.graph.node.add(op_type="Constant")
    node.attribute.add(name="sparse_value").sparse_tensor.indices.CopyFrom(bad)


def in_training(model: onnx.ModelProto, bad: TensorProto) -> None:
    model.training_info.add().algorithm.initializer.append(bad)


PLACES = (
    in_subgraph,
    in_graphs_attribute,
    in_constant,
    in_tensors_attribute,
    in_function,
    in_sparse_initializer,
    in_sparse_indices,
    in_training,
)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_external_data_is_found_wherever_it_hides(
    tmp_path: Path, place: Callable[[onnx.ModelProto, TensorProto], None]
) -> None:
    model = model_with(numpy_helper.from_array(WEIGHT, "w"))
    place(model, external_tensor("hidden", location="../secret"))
    with pytest.raises(ModelRefused, match="'hidden'.*leaves its folder"):
        check_onnx(save(model, tmp_path))


def test_two_halves_of_one_tensor(tmp_path: Path) -> None:
    """Parsers merge a field that is given twice: each half may look harmless."""
    halves = [TensorProto(name="w", data_location=TensorProto.EXTERNAL), TensorProto(name="w")]
    content = b""
    for half in halves:
        body = half.SerializeToString()
        content += bytes([5 << 3 | 2, len(body)]) + body
    attribute = bytes([5 << 3 | 2, len(content)]) + content  # NodeProto.attribute with AttributeProto.t twice
    graph = bytes([1 << 3 | 2, len(attribute)]) + attribute
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes([1 << 3, 10, 7 << 3 | 2, len(graph)]) + graph)
    with pytest.raises(ModelRefused):
        check_onnx(path)
    whole = model_with(numpy_helper.from_array(WEIGHT, "w")).SerializeToString()
    path.write_bytes(whole + whole)
    with pytest.raises(ModelRefused, match="'graph' twice"):
        check_onnx(path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"\xff\xd8\xff\xe0" + b"JPEG" * 9, "ONNX model"),
        (b"hello, this is a text file\n", "ONNX model"),
        (b"\x08\x0a", "no IR version or no graph"),
        (b"\x00" * 64, "ONNX model"),
        (b"\x0b" * 8, "wire type 3"),
        (b"\xff" * 64, "damaged or truncated"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "damaged or truncated"),
    ],
)
def test_no_model(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelRefused) as caught:
        check_onnx(path)
    assert text in str(caught.value)
    assert caught.value.fix


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = model_with(numpy_helper.from_array(WEIGHT, "w")).SerializeToString()
    path = tmp_path / "model.onnx"
    for end in range(1, len(whole) - 6):  # the last field is the opset, without which the rest is whole
        path.write_bytes(whole[:end])
        with pytest.raises(ModelRefused):
            check_onnx(path)


def test_depth_bomb(tmp_path: Path) -> None:
    graph = helper.make_graph([], "g", [], [])
    for _ in range(25):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["z"], then_branch=graph)], "g", [], [])
    assert check_onnx(save(helper.make_model(graph), tmp_path)).ops == {"If": 25}
    content = b""
    for _ in range(2000):  # node(1) > attribute(5) > graph(6)
        for field in (6, 5, 1):
            content = bytes([field << 3 | 2]) + _varint(len(content)) + content
    path = tmp_path / "deep.onnx"
    path.write_bytes(b"\x08\x0a\x3a" + _varint(len(content)) + content)
    with pytest.raises(ModelRefused, match="nested deeper"):
        check_onnx(path)


def test_what_is_no_plain_file(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(ModelRefused, match="not a regular file"):
        check_onnx(tmp_path)
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelRefused, match="not a regular file"):
        check_onnx(tmp_path / "pipe.onnx")
    with pytest.raises(UsageError, match=r"no file .*absent\.onnx"):
        check_onnx(tmp_path / "absent.onnx")
    link = tmp_path / "link.onnx"
    link.symlink_to(save(model_with(external_tensor()), tmp_path))
    with pytest.raises(ModelRefused, match="is a symbolic link, and has external data"):
        check_onnx(link)


def test_size_limit(tmp_path: Path) -> None:
    path = save(model_with(numpy_helper.from_array(WEIGHT, "w")), tmp_path)
    with pytest.raises(ModelRefused, match=r"has \d+ bytes"):
        check_onnx(path, max_bytes=10)


def test_weights_are_skipped_not_read(tmp_path: Path) -> None:
    """A sparse file of 1.9 GB: reading it whole would take memory and seconds."""
    length = 1_900_000_000
    tensor = bytes([9 << 3 | 2]) + _varint(length)
    initializer = bytes([5 << 3 | 2]) + _varint(len(tensor) + length) + tensor
    head = b"\x08\x0a\x3a" + _varint(len(initializer) + length) + initializer
    path = tmp_path / "large.onnx"
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + length)
    assert check_onnx(path).size == len(head) + length


@pytest.mark.parametrize(("ir", "opset", "text"), [(14, 20, "IR version 14"), (10, 28, "opset 28")])
def test_limits_of_an_engine(tmp_path: Path, ir: int, opset: int, text: str) -> None:
    model = model_with(numpy_helper.from_array(WEIGHT, "w"))
    model.ir_version = ir
    model.opset_import[0].version = opset
    facts = check_onnx(save(model, tmp_path))
    with pytest.raises(NotAvailable, match=text):
        require_limits(facts, OnnxLimits(ir=13, opset=26), engine="onnxruntime")
    require_limits(facts, OnnxLimits(ir=14, opset=28), engine="another")


def test_random_damage_passes_or_is_refused(tmp_path: Path, weights: Path) -> None:
    """Bytes flipped, cut out, doubled: never an exception of another kind."""
    model = model_with(external_tensor(offset="0", length="48"))
    in_function(model, external_tensor("second"))
    in_training(model, numpy_helper.from_array(WEIGHT, "third"))
    whole = model.SerializeToString()
    generator = random.Random(20161008)
    path = tmp_path / "model.onnx"
    refused = 0
    for _ in range(600):
        content = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            place = generator.randrange(len(content))
            kind = generator.randrange(4)
            if kind == 0:
                content[place] = generator.randrange(256)
            elif kind == 1:
                del content[place : place + generator.randint(1, 20)]
            elif kind == 2:
                content[place:place] = content[place : place + generator.randint(1, 20)]
            else:
                content[place:place] = generator.randbytes(generator.randint(1, 8))
            if not content:
                break
        path.write_bytes(content)
        try:
            check_onnx(path)
        except ModelRefused:
            refused += 1
    assert 100 < refused < 600


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
