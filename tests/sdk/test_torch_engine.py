"""PyTorch as an engine: what its profile tells, what it refuses to open, and runs of a program of one convolution."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avsdk import nvidia
from avsdk.engines import torch as engine
from avsdk.engines.torch import TorchSession, executed_shares, vouch_for
from avsdk.errors import BundleRefused, NotAvailable, SilentFallback
from avsdk.session import Artifact
from avsdk.spec import GraphSpec, TensorSpec

torch = pytest.importorskip("torch", reason="pip install 'avsdk[train]'")

GRAPH = GraphSpec(
    "net", (TensorSpec("image", "float32", (1, 3, 8, 8)),), (TensorSpec("answer", "float32", (1, 4, 6, 6)),), {}
)
Open = Callable[..., TorchSession]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported program of a convolution with a ReLU."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network, (torch.zeros(1, 3, 8, 8),)), path)
    return path


@pytest.fixture
def open_program(program: Path) -> Open:
    def opened(precision: str = "fp32", device: str = "cpu", **options: Any) -> TorchSession:
        vouch_for(program)
        artifact = Artifact("net", "torch", device, precision, (program.name,), None, {"session": options})
        session = TorchSession.open(program.parent, artifact, GRAPH, 1)
        assert isinstance(session, TorchSession)
        return session

    return opened


def picture(seed: int = 0) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).standard_normal((1, 3, 8, 8)).astype(np.float32)}


def reference(program: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        answer: np.ndarray = torch.export.load(program).module()(torch.from_numpy(feeds["image"])).numpy()
    return answer


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_eager_runs_with_the_threads_given_and_reads_its_precision_off_the_profile(
    open_program: Open, program: Path, precision: str
) -> None:
    with open_program(precision) as session:
        feeds = picture()
        feeds["image"].flags.writeable = False
        answer = session.run(feeds)["answer"]
        execution = session.execution()
    assert torch.get_num_threads() == 1
    assert answer.dtype == np.float32
    assert np.abs(answer - reference(program, picture())).max() < (1e-6 if precision == "fp32" else 0.1)
    assert (execution.device, dict(execution.placement)) == ("cpu", {"cpu": 1.0})
    assert execution.effective_precision == precision


def test_an_answer_is_not_overwritten_by_the_next_run(open_program: Open) -> None:
    with open_program() as session:
        first = session.run(picture(0))["answer"]
        kept = first.copy()
        session.run(picture(1))
    assert np.array_equal(first, kept)


def test_compile_runs_compiled_code(open_program: Open, program: Path) -> None:
    if not engine.shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler: apt-get install g++")
    with open_program(mode="compile") as session:
        assert np.allclose(session.run(picture())["answer"], reference(program, picture()), atol=1e-5)
        assert session.execution().effective_precision == "fp32"


def test_eager_where_compiled_was_asked_for_is_a_fallback(open_program: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, fullgraph: module)
    with open_program(mode="compile") as session, pytest.raises(SilentFallback, match="ran eagerly"):
        session.execution()


def test_tensors_elsewhere_than_asked_for_are_a_fallback(open_program: Open) -> None:
    with open_program() as session, pytest.raises(SilentFallback, match=r"tensors on \['cpu', 'meta'\]"):
        session._devices.add("meta")
        session.execution()


def test_tf32_is_not_fp32(open_program: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_fp32_kind", lambda device: "tf32")
    with open_program() as session, pytest.raises(SilentFallback, match="executed tf32"):
        session.execution()


def test_a_program_that_was_not_made_here_is_never_opened(program: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "net.pt2"
    stranger.write_bytes(program.read_bytes() + b" ")
    artifact = Artifact("net", "torch", "cpu", "fp32", (stranger.name,))
    with pytest.raises(BundleRefused, match="was not made here") as caught:
        TorchSession.open(tmp_path, artifact, GRAPH, 1)
    assert caught.value.exit_code == 5
    assert "pickled" in caught.value.expected


def test_another_mode_is_refused(open_program: Open) -> None:
    with pytest.raises(BundleRefused, match="'fast'"):
        open_program(mode="fast")


def test_compile_without_a_compiler_says_what_to_install(open_program: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NotAvailable, match="no-such-compiler is not on PATH") as caught:
        open_program(mode="compile")
    assert "torch.mode=eager" in caught.value.fix


@pytest.mark.parametrize(
    ("device", "reason"), [("toaster", "not on toaster"), ("cuda", "libcuda.so.1 cannot be loaded|finds no NVIDIA GPU")]
)
def test_what_cannot_run_here_has_a_reason_and_a_fix(device: str, reason: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    state = TorchSession.availability(device)
    assert not state.ok
    assert re.search(reason, state.reason)
    assert state.fix


@pytest.mark.parametrize(("cuda", "reason"), [(None, "built without CUDA"), ("13.0", "PyTorch finds no CUDA device")])
def test_a_gpu_that_pytorch_cannot_use_is_said(cuda: str | None, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "why_no_gpu", lambda: "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    state = TorchSession.availability("cuda")
    assert not state.ok
    assert reason in state.reason
    assert state.fix


def test_without_a_gpu_nothing_of_pytorch_is_imported_to_say_so() -> None:
    if not nvidia.why_no_gpu():
        pytest.skip("a GPU is here")
    code = "import sys; from avsdk.engines.torch import TorchSession as T; T.availability('cuda')"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.util, "find_spec", lambda name: None)
    assert TorchSession.availability("cpu").fix == "pip install 'avsdk[train]'"


def event(name: str, kinds: list[Any], dims: list[Any], ts: float = 0, dur: float = 1) -> dict[str, Any]:
    arguments = {"Input type": kinds, "Input Dims": dims}
    return {"cat": "cpu_op", "name": name, "tid": 1, "ts": ts, "dur": dur, "args": arguments}


CONV = [[1, 8, 10, 10], [4, 8, 3, 3]]


@pytest.mark.parametrize(
    ("events", "shares"),
    [
        ([], {}),
        ([event("aten::arange", ["long int"], [[4]])], {}),
        (
            [event("aten::relu", ["float"], [[4, 4]], ts=0), event("aten::add", ["double"], [[16]], ts=5)],
            {"fp32": 0.5, "fp64": 0.5},
        ),
        ([event("aten::relu", ["double"], [[999]]), event("aten::mm", ["float"] * 2, [[2, 3], [3, 4]])], {"fp32": 1.0}),
        (
            # Under autocast the outer operation sees floats, the inner one what they became.
            [
                event("aten::conv2d", ["float", "float"], CONV, ts=0, dur=9),
                event("aten::_convolution", ["c10::BFloat16", "c10::BFloat16"], CONV, ts=2, dur=3),
            ],
            {"bf16": 1.0},
        ),
        (
            [
                event("aten::mm", ["float", "float"], [[1, 8], [8, 4]], ts=0),
                event("aten::addmm", ["c10::Half", "c10::Half", "c10::Half"], [[4], [3, 8], [8, 4]], ts=5),
            ],
            {"fp32": 0.25, "fp16": 0.75},
        ),
        (
            [event("aten::cat", [["float", "float"], "Scalar"], [[[1, 1], [1, 1]], []])],
            {"fp32": 1.0},
        ),
    ],
)  # fmt: skip
def test_shares_come_from_the_innermost_operations(events: list[dict[str, Any]], shares: dict[str, float]) -> None:
    assert executed_shares(events) == pytest.approx(shares)


def test_shares_name_what_fp32_really_is() -> None:
    events = [event("aten::conv2d", ["float", "float"], CONV)]
    assert executed_shares(events, fp32="tf32") == {"tf32": 1.0}
