"""Bounds and predictions: what the numbers are made of, and that more work is never faster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.bench.graphs import node, save_graph

from avsdk.errors import NotAvailable, UnknownName
from avsdk_bench.calibration import Calibration, Rates, cache_bytes
from avsdk_bench.efficiencies import LEVEL, Factors, Fit, compute_factor, load_efficiencies, parts_of
from avsdk_bench.flops import KINDS
from avsdk_bench.predict import lower_bound_ms, predict, predicted
from avsdk_bench.roofline import Roof, bound_of, least_ms, measured_roof, roof_here, roof_of, roofline_facts
from avsdk_bench.work import Operator, Work
from avsdk_targets.device import Figure, list_devices, load_device

RATES = Rates(flops_per_s=100e9, bytes_per_s=10e9, cached_bytes_per_s=50e9, cache_bytes=1 << 20)
ROOF = roof_here(RATES, ("avx2",))
CONV = Operator("c", "conv", ("Conv",), 10**9, 10**6, 10**4, 10**6, rows=4096, columns=64, depth=288)
NORM = Operator("n", "norm", ("InstanceNormalization",), 10**7, 10**7, 64, 10**7)
WORK = Work((CONV, NORM), 10**5, 10**5)


def test_the_bound_is_the_larger_of_both_times_operator_by_operator() -> None:
    bound = bound_of(WORK, ROOF, "fp32")
    compute_s, memory_s = 10**9 / 100e9, 4 * (2 * 10**7 + 64) / 10e9
    assert bound.ms == pytest.approx(1e3 * (compute_s + memory_s))
    assert bound.by == "compute"
    assert bound_of(Work((NORM,), 1, 1), ROOF, "fp32").by == "memory"
    facts = roofline_facts(WORK, ROOF, "fp32", 2 * bound.ms)
    assert (facts["reached"], facts["flops"], facts["bound_by"]) == (0.5, WORK.flops, "compute")
    assert facts["flops_by_kind"] == {"conv": 10**9, "norm": 10**7}


def test_what_stays_in_the_cache_moves_faster() -> None:
    small = replace(NORM, read=10**4, written=10**4)
    assert ROOF.memory_s(small, "fp32") == pytest.approx(4 * (2 * 10**4 + 64) / 50e9)
    recurrent = replace(small, kind="recurrent", weights=10**4, steps=100)
    assert ROOF.memory_s(recurrent, "fp32") == pytest.approx(4 * (2 * 10**4 + 100 * 10**4) / 50e9)


def test_no_run_can_be_under_the_least_time() -> None:
    """What lies between operators need not be moved."""
    assert least_ms(WORK, ROOF, "fp32") == pytest.approx(1e3 * (10**9 + 10**7) / 100e9)
    weights = Work((replace(CONV, flops=1, weights=10**8),), 0, 0)
    assert least_ms(weights, ROOF, "fp32") == pytest.approx(1e3 * 4 * 10**8 / 50e9)
    assert least_ms(weights, ROOF, "fp16w") == pytest.approx(1e3 * 2 * 10**8 / 50e9)
    assert least_ms(WORK, ROOF, "fp32") < bound_of(WORK, ROOF, "fp32").ms


@pytest.mark.parametrize(
    ("isa", "int8", "bf16"),
    [
        (("avx2",), 2.0, 1.0), (("avx512_vnni",), 4.0, 1.0), (("avx512_vnni", "avx512_bf16"), 4.0, 2.0),
        (("amx_int8", "amx_bf16"), 32.0, 16.0), (("asimddp", "fphp"), 4.0, 1.0),
    ],
)  # fmt: skip
def test_other_precisions_of_this_processor_are_by_its_instructions(
    isa: tuple[str, ...], int8: float, bf16: float
) -> None:
    roof = roof_here(RATES, isa)
    assert (roof.flops_for("int8"), roof.flops_for("bf16")) == (int8 * 100e9, bf16 * 100e9)
    assert roof.flops_for("fp16w") == 100e9


def test_the_machine_is_measured() -> None:
    roof = measured_roof(1)
    assert roof.flops_for("fp32") > 1e8
    assert roof.bytes_per_s is not None
    assert roof.bytes_per_s > 1e7
    calibration = Calibration(2)
    try:
        assert calibration.rates().threads == 2
    finally:
        calibration.close()


def test_the_cache_is_read_off_the_system(tmp_path: Path) -> None:
    assert cache_bytes(tmp_path) == 4 << 20
    for place, size in enumerate(("32K", "512K", "32768K")):
        (tmp_path / f"index{place}").mkdir()
        (tmp_path / f"index{place}" / "size").write_text(f"{size}\n")
    assert cache_bytes(tmp_path) == 8 << 20


def test_a_profile_without_a_peak_predicts_nothing() -> None:
    with pytest.raises(NotAvailable, match="gives no peak rate"):
        roof_of(load_device("android-arm64"))
    with pytest.raises(NotAvailable, match="no peak rate for fp32") as caught:
        roof_of(load_device("tpu-v5e")).flops_for("fp32")
    assert "bf16" in caught.value.fix
    assert roof_of(load_device("nervana-nnp-t")).flops_for("fp16") == 93.4e12


# -- the fit -----------------------------------------------------------------------------------------------------------


def test_the_data_file_has_every_kind_and_says_where_it_is_from() -> None:
    known = load_efficiencies()
    assert {"onnxruntime", "openvino"} <= known.engines.keys()
    for fit in known.engines.values():
        assert fit.kinds.keys() == set(KINDS)
        assert fit.machine
        assert fit.version
        assert len(fit.errors) >= 8
        assert 0 < fit.spread < 2
        assert all(value >= 0 for item in fit.kinds.values() for value in vars(item).values())


def test_a_small_product_is_less_efficient() -> None:
    factors = Factors(1.0, 1.0, narrow=1.0, shallow=2.0, short=4.0)
    assert compute_factor(replace(CONV, columns=8, depth=8, rows=8), factors) == 8.0
    assert compute_factor(replace(CONV, columns=16, depth=16, rows=4), factors) == 1.0 + 0.5 + 1.0 + 4.0
    assert compute_factor(NORM, factors) == 1.0


def test_the_time_is_the_sum_of_its_parts() -> None:
    kinds = {kind: Factors(2.0, 3.0) for kind in KINDS}
    fit = Fit("m", "1", "2026-01-01", (1,), {**kinds, "elementwise": Factors(5.0, 1.0)}, 4.0, 7.0, 0.1, 0.1, 0.9, {})
    parts = parts_of(Work((replace(CONV, fused_flops=10**8),), 1, 1), ROOF, "fp32", fit)
    assert parts.compute == pytest.approx((2.0 * 9e8 + 5.0 * 1e8) / 100e9)
    assert parts.memory == pytest.approx(3.0 * 4 * 2.01e6 / 10e9)
    assert parts.overhead == pytest.approx(11e-6)
    assert parts.most == "compute"


sizes = st.integers(1, 10**9)
operators = st.builds(
    Operator, name=st.just("o"), kind=st.sampled_from(KINDS), nodes=st.just(("X",)), flops=sizes, read=sizes,
    weights=sizes, written=sizes, rows=st.integers(0, 4096), columns=st.integers(0, 4096), depth=st.integers(0, 4096),
    steps=st.integers(1, 100),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(operators, st.integers(1, 10**9), st.sampled_from(["fp32", "int8", "fp16w"]))
def test_more_work_is_never_faster(item: Operator, more: int, precision: str) -> None:
    device = load_device("this-cpu")

    def time_of(*found: Operator) -> float:
        return predicted(Work(found, 1, 1), device, precision, ROOF, "openvino").p50_ms

    base = time_of(item)
    assert base > 0
    assert time_of(replace(item, flops=item.flops + more)) >= base
    assert time_of(replace(item, read=item.read + more + (1 << 21))) >= base * (1 - 1e-9)
    assert time_of(item, item) >= base
    assert least_ms(Work((item,), 1, 1), ROOF, precision) <= bound_of(Work((item,), 1, 1), ROOF, precision).ms + 1e-3


def test_an_engine_that_was_measured_here_is_surer_than_a_device_that_never_was() -> None:
    here = predicted(WORK, load_device("this-cpu"), "fp32", ROOF, "openvino")
    other = predicted(WORK, load_device("xeon-8480"), "fp32", roof_of(load_device("xeon-8480")))
    card = predicted(WORK, load_device("quadro-rtx-6000"), "fp16", roof_of(load_device("quadro-rtx-6000")))

    def width(found: object) -> float:
        low, high = found.interval_ms  # type: ignore[attr-defined]
        return float(high / low)

    assert width(here) < width(other) < width(card)
    for found in (here, other, card):
        assert found.level == LEVEL == 0.9
        assert found.interval_ms[0] < found.p50_ms < found.interval_ms[1]
        assert sum(found.parts_ms.values()) == pytest.approx(found.p50_ms, rel=1e-4)
        assert found.bound_by in ("compute", "memory", "overhead")
    assert "left out of the fit" in here.basis
    assert "the efficiencies of openvino on another device" in other.basis
    assert "all engines that were measured" in card.basis
    assert "assumed" in card.basis


def test_a_device_without_a_bandwidth_is_less_sure_and_says_so() -> None:
    device = load_device("quadro-rtx-6000")
    unknown = replace(device, bandwidth_gb_s=None)
    sure, unsure = (predicted(WORK, item, "fp16", roof_of(item)) for item in (device, unknown))
    assert "its bandwidth is not known" in unsure.basis
    assert unsure.interval_ms[1] / unsure.interval_ms[0] > sure.interval_ms[1] / sure.interval_ms[0]


def test_every_device_with_a_peak_is_predicted_at_its_own_precision() -> None:
    for device in list_devices():
        precisions = [name for name in device.precisions if name in device.peaks]
        if precisions:
            found = predicted(WORK, device, precisions[0], roof_of(device))
            assert 0 < found.bound_ms <= found.p50_ms, device.name


def test_twice_the_peak_and_bandwidth_is_at_most_twice_as_fast() -> None:
    slow = load_device("quadro-rtx-6000")
    peaks = {name: replace(figure, value=2 * figure.value) for name, figure in slow.peaks.items()}
    fast = replace(slow, peaks=peaks, bandwidth_gb_s=Figure(2 * 672.0, "made up", "computed"))
    one, two = (predicted(WORK, item, "fp16", roof_of(item)).p50_ms for item in (slow, fast))
    assert one / 2 <= two < one


# -- the functions that others call ------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    nodes = [node("Conv", "x w", "a", pads=[1, 1, 1, 1]), node("Relu", "a", "y")]
    return save_graph(tmp_path / "net.onnx", nodes, {"x": [1, 3, "height", "width"]}, {"w": [8, 3, 3, 3]})


def test_a_bound_and_a_prediction_by_the_names_of_model_and_device(model: Path) -> None:
    small = {"height": 32, "width": 32}
    bound = lower_bound_ms(model, small, "quadro-rtx-6000", "fp16")
    found = predict(model, small, "quadro-rtx-6000", "fp16")
    assert 0 < bound <= found.bound_ms < found.p50_ms
    assert lower_bound_ms(model, {"height": 64, "width": 64}, "quadro-rtx-6000", "fp16") > bound
    assert found.work.flops == 2 * 1024 * 8 * 27 + 8 * 1024
    here = lower_bound_ms(model, small, "this-cpu", roof=ROOF)
    assert here == pytest.approx(max(1e3 * found.work.flops / 100e9, 1e3 * 4 * (216 + 3 * 1024 + 8 * 1024) / 50e9))


@pytest.mark.parametrize(
    ("device", "precision", "error", "text"),
    [
        ("quadro-rtx-6000", "bf16", NotAvailable, "has no bf16"),
        ("quadro-rtx-6000", "fp99", UnknownName, "unknown precision"),
        ("quadro-rtx-600", "fp16", UnknownName, "quadro-rtx-6000"),
        ("tpu-v5e", "fp32", NotAvailable, "no peak rate for fp32"),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    model: Path, device: str, precision: str, error: type[Exception], text: str
) -> None:
    for ask in (lower_bound_ms, predict):
        with pytest.raises(error, match=text):
            ask(model, {}, device, precision)


def test_a_graph_that_cannot_be_counted_whole_has_a_bound_and_no_prediction() -> None:
    partly = replace(WORK, not_counted=("the body of Loop y",))
    roof = Roof("x", {"fp32": 1e9}, None, "made up")
    assert least_ms(partly, roof, "fp32") > 0
    with pytest.raises(NotAvailable, match="the body of Loop y"):
        predicted(partly, load_device("xeon-8480"), "fp32", roof)
