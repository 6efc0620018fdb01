"""Golden samples: real, random and at the edges; small; the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export.conftest import Exported
from tests.export.models import vector_spec
from torch import nn

from avsdk.errors import ParityFailed, SizeNotBuilt, UsageError
from avsdk.golden import read_golden, write_golden
from avsdk.ops import Trace, image_pipelines
from avsdk.spec import AxisRange
from avsdk_export.check import require_parity
from avsdk_export.golden import (
    Reference,
    golden_answers,
    golden_pictures,
    golden_samples,
    photograph_at,
    takes_pictures,
)


def test_samples_of_a_picture_model(style: Exported) -> None:
    samples = golden_samples(style.spec, style.graph, [{"height": 96, "width": 128}, {"batch": 2, "height": 64}])
    shapes = [feeds["image"].shape for feeds in samples]
    assert shapes[0] == (1, 3, 256, 256)  # the size that an engine with fixed sizes is built at
    assert (1, 3, 96, 128) in shapes
    assert (2, 3, 64, 256) in shapes
    assert (1, 3, 64, 64) in shapes  # the least
    assert any(shape[0] == 2 and shape[2] != shape[3] for shape in shapes)
    for feeds in samples:
        image = feeds["image"]
        assert image.dtype == np.float32
        assert (image == np.rint(image)).all()
        assert image.min() >= 0
        assert image.max() <= 255


def test_the_first_sample_is_the_photograph(style: Exported, photograph: Path) -> None:
    image = golden_samples(style.spec, style.graph)[0]["image"]
    before, _ = image_pipelines(style.spec.preprocess, style.spec.postprocess)
    np.testing.assert_array_equal(image, before(photograph_at(256, 256), Trace()))
    assert photograph_at(427, 640).shape == (427, 640, 3)
    assert len(np.unique(image)) > 200


def test_a_size_out_of_range_is_refused(style: Exported) -> None:
    with pytest.raises(SizeNotBuilt, match="cannot be 30"):
        golden_samples(style.spec, style.graph, [{"height": 30}])


def test_pictures_need_padding_and_fit_built_sizes(style: Exported) -> None:
    shapes = [picture.shape for picture in golden_pictures(style.graph, [{"height": 400, "width": 600}])]
    assert (256, 256, 3) in shapes
    assert (400, 600, 3) in shapes
    assert any(height % 4 and width % 4 for height, width, _ in shapes)


def test_answers_are_pictures_of_the_same_size(style: Exported) -> None:
    pictures = [photograph_at(95, 103)]
    (answer,) = golden_answers(style.spec, Reference(style.network, style.graph), pictures)
    assert (answer["answer"].shape, answer["answer"].dtype) == ((95, 103, 3), np.uint8)


def test_golden_file(style: Exported, tmp_path: Path) -> None:
    reference = Reference(style.network, style.graph)
    inputs = [feeds for feeds in golden_samples(style.spec, style.graph) if feeds["image"].size < 40_000]
    assert len(inputs) == 3
    outputs = [reference(feeds) for feeds in inputs]
    for name in ("a.npz", "b.npz"):
        write_golden(tmp_path / name, list(zip(inputs, outputs, strict=True)))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as stored:
        assert set(stored.files) == {f"{side}.{i}.{name}" for i in range(len(inputs))
                                     for side, name in (("in", "image"), ("out", "styled"))}  # fmt: skip
        assert stored["out.0.styled"].dtype == np.float32
    for (feeds, made), wanted, answer in zip(read_golden(tmp_path / "a.npz"), inputs, outputs, strict=True):
        np.testing.assert_array_equal(feeds["image"], wanted["image"])
        np.testing.assert_array_equal(made["styled"], answer["styled"])


def test_parity_is_required(style: Exported, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    feeds = {"image": np.full((1, 3, 64, 64), 100, np.float32)}
    feeds["image"][..., ::3] = 7
    right = Reference(style.network, style.graph)(feeds)
    write_golden(tmp_path / "right.npz", [(feeds, right)])
    record = require_parity(style.onnx, tmp_path / "right.npz", "transform")
    assert (record.verdict, record.samples, record.reference) == ("pass", 1, "PyTorch fp32")
    write_golden(tmp_path / "wrong.npz", [(feeds, {"styled": right["styled"] * np.float32(1.01)})])
    with pytest.raises(ParityFailed, match="the ONNX file of graph 'transform' differs from PyTorch"):
        require_parity(style.onnx, tmp_path / "wrong.npz", "transform")


def test_samples_without_pictures() -> None:
    spec = vector_spec({"batch": AxisRange(1, 32, default=4)})
    assert not takes_pictures(spec, spec.graphs[0])
    shapes = [feeds["x"].shape for feeds in golden_samples(spec, spec.graphs[0], [{"batch": 9}])]
    assert shapes == [(4, 4), (1, 4), (2, 4), (9, 4)]
    first, again = (golden_samples(spec, spec.graphs[0])[0]["x"] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_samples_like_the_examples() -> None:
    spec = vector_spec({})
    examples = {"x": np.array([[3, 5, 4, 3]], np.int64)}
    samples = golden_samples(spec, spec.graphs[0], (), examples)
    np.testing.assert_array_equal(samples[0]["x"], examples["x"])
    for feeds in samples[1:]:
        assert feeds["x"].dtype == np.int64
        assert 3 <= feeds["x"].min() <= feeds["x"].max() <= 5


def test_reference_checks_shapes_at_every_size() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[: x.shape[0] // 2]

    with pytest.raises(UsageError, match=r"output 'y' has shape \[2, 4\] at \{'batch': 4\}"):
        Reference(Odd(), vector_spec().graphs[0])({"x": np.zeros((4, 4), np.float32)})
