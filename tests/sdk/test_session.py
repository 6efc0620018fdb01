from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsdk.bundle import open_bundle
from avsdk.engines.onnxruntime import OnnxRuntimeSession
from avsdk.errors import AvsdkError, BundleRefused, NotAvailable, SilentFallback, SizeNotBuilt, UsageError
from avsdk.session import Artifact, Execution, LoadedGraph, Session

MakeBundle = Callable[..., Path]
SMALL = {"batch": 1, "height": 16, "width": 32}
LARGE = {"batch": 2, "height": 64, "width": 64}


def image(batch: int = 1, height: int = 16, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (batch, 3, height, width)).astype(np.float32)


@pytest.fixture
def graph(make_bundle: MakeBundle) -> Iterator[LoadedGraph]:
    """The graph with dynamic axes."""
    loaded = open_bundle(make_bundle()).load_graphs(1)["transform"]
    yield loaded
    loaded.close()


@pytest.fixture
def fixed(make_bundle: MakeBundle) -> Iterator[LoadedGraph]:
    """The graph at two built sizes."""
    loaded = open_bundle(make_bundle(shapes=[SMALL, LARGE])).load_graphs(1)["transform"]
    yield loaded
    loaded.close()


def test_it_computes(graph: LoadedGraph) -> None:
    for size in ((1, 16, 16), (3, 20, 512)):
        fed = image(*size)
        outputs = graph.run({"image": fed})
        assert list(outputs) == ["styled"]
        assert np.array_equal(outputs["styled"], 255 - fed)
    assert graph.built_sizes == ()
    assert len(graph.open_sessions()) == 1


def test_what_executed_is_read_back(graph: LoadedGraph) -> None:
    session = graph.open_sessions()[0]
    assert session.effective_precision == "fp32"
    assert session.execution() == Execution("cpu", {"cpu": 1.0}, {"fp32": 1.0})
    assert session.example_sizes() == {"batch": 1, "height": 64, "width": 64}


@pytest.mark.parametrize(
    ("feeds", "error", "message"),
    [
        ({}, UsageError, "was fed \\[\\]"),
        ({"photo": image()}, UsageError, "was fed \\['photo'\\]"),
        ({"image": image(), "more": image()}, UsageError, "was fed \\['image', 'more'\\]"),
        ({"image": image().astype(np.float64)}, UsageError, "has dtype float64"),
        ({"image": image()[0]}, SizeNotBuilt, "has shape"),
        ({"image": image()[:, :2]}, SizeNotBuilt, "axis 3 of input 'image' is 2"),
        ({"image": image(1, 18)}, SizeNotBuilt, "axis 'height' of graph 'transform' cannot be 18"),
        ({"image": image(1, 12)}, SizeNotBuilt, "cannot be 12"),
        ({"image": image(1, 16, 516)}, SizeNotBuilt, "axis 'width' of graph 'transform' cannot be 516"),
        ({"image": image(17)}, SizeNotBuilt, "axis 'batch' of graph 'transform' cannot be 17"),
    ],
)
def test_wrong_feeds(graph: LoadedGraph, feeds: dict[str, Any], error: type[AvsdkError], message: str) -> None:
    session = graph.open_sessions()[0]
    with pytest.raises(error, match=message) as caught:
        session.run(feeds)
    assert caught.value.expected


def test_each_built_size_has_its_session(fixed: LoadedGraph) -> None:
    assert fixed.built_sizes == (SMALL, LARGE)
    assert np.array_equal(fixed.run({"image": image(2, 64, 64)})["styled"], 255 - image(2, 64, 64))
    assert len(fixed.open_sessions()) == 1
    fixed.run({"image": image()})
    assert len(fixed.open_sessions()) == 2
    assert fixed.session_for(SMALL) is fixed.session_for(dict(SMALL))


def test_a_size_that_was_not_built(fixed: LoadedGraph) -> None:
    with pytest.raises(SizeNotBuilt, match="was not built for height=16,width=64") as caught:
        fixed.run({"image": image(1, 16, 64)})
    assert caught.value.expected == "one of the built sizes: height=16,width=32; batch=2,height=64,width=64"
    assert "--axis height=16,width=64" in caught.value.fix
    assert "fit=resize" in caught.value.fix


