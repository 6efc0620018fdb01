"""From MODEL and target to a verified bundle: what is built, what is refused, and that nothing half-made is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.targets import broken_compilers

from avsdk import plugins
from avsdk.bundle import open_bundle
from avsdk.engines.xla import XlaSession
from avsdk.errors import DiskFull, NotAvailable, ParityFailed, SizeNotBuilt, ToolchainCrashed, UsageError
from avsdk.parity import Parity
from avsdk.session import Artifact, Availability
from avsdk_targets.build import Exported, Exporter, ExportOptions, find_source
from avsdk_targets.export_cli import _after_export
from avsdk_targets.export_settings import require_read, unread
from avsdk_targets.plan import plan_target
from avsdk_targets.target import resolve, resolve_list

MODEL = "tests.contracts.tiny_model:network"


def export(out: Path, target: str = "openvino", precision: str | None = None, **options: Any) -> Exported:
    with Exporter(MODEL, ExportOptions(out, precision, **options), lambda text: None) as exporter:
        return exporter.export(resolve(target))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty AVSDK_HOME, so that a broken compiler's result is never answered from a good one's cache."""
    monkeypatch.setenv("AVSDK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def use_compiler(monkeypatch: pytest.MonkeyPatch, compiler: type) -> None:
    load = plugins.load
    monkeypatch.setattr(plugins, "load", lambda group, name: compiler if group == "compilers" else load(group, name))


def test_a_bundle_is_named_after_model_target_and_precision(tmp_path: Path) -> None:
    done = export(tmp_path, "openvino:cpu")
    assert done.bundle.path == tmp_path / "tiny-openvino-cpu-fp32"
    manifest = open_bundle(done.bundle.path).manifest
    assert manifest.parity.verdict == "pass"
    assert manifest.parity.executed_on == "device"
    assert manifest.effective_precision == "fp32"
    assert manifest.target == "openvino:cpu"
    assert set(manifest.built_with) == {"avsdk", "openvino"}


def test_a_second_export_is_answered_by_the_cache_without_torch(tmp_path: Path, own_cache: Path) -> None:
    first = export(tmp_path / "a")
    assert not first.cached
    code = (
        "import sys, pathlib\n"
        "from avsdk_targets.build import Exporter, ExportOptions\n"
        "from avsdk_targets.target import resolve\n"
        f"with Exporter({MODEL!r}, ExportOptions(pathlib.Path({str(tmp_path / 'b')!r})), print) as exporter:\n"
        "    done = exporter.export(resolve('openvino'))\n"
        "print(done.cached, 'torch' in sys.modules, 'openvino' in sys.modules)\n"
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.split() == ["True", "False", "False"]
    assert open_bundle(tmp_path / "b" / "tiny-openvino-fp32").manifest == first.bundle.manifest


def test_a_damaged_cache_entry_is_built_again(tmp_path: Path, own_cache: Path) -> None:
    export(tmp_path)
    entry = next((own_cache / "bundles").iterdir())
    (entry / "manifest.json").write_text("{}")
    again = export(tmp_path)
    assert not again.cached
    assert open_bundle(again.bundle.path).manifest.parity.verdict == "pass"


def test_an_older_bundle_is_replaced_and_a_foreign_folder_is_not(tmp_path: Path) -> None:
    first = export(tmp_path)
    (first.bundle.path / "stray.txt").write_text("x")
    second = export(tmp_path)
    assert second.bundle.path == first.bundle.path
    assert not (second.bundle.path / "stray.txt").exists()
    shutil.rmtree(first.bundle.path)
    first.bundle.path.mkdir()
    (first.bundle.path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is no bundle"):
        export(tmp_path)
    assert (first.bundle.path / "thesis.tex").read_text() == "years of work"


def test_a_crashing_converter_is_typed_with_its_last_lines(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compiler(monkeypatch, broken_compilers.CrashingCompiler)
    with pytest.raises(ToolchainCrashed) as caught:
        export(tmp_path / "out")
    assert caught.value.exit_code == 3
    assert "SIGSEGV" in str(caught.value)
    assert "converting layer 7" in str(caught.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_wrong_numbers_are_exit_4_and_leave_no_bundle(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compiler(monkeypatch, broken_compilers.DamagingCompiler)
    with pytest.raises(ParityFailed) as caught:
        export(tmp_path / "out")
    assert caught.value.exit_code == 4
    assert "SNR" in str(caught.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert not list((own_cache / "bundles").iterdir()) if (own_cache / "bundles").exists() else True


def test_an_absent_toolchain_is_exit_3_with_the_install_line(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compiler(monkeypatch, broken_compilers.AbsentCompiler)
    with pytest.raises(NotAvailable) as caught:
        export(tmp_path)
    assert caught.value.exit_code == 3
    assert "avsdk toolchain install litert" in str(caught.value)


def test_a_precision_that_the_target_lacks_is_refused_before_any_work(tmp_path: Path) -> None:
    for target, precision in (("quadro-rtx-6000", "bf16"), ("onnxruntime", "bf16"), ("openvino", "fp16w")):
        with pytest.raises(NotAvailable, match=precision):
            plan_target(resolve(target), precision)
    with pytest.raises(NotAvailable) as caught:
        plan_target(resolve("openvino"), "fp16")
    assert caught.value.expected == "one of: fp32, bf16, int8", "what its compiler builds"
    assert caught.value.fix == "--precision fp32"


def test_sizes_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SizeNotBuilt, match="multiple of 4"):
        export(tmp_path, sizes=({"height": 33},))
    with pytest.raises(UsageError, match="no dynamic axis 'depth'"):
        export(tmp_path, sizes=({"depth": 32},))


def test_a_full_disk_is_typed_and_leaves_nothing(tmp_path: Path) -> None:
    done = export(tmp_path / "good")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    try:
        with pytest.raises(DiskFull) as caught:
            export(small)
        assert caught.value.exit_code == 3
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert open_bundle(done.bundle.path)


@pytest.mark.parametrize("model", ["zoo:style_transfer/wawe", "no/such/run", "nothing.onnx", "no_such_module:thing"])
def test_an_unknown_model_says_what_a_model_may_be(model: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_source(model).fingerprint(model, {})
    assert caught.value.exit_code == 2
    assert caught.value.expected or caught.value.fix


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from avsdk.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_export_goes_on_past_a_failing_target_and_exits_with_its_code(tmp_path: Path) -> None:
    done = run_cli("export", MODEL, "--target", "rtx-3090:x,onnxruntime", "--out", str(tmp_path), "--json")
    assert done.returncode == 2, "a misspelt target is wrong usage, found before any build"
    assert "rtx-3090" in json.loads(done.stdout)["fix"]
    done = run_cli("export", MODEL, "--target", "nervana-nnp-i,onnxruntime", "--out", str(tmp_path), "--json")
    document = json.loads(done.stdout)
    assert [item["target"] for item in document["failed"]] == ["nervana-nnp-i"]
    assert done.returncode == document["failed"][0]["code"] == 3
    assert [item["target"] for item in document["bundles"]] == ["onnxruntime"]


def test_the_export_document_has_the_promised_keys(tmp_path: Path) -> None:
    done = run_cli("export", MODEL, "--target", "onnxruntime", "--out", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) >= {"bundles", "skipped", "failed"}
    bundle = document["bundles"][0]
    assert {"path", "target", "engine", "device", "precision", "effective_precision", "seconds", "graphs"} <= set(
        bundle
    )
    assert {"verdict", "executed_on", "reason", "outputs"} <= set(bundle["parity"])
    assert {"graph", "name", "max_abs", "cosine", "snr_db", "agreement"} <= set(bundle["parity"]["outputs"][0])
    assert {"graph", "engine", "device", "effective_precision"} <= set(bundle["graphs"][0])
    assert "next: avsdk run" in run_cli("export", MODEL, "--target", "onnxruntime", "--out", str(tmp_path)).stderr


@pytest.mark.parametrize(
    ("here", "line"),
    [(True, "avsdk run bundles/net IN.npz --out OUT.npz"), (False, "avsdk bundle show bundles/net")],
)
def test_what_was_proven_in_a_devices_stead_is_no_run_to_suggest(
    here: bool, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(XlaSession, "availability", classmethod(lambda cls, device: Availability(here, "no TPU")))
    manifest = SimpleNamespace(
        parity=Parity("pass", "this-cpu"),
        spec=SimpleNamespace(predictor="tensor"),
        artifacts=(Artifact("net", "xla", "tpu", "fp32", ("net.stablehlo",)),),
    )
    made: Any = SimpleNamespace(bundle=SimpleNamespace(path=Path("bundles/net"), manifest=manifest))
    assert _after_export([made]) == line


def test_a_precision_that_nobody_asked_for_is_said() -> None:
    quadro = resolve("quadro-rtx-6000")
    compiler = plugins.load("compilers", "tensorrt_rtx")()
    if not compiler.check("quadro-rtx-6000", "sm75", "fp16").ok:
        pytest.skip(compiler.check("quadro-rtx-6000", "sm75", "fp16").reason)
    assert plan_target(quadro, None).notices == (
        "fp16 is built, the first precision of quadro-rtx-6000's profile; ask for --precision fp32 instead",
    )
    assert plan_target(quadro, "fp16").notices == ()
    assert plan_target(resolve("onnxruntime"), None).notices == ()


@pytest.mark.parametrize("place", ["afile", "afile/below", "/proc/none"])
def test_an_out_that_cannot_be_a_folder_is_refused_before_any_work(tmp_path: Path, place: str) -> None:
    (tmp_path / "afile").write_text("mine")
    with pytest.raises(UsageError, match="cannot be a folder"):
        Exporter(MODEL, ExportOptions(tmp_path / place), lambda text: pytest.fail(text))
    assert (tmp_path / "afile").read_text() == "mine"


def test_a_setting_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without settings, not with 'colour'"):
        export(tmp_path, settings={"colour": "red"})


def test_a_setting_of_an_engine_that_no_target_has_is_refused_before_any_work(tmp_path: Path) -> None:
    done = run_cli(
        "export", MODEL, "--target", "onnxruntime:cpu", "--set", "openvino.streams=2", "--out", str(tmp_path / "out")
    )
    assert done.returncode == 2
    assert "nothing reads openvino.streams: onnxruntime:cpu is built with onnxruntime" in done.stderr
    assert not (tmp_path / "out").exists()


def test_settings_of_one_of_several_targets_are_read() -> None:
    require_read({"openvino.streams": "2", "colour": "red"}, resolve_list("onnxruntime:cpu,openvino"))
    require_read({"openvino.streams": "2"}, [resolve("nervana-nnp-i")])


def test_a_setting_of_an_engine_that_was_passed_over_is_said() -> None:
    said = unread({"tensorrt": {"workspace_mb": "64"}, "tensorrt_rtx": {"cuda_graph": "on"}}, ["tensorrt_rtx"])
    assert said == ("tensorrt.workspace_mb was not used: tensorrt_rtx is what compiled",)


def test_a_model_that_cannot_be_exported_is_tried_once_and_fails_every_target_alike(tmp_path: Path) -> None:
    tried: list[str] = []
    with Exporter(MODEL, ExportOptions(tmp_path, sizes=({"height": 33},)), tried.append) as exporter:
        for target in ("openvino", "onnxruntime"):
            with pytest.raises(SizeNotBuilt, match="multiple of 4"):
                exporter.export(resolve(target))
    assert len(tried) == 1


def test_doctor_names_every_target_with_reason_and_fix() -> None:
    document = json.loads(run_cli("doctor", "--json").stdout)
    engines = {item["engine"] for item in document["targets"]} - {""}  # a withdrawn device has none
    assert engines == set(plugins.list_names("compilers"))
    for item in document["targets"]:
        assert {"target", "engine", "can_compile", "can_run", "verified", "reason", "fix"} <= set(item)
        assert item["verified"] in {"hardware", "emulated", "build-only", "contract"}
        if not (item["can_compile"] and item["can_run"]):
            assert item["reason"]
            assert item["fix"]


def test_devices_lists_the_machine_and_shows_one() -> None:
    document = json.loads(run_cli("devices", "--json").stdout)
    assert document["host"]["cores"] >= 1
    names = [item["name"] for item in document["devices"]]
    assert {"this-cpu", "quadro-rtx-6000", "rtx-3090", "rtx-4090", "rtx-5090"} <= set(names)
    one = json.loads(run_cli("devices", "rtx-4090", "--json").stdout)
    assert one["device"]["arch"] == "sm89"
    assert one["targets"][0]["verified"] in {"build-only", "contract", "hardware"}
    wrong = run_cli("devices", "rtx-4080")
    assert wrong.returncode == 2
    assert "rtx-4090" in wrong.stderr


def test_golden_files_hold_real_and_seeded_samples(tmp_path: Path) -> None:
    bundle = export(tmp_path, "onnxruntime").bundle
    with np.load(bundle.file(bundle.manifest.golden["tiny"])) as golden:
        inputs = [key for key in golden.files if key.startswith("in.")]
        assert len(inputs) >= 3
        assert len({golden[key].shape for key in inputs}) >= 2
