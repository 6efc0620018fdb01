"""The sessions of TensorRT and of TensorRT for RTX: buffers, graphs, refusals, over stand-ins for driver and vendor.

What the vendor's libraries do with a file is not tested here; that the numbers go the right way, and that nothing is
left behind, is.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from tests.sdk.fake_cuda import FakeCuda, install
from tests.sdk.fake_tensorrt import Graphs, Module, Strategy

from avsdk.engines.tensorrt import TensorRtSession
from avsdk.engines.tensorrt_rtx import TensorRtRtxSession
from avsdk.errors import BundleRefused, NotAvailable, UsageError
from avsdk.session import Artifact
from avsdk.spec import AxisRange, GraphSpec, TensorSpec
from avsdk.tensorrt_execution import EngineFileSession, _index_of, util

SPEC = GraphSpec(
    "net",
    (TensorSpec("x", "float32", (1, "width")),),
    (TensorSpec("y", "float32", (1, "width")),),
    {"width": AxisRange(1, 100, 1, 4)},
)
BOTH = pytest.mark.parametrize("kind", [TensorRtSession, TensorRtRtxSession])
Kind = type[EngineFileSession]


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return install(monkeypatch, ("NVIDIA RTX A4000", (8, 6), 16_000), ("Tesla T4", (7, 5), 15_000))


def opened(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Module, **options: Any
) -> EngineFileSession:
    (tmp_path / "x.engine").write_bytes(b"plan")
    options = {"sha256": hashlib.sha256(b"plan").hexdigest(), "precision_shares": {"fp16": 1.0}, **options}
    session = kind(tmp_path, Artifact("net", kind.engine, "this-gpu", "fp16", ("x.engine",), options=options), SPEC, 1)
    monkeypatch.setattr(kind, "_vendor", lambda self: module)
    session._open()
    return session


def feed(width: int, value: float = 1.0) -> dict[str, np.ndarray]:
    return {"x": np.full((1, width), value, np.float32)}


@BOTH
def test_numbers_go_in_and_come_out_and_everything_is_freed(
    kind: Kind, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(kind, tmp_path, monkeypatch, Module(cuda))
    first = session.run(feed(4, 3.0))["y"]
    second = session.run(feed(4, 5.0))["y"]
    assert (first.tolist(), second.tolist()) == ([[6.0] * 4], [[10.0] * 4])
    assert session.execution().placement == {"gpu": 1.0}
    assert session.effective_precision == "fp16"
    session.close()
    session.close()
    assert not cuda.memory
    assert not cuda.graphs
    assert cuda.retained == 0
    with pytest.raises(UsageError, match="is closed"):
        session.run(feed(4))


@BOTH
def test_buffers_are_made_once_per_size_and_the_oldest_size_is_freed(
    kind: Kind, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(kind, tmp_path, monkeypatch, Module(cuda))
    session.run(feed(1))
    held = len(cuda.memory)
    for _ in range(3):
        session.run(feed(1))
    assert len(cuda.memory) == held, "a size that ran before allocates nothing"
    for width in (2, 3, 4, 5, 6):
        assert session.run(feed(width))["y"].shape == (1, width)
    assert len(cuda.memory) == 4 * held
    session.close()


def test_tensorrt_records_the_work_of_each_size_and_then_launches_it(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Module(cuda)
    session = opened(TensorRtSession, tmp_path, monkeypatch, module)
    for value in (1.0, 2.0, 3.0):
        assert session.run(feed(4, value))["y"][0, 0] == 2 * value
    assert module.made.runs == 2, "once to run, once to record; the third time the graph is launched"
    assert cuda.calls.count("cuGraphLaunch") == 2
    assert module.made.contexts[0].how == Strategy.USER_MANAGED
    session.run(feed(8))
    assert len(module.made.contexts) == 2, "a graph holds the addresses of its own context"
    session.close()


def test_without_graphs_every_run_is_queued(cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(TensorRtSession, tmp_path, monkeypatch, Module(cuda), session={"cuda_graph": "off"})
    for value in (1.0, 2.0):
        assert session.run(feed(4, value))["y"][0, 0] == 2 * value
    assert "cuStreamBeginCapture_v2" not in cuda.calls
    session.close()


def test_work_that_cannot_be_recorded_is_queued_as_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda
) -> None:
    cuda.failing["cuStreamEndCapture"] = 901
    session = opened(TensorRtSession, tmp_path, monkeypatch, Module(cuda))
    session.run(feed(4, 1.0))
    cuda.queue = None
    assert session.run(feed(4, 2.0))["y"][0, 0] == 4.0
    assert cuda.calls.count("cuStreamBeginCapture_v2") == 1, "it is not tried again and again"
    session.close()
    assert not cuda.memory


def test_rtx_leaves_graphs_to_the_runtime_and_keeps_its_kernels(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Module(cuda)
    session = opened(TensorRtRtxSession, tmp_path, monkeypatch, module)
    session.run(feed(4))
    session.run(feed(4))
    config = module.made.config
    assert config.cuda_graph_strategy == Graphs.WHOLE_GRAPH_CAPTURE
    assert config.strategy == Strategy.USER_MANAGED
    assert config.loaded == b"", "there was nothing to load the first time"
    assert "cuStreamBeginCapture_v2" not in cuda.calls
    session.close()
    again = opened(TensorRtRtxSession, tmp_path, monkeypatch, module)
    again.run(feed(4))
    assert module.made.config.loaded == b"kernels"
    again.close()


@pytest.mark.parametrize("harm", ["flipped", "truncated", "empty", "open"])
def test_kept_kernels_that_are_damaged_or_not_ours_are_made_again(
    harm: str, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Module(cuda)
    with opened(TensorRtRtxSession, tmp_path, monkeypatch, module) as session:
        session.run(feed(4))
    (kept,) = (tmp_path / "home" / "kernels").iterdir()
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    whole = kept.read_bytes()
    if harm == "open":
        kept.parent.chmod(0o777)
    else:
        kept.write_bytes({"flipped": whole[:-1] + b"!", "truncated": whole[:-1], "empty": b""}[harm])
    with opened(TensorRtRtxSession, tmp_path, monkeypatch, module) as session:
        session.run(feed(4))
        assert module.made.config.loaded == b""
    with opened(TensorRtRtxSession, tmp_path, monkeypatch, module) as session:
        session.run(feed(4))
        assert module.made.config.loaded == b"kernels"


def test_a_session_whose_kernels_cannot_be_kept_frees_the_gpu_all_the_same(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(TensorRtRtxSession, tmp_path, monkeypatch, Module(cuda))
    session.run(feed(4))

    def lost() -> NoReturn:
        message = "the device is lost"
        raise RuntimeError(message)

    monkeypatch.setattr(session._kernels, "serialize", lost)
    with pytest.raises(RuntimeError, match="lost"):
        session.close()
    assert cuda.retained == 0
    assert not cuda.memory


def test_the_gpu_that_the_file_was_built_for_is_taken(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(TensorRtSession, tmp_path, monkeypatch, Module(cuda), requires={"arch": "sm75"})
    assert session._here().gpu.name == "Tesla T4"
    session.close()


@pytest.mark.parametrize("chosen", ["on", "off"])
def test_host_code_in_a_file_is_allowed_only_where_it_was_built_in(
    chosen: str, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Module(cuda)
    opened(TensorRtSession, tmp_path, monkeypatch, module, session={"version_compatible": chosen}).close()
    assert module.runtime.engine_host_code_allowed == (chosen == "on")


def test_a_tensor_that_lives_on_the_host_is_not_copied(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Module(cuda)
    session = opened(TensorRtSession, tmp_path, monkeypatch, module)
    module.made.host = {"x"}
    assert session.run(feed(4, 3.0))["y"][0, 0] == 6.0
    assert "cuMemcpyHtoDAsync_v2" not in cuda.calls
    session.close()


# -- refusals ----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("options", [{"sha256": ""}, {"sha256": "0" * 64}])
def test_a_file_that_the_manifest_does_not_vouch_for_is_refused(
    kind: Kind, options: dict[str, Any], cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BundleRefused, match="is not the one that the manifest vouches for") as caught:
        opened(kind, tmp_path, monkeypatch, Module(cuda), **options)
    assert caught.value.exit_code == 5
    assert not cuda.calls, "nothing was loaded"


@BOTH
def test_a_file_that_the_runtime_refuses_says_why_and_leaves_nothing(
    kind: Kind, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotAvailable, match="cannot load x.engine") as caught:
        opened(kind, tmp_path, monkeypatch, Module(cuda, loads=False))
    assert caught.value.failed.endswith(": the version does not match"), "its errors are kept, its warnings are not"
    assert "export" in caught.value.fix
    assert cuda.retained == 0


@BOTH
def test_a_package_that_cannot_be_loaded_is_typed(
    kind: Kind, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: EngineFileSession) -> NoReturn:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    (tmp_path / "x.engine").write_bytes(b"plan")
    options = {"sha256": hashlib.sha256(b"plan").hexdigest()}
    session = kind(tmp_path, Artifact("net", kind.engine, "this-gpu", "fp16", ("x.engine",), options=options), SPEC, 1)
    monkeypatch.setattr(kind, "_vendor", broken)
    with pytest.raises(NotAvailable, match=r"cannot be loaded: libnvinfer.so.10") as caught:
        session._open()
    assert caught.value.fix == kind.install
    assert cuda.retained == 0


@BOTH
def test_a_file_with_tensors_of_another_type_is_refused(
    kind: Kind, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BundleRefused, match="'x' of x.engine is float16"):
        opened(kind, tmp_path, monkeypatch, Module(cuda, kind="float16"))
    assert cuda.retained == 0


@BOTH
@pytest.mark.parametrize(
    ("change", "width", "text"),
    [
        ({}, 65, "refuses 'x' at"),
        ({"lacking": ["x"]}, 4, "does not know the size of 'x'"),
        ({"by_data": True}, 4, "of a size that depends on the data"),
        ({"fails": True}, 4, "could not run it, in graph 'net': the kernel said no"),
    ],
)
def test_what_cannot_run_is_typed_and_leaves_no_memory(
    kind: Kind, change: dict[str, Any], width: int, text: str,
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    module = Module(cuda)
    session = opened(kind, tmp_path, monkeypatch, module)
    vars(module.made).update(change)
    with pytest.raises(NotAvailable, match=text):
        session.run(feed(width))
    session.close()
    assert not cuda.memory


@BOTH
def test_too_little_memory_is_typed_and_a_smaller_size_still_runs(
    kind: Kind, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(kind, tmp_path, monkeypatch, Module(cuda))
    cuda.failing["cuMemAlloc_v2"] = 2
    with pytest.raises(NotAvailable, match="out of memory"):
        session.run(feed(64))
    assert not cuda.memory
    del cuda.failing["cuMemAlloc_v2"]
    assert session.run(feed(4, 2.0))["y"][0, 0] == 4.0
    session.close()


# -- availability ------------------------------------------------------------------------------------------------------


@BOTH
def test_the_package_is_named_where_a_gpu_is_here(kind: Kind, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    state = kind.availability("this-gpu")
    assert (state.ok, state.reason) == (False, f"the package {kind.module} is not installed")
    assert state.fix.startswith("pip install 'avsdk[")
    monkeypatch.setattr(util, "find_spec", lambda name: object())
    assert kind.availability("this-gpu").ok


@BOTH
def test_without_a_gpu_the_package_alone_is_not_enough(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setattr(util, "find_spec", lambda name: object())
    state = kind.availability("this-gpu")
    assert (state.ok, state.reason) == (False, "the driver finds no NVIDIA GPU")


@BOTH
def test_a_word_that_is_no_gpu_is_refused_where_a_gpu_is_here(
    kind: Kind, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: object())
    state = kind.availability("toaster")
    assert (state.ok, state.reason) == (False, f"{kind.title} knows no GPU 'toaster'")
    assert "rtx-3090" in state.fix


@pytest.mark.parametrize(("arch", "index"), [("sm75", 1), ("sm86", 0), ("sm70+", 0), ("sm80+", 0), ("", 0)])
def test_the_gpu_that_serves_the_file_is_taken(cuda: FakeCuda, arch: str, index: int) -> None:
    assert _index_of(arch) == index


def test_of_an_older_and_a_newer_gpu_a_file_for_ampere_and_later_takes_the_newer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, ("Tesla T4", (7, 5), 15_000), ("NVIDIA RTX A4000", (8, 6), 16_000))
    assert _index_of("sm80+") == 1


@BOTH
@pytest.mark.parametrize("shares", ["fp16", {"fp16": "all"}, {"fp16": 2.0}, {"fp16": -1}, {"fp16": 0.9, "fp32": 0.9}])
def test_shares_that_mean_nothing_are_refused(
    kind: Kind, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: object
) -> None:
    session = opened(kind, tmp_path, monkeypatch, Module(cuda), precision_shares=shares)
    with pytest.raises(BundleRefused, match="precision_shares"):
        session.execution()
    session.close()