def test_a_session_refuses_another_size_than_its_own(fixed: LoadedGraph) -> None:
    with pytest.raises(SizeNotBuilt, match="got batch=2,height=64,width=64"):
        fixed.session_for(SMALL).run({"image": image(2, 64, 64)})


def test_closing_twice_is_fine(graph: LoadedGraph) -> None:
    with graph.open_sessions()[0] as session:
        session.run({"image": image()})
    session.close()
    graph.close()


def test_a_device_that_is_not_here(make_bundle: MakeBundle) -> None:
    loaded = open_bundle(make_bundle(device="npu")).load_graphs(1)["transform"]
    with pytest.raises(NotAvailable, match="onnxruntime:npu cannot run here") as caught:
        loaded.open_sessions()
    assert caught.value.fix


def test_an_engine_that_does_not_exist(graph: LoadedGraph) -> None:
    graph.artifacts = (Artifact("transform", "onnxruntim", "cpu", "fp32", ("model/transform.onnx",)),)
    with pytest.raises(NotAvailable, match="has no engine 'onnxruntim'") as caught:
        graph.open_sessions()
    assert "onnxruntime" in caught.value.expected


def test_a_file_that_is_no_model(make_bundle: MakeBundle) -> None:
    bundle = open_bundle(make_bundle())
    (bundle.path / "model" / "transform.onnx").write_bytes(b"no model")
    with pytest.raises(NotAvailable, match="cannot load transform.onnx"):
        bundle.load_graphs(1)["transform"].open_sessions()


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_another_precision_than_asked_for_is_found_out(make_bundle: MakeBundle, precision: str) -> None:
    loaded = open_bundle(make_bundle(precision=precision)).load_graphs(1)["transform"]
    with pytest.raises(SilentFallback, match=f"asked for {precision} and executed fp32") as caught:
        loaded.open_sessions()[0].execution()
    assert caught.value.exit_code == 4


class LyingSession(OnnxRuntimeSession):
    """Returns half of the picture, as a static .tflite does after resize_tensor_input."""

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {name: array[..., ::2, :] for name, array in super()._run(feeds).items()}


def test_outputs_of_another_shape_are_an_error(graph: LoadedGraph) -> None:
    session: Session = LyingSession.open(graph.root, graph.artifacts[0], graph.graph, 1)
    with pytest.raises(AvsdkError, match=r"returned 'styled' with shape \[1, 3, 8, 32\]") as caught:
        session.run({"image": image()})
    assert caught.value.expected == "[1, 3, 16, 32]"
    session.close()


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_an_artifact_without_the_manifests_tensors_is_refused(make_bundle: MakeBundle, side: str) -> None:
    bundle = make_bundle()
    manifest = bundle / "manifest.json"
    document = json.loads(manifest.read_text())
    document["spec"]["graphs"][0][side][0]["name"] = "other"
    manifest.write_text(json.dumps(document))
    loaded = open_bundle(bundle).load_graphs(1)["transform"]
    with pytest.raises(BundleRefused, match="transform.onnx has no tensor 'other'") as caught:
        loaded.open_sessions()
    assert "image" in caught.value.expected


def test_a_run_that_the_runtime_gives_up_is_a_typed_error(graph: LoadedGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise RuntimeError("\nFailed to allocate memory\nat some line")

    session = graph.open_sessions()[0]
    monkeypatch.setattr(session, "_run", no_memory)
    monkeypatch.setattr(session, "runtime_errors", Session.runtime_errors)
    with pytest.raises(NotAvailable, match="at height=16,width=32: Failed to allocate memory") as caught:
        session.run({"image": image()})
    assert "smaller" in caught.value.fix


def test_what_onnx_runtime_raises_is_caught(graph: LoadedGraph) -> None:
    session = graph.open_sessions()[0]
    session._names = ["nothing of that name"]  # type: ignore[attr-defined]
    with pytest.raises(NotAvailable, match="could not run graph 'transform'"):
        session.run({"image": image()})
