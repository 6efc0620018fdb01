"""The doctor and the plan: what can be done for a device here, how strongly it is proven, and why not more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from avsdk import nvidia, plugins
from avsdk.errors import NotAvailable, UnknownName
from avsdk.onnx_check import OnnxLimits
from avsdk.session import Availability
from avsdk_targets import doctor, plan, presence
from avsdk_targets.compiler import Compiler, Verdict
from avsdk_targets.device import Served, load_device
from avsdk_targets.doctor import GRADES, Diagnosis, diagnose
from avsdk_targets.plan import check, plan_target
from avsdk_targets.proof import Proof
from avsdk_targets.target import Candidate, Target, resolve
from avsdk_targets.toolchain import Environment, PackageNeed


class ToyCompiler(Compiler):
    engine = "openvino"
    package = PackageNeed("toy", "toy", "10.0", "12")
    onnx_limits = OnnxLimits(ir=13, opset=23)
    precisions = ("fp16", "fp32")
    version = "10.3"

    @property
    def build(self) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return dict

    def environment(self, job: object = None) -> Environment:
        if not self.version:
            raise NotAvailable("toy is not installed", fix="pip install toy")
        return Environment(None, {"toy": self.version})  # type: ignore[arg-type]


def toy(version: str = "10.3") -> ToyCompiler:
    compiler = ToyCompiler()
    compiler.version = version
    return compiler


def candidate(name: str = "xeon-8480", **changes: Any) -> Candidate:
    device = replace(load_device(name), **changes)
    return Candidate("openvino", "cpu", device.arch, device)


def served(first: str = "", last: str = "", product: str = "toy") -> Mapping[str, Served]:
    return {"openvino": Served(product, first, last, "tried", "unconfirmed")}


@pytest.mark.parametrize(
    ("first", "last", "version", "reason"),
    [
        ("", "", "10.3", ""),
        ("", "10.4", "10.4.7", ""),
        ("", "10", "10.9", ""),
        ("", "10.4", "10.5", "toy 10.5 does not serve xeon-8480: it takes 10.4 or older"),
        ("10.8", "", "10.3", "toy 10.3 does not serve xeon-8480: it takes 10.8 or newer"),
        ("10.1", "10.4", "10.10", "it takes 10.1 or newer and 10.4 or older"),
        ("", "8.2", "10.3", "toy 8.2 was the last to serve xeon-8480, and avsdk uses toy>=10.0,<12"),
        ("", "8.2", "", "toy 8.2 was the last to serve xeon-8480"),
        ("", "10.4", "", "toy is not installed"),
    ],
)
def test_a_release_that_does_not_serve_the_device_is_refused(first: str, last: str, version: str, reason: str) -> None:
    verdict = check(candidate(served=served(first, last)), toy(version), "fp32")
    assert verdict.ok is (not reason)
    assert reason in verdict.reason


def test_the_releases_of_another_product_say_nothing_of_this_one() -> None:
    assert check(candidate(served=served("", "8.2", product="fpga-ai-suite")), toy(), "fp32").ok


def test_a_gpu_that_is_not_here_is_said_before_the_compiler_is_asked() -> None:
    verdict = check(replace(candidate("this-gpu"), arch=""), toy(), "fp32")
    assert not verdict.ok
    assert "no NVIDIA GPU" in verdict.reason
    assert verdict.fix


def test_the_plan_for_a_withdrawn_device_gives_the_vendors_reason() -> None:
    with pytest.raises(NotAvailable, match=r"Intel ended Nervana .* source: https://") as caught:
        plan_target(resolve("nervana-nnp-i"), None)
    assert caught.value.exit_code == 3
    assert caught.value.fix


def test_the_plan_names_every_engine_that_was_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(ToyCompiler):
        def check(self, device: str, arch: str, precision: str) -> Verdict:
            return Verdict(False, "it cannot", "buy one")

    compilers = {"first": Refuses, "second": ToyCompiler}
    monkeypatch.setattr(plugins, "load", lambda group, name: compilers[name])
    item = candidate(served={})
    target = Target("toy", (replace(item, engine="first"), replace(item, engine="second")), ("fp16", "fp32"))
    made = plan_target(target, None)
    assert (made.candidate.engine, made.precision, made.passed_over) == ("second", "fp16", ("first: it cannot",))
    assert "ask for --precision fp32 instead" in made.notices[0]
    with pytest.raises(NotAvailable, match="first: it cannot") as caught:
        plan_target(replace(target, candidates=target.candidates[:1]), None)
    assert caught.value.fix == "buy one"
    with pytest.raises(UnknownName, match="fp15"):
        plan_target(target, "fp15")
    with pytest.raises(NotAvailable, match="has no int8"):
        plan_target(target, "int8")


@pytest.mark.parametrize(
    ("names", "device", "here"),
    [
        (("Intel(R) Xeon(R) Platinum 8480+",), "xeon-8480", True),
        (("Intel(R) Xeon(R) Platinum 8480+",), "xeon-8380", False),
        (("NVIDIA H200",), "h200", True),
        (("NVIDIA H200",), "h100", False),
        (("NVIDIA A100-SXM4-40GB",), "a100", True),
        (("NVIDIA RTX A1000",), "a100", False),
        (("NVIDIA GeForce RTX 3090",), "rtx-3090", True),
        (("NVIDIA GeForce RTX 3090 Ti",), "rtx-3090", False),
        (("NVIDIA GeForce RTX 4090 Laptop GPU",), "rtx-4090", False),
        (("NVIDIA GeForce RTX 4090 D",), "rtx-4090", False),
        (("Quadro RTX 6000",), "quadro-rtx-6000", True),
        (("Tesla V100-SXM2-16GB",), "tesla-v100", True),
        (("", "Raspberry Pi 400 Rev 1.0"), "raspberry-pi-4", False),
        (("", "NVIDIA Jetson Nano Developer Kit"), "jetson-nano", True),
        (("", "NVIDIA Jetson Orin Nano Developer Kit Super"), "jetson-orin-nano", True),
        (("Intel(R) Xeon(R) Platinum 8180M",), "xeon-8180", False),
        (("", "Raspberry Pi 5 Model B Rev 1.0"), "raspberry-pi-5", True),
        (("NVIDIA GeForce RTX 3090",), "myriad-x", None),
        ((), "this-cpu", True),
        ((), "this-gpu", None),
    ],
)
def test_a_device_is_known_by_its_name(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], device: str, here: bool | None
) -> None:
    monkeypatch.setattr(presence, "names_here", lambda: names)
    assert presence.is_here(load_device(device)) is here


def test_the_gpus_of_this_machine_are_among_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "local_gpus", lambda: (nvidia.Gpu(0, "NVIDIA X", "sm86", 1024, "570.86"),))
    presence.names_here.cache_clear()
    try:
        assert presence.names_here()[-1] == "NVIDIA X"
    finally:
        presence.names_here.cache_clear()


@pytest.mark.parametrize(
    ("name", "here", "runs", "compiles", "proof", "grade", "says"),
    [
        ("xeon-8480", True, True, True, "device", "hardware", ""),
        ("xeon-8480", False, True, True, "this-cpu", "build-only", "it runs the same files"),
        ("xeon-8480", False, False, True, "this-cpu", "build-only", "cannot run what is built"),
        ("raspberry-pi-5", False, True, True, "emulated", "emulated", "compared under emulation"),
        ("raspberry-pi-5", False, True, False, "emulated", "contract", "it cannot"),
        ("raspberry-pi-5", True, True, True, "device", "hardware", ""),
        ("myriad-x", None, False, True, "this-cpu", "build-only", "no stick"),
        ("myriad-x", None, False, False, "this-cpu", "contract", "compile: it cannot; run: no stick"),
        ("myriad-x", None, True, False, "this-cpu", "hardware", "compile: it cannot"),
    ],
)
def test_the_grade_is_the_strongest_that_this_machine_can_give(
    monkeypatch: pytest.MonkeyPatch,
    name: str, here: bool | None, runs: bool, compiles: bool, proof: str, grade: str, says: str,
) -> None:  # fmt: skip
    state = Availability(True) if runs else Availability(False, "no stick", "plug one in")
    monkeypatch.setattr(doctor, "is_here", lambda device: here)
    monkeypatch.setattr(doctor, "proof_for", lambda item: Proof(proof))
    monkeypatch.setattr(doctor, "check", lambda *_: Verdict(True) if compiles else Verdict(False, "it cannot", "try"))
    monkeypatch.setattr(doctor, "_availability", lambda item: state)
    found = diagnose(name)[0]
    assert found.verified == grade
    assert found.can_run is (runs and here is not False)
    assert found.can_compile is compiles
    assert says in found.reason
    assert bool(found.reason) is bool(says)
    assert bool(found.fix) is bool(says)


@pytest.fixture(scope="module")
def everything() -> tuple[Diagnosis, ...]:
    return diagnose()


def test_every_target_is_diagnosed_with_a_known_grade(everything: tuple[Diagnosis, ...]) -> None:
    assert {item.verified for item in everything} <= set(GRADES)
    for item in everything:
        assert item.reason or (item.can_compile and item.can_run), f"{item.target}: no reason for what is missing"
        assert item.fix or not item.reason, f"{item.target} ({item.engine}): {item.reason}: no fix"


def test_the_processor_of_this_machine_is_hardware(everything: tuple[Diagnosis, ...]) -> None:
    found = {item.target: item for item in everything}
    assert found["onnxruntime:cpu"].verified == "hardware"
    assert found["onnxruntime:cpu"].reason == ""


def test_no_precision_is_offered_that_the_compiler_refuses(everything: tuple[Diagnosis, ...]) -> None:
    for item in everything:
        if not item.precisions or not item.engine:
            continue
        compiler: Compiler = plugins.load("compilers", item.engine)()
        chosen = next(each for each in resolve(item.target).candidates if each.engine == item.engine)
        assert not any(compiler.refusal(item.device, chosen.arch, name) for name in item.precisions)


def test_a_withdrawn_device_is_diagnosed_too(everything: tuple[Diagnosis, ...]) -> None:
    found = next(item for item in everything if item.target == "nervana-nnp-t")
    assert (found.engine, found.can_compile, found.can_run, found.verified) == ("", False, False, "contract")
    assert found.precisions == ()
    assert "Intel ended Nervana" in found.reason


def test_nothing_is_copied_to_a_device_that_nothing_can_be_built_for(everything: tuple[Diagnosis, ...]) -> None:
    for item in everything:
        assert item.can_compile or "copy the bundle" not in item.fix
    assert "was the last to serve" in next(item for item in everything if item.target == "jetson-nano").reason


def test_a_compiler_that_cannot_be_imported_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(group: str, name: str) -> Any:
        raise NotAvailable(f"the {group} {name} cannot be imported", fix="pip install it")

    monkeypatch.setattr(plugins, "load", load)
    found = diagnose("xeon")[0]
    assert not found.can_compile
    assert "cannot be imported" in found.reason


def test_an_engine_that_cannot_be_imported_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(group: str, name: str) -> Any:
        if name == "absent":
            raise NotAvailable("the compiler 'absent' cannot be imported", fix="pip install it")
        return ToyCompiler

    monkeypatch.setattr(plugins, "load", load)
    item = candidate(served={})
    target = Target("toy", (replace(item, engine="absent"), item), ("fp32",))
    made = plan_target(target, None)
    assert made.passed_over == ("absent: the compiler 'absent' cannot be imported",)
    with pytest.raises(NotAvailable, match="'absent' cannot be imported") as caught:
        plan_target(replace(target, candidates=target.candidates[:1]), None)
    assert caught.value.fix == "pip install it"


def test_a_target_here_by_its_gpus_name_is_hardware_where_its_session_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "names_here", lambda: ("AMD EPYC", "NVIDIA H200"))
    monkeypatch.setattr(doctor, "_availability", lambda item: Availability(True))
    grades = {item.engine: item.verified for item in diagnose("h200")}
    assert grades == {"tensorrt": "hardware", "onnxruntime": "hardware"}
    assert not any(item.can_run for item in diagnose("h100"))


def test_plan_and_doctor_ask_the_same_question() -> None:
    assert doctor.check is plan.check
