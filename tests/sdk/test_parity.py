from __future__ import annotations

import math

import numpy as np
import pytest

from avsdk.errors import ParityFailed
from avsdk.parity import Deviation, Parity, compare, deviation, merge
from avsdk.precision import TOLERANCES, Tolerance


def judged(reference: list[float], candidate: list[float], precision: str = "fp32") -> Parity:
    return compare(
        "g",
        [{"y": np.array(reference)}],
        [{"y": np.array(candidate)}],
        TOLERANCES[precision],
        reference="ref",
        candidate="cand",
        executed_on="this-cpu",
    )


def test_by_hand() -> None:
    found = deviation("g", "y", np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    assert found.max_abs == pytest.approx(0.5)
    assert found.max_rel == pytest.approx(0.125)
    assert found.snr_db == pytest.approx(10 * math.log10(25 / 0.25))  # 20 dB
    assert found.cosine == pytest.approx((9 + 18) / (5 * math.sqrt(9 + 4.5**2)))
    assert found.agreement is None


def test_equal_outputs() -> None:
    found = deviation("g", "y", np.array([1.0, -2.0]), np.array([1.0, -2.0]))
    assert (found.max_abs, found.snr_db) == (0.0, 200.0)
    assert found.cosine == pytest.approx(1.0)
    zeros = deviation("g", "y", np.zeros(3), np.zeros(3))
    assert (zeros.cosine, zeros.snr_db, zeros.max_rel) == (1.0, 200.0, 0.0)
    assert not zeros.violations(TOLERANCES["fp32"])


def test_noise_where_the_reference_is_silent_fails() -> None:
    found = deviation("g", "y", np.zeros(3), np.array([0.0, 0.1, 0.0]))
    assert found.cosine == 0.0
    assert found.snr_db == -200.0
    assert found.violations(TOLERANCES["fp16"])


@pytest.mark.parametrize("wrong", [np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.array([1.0]), np.ones((2, 1))])
def test_another_shape_or_no_number_is_infinitely_far(wrong: np.ndarray) -> None:
    found = deviation("g", "y", np.array([1.0, 2.0]), wrong)
    assert found.max_abs == math.inf
    assert len(found.violations(TOLERANCES["fp32"])) == 3
    assert found.violations(TOLERANCES["int8"])


def test_integers_are_compared_by_agreement() -> None:
    found = deviation("g", "codes", np.arange(1000), np.arange(1000) + (np.arange(1000) == 7))
    assert found.agreement == pytest.approx(0.999)
    assert not found.violations(TOLERANCES["fp32"])
    worse = deviation("g", "codes", np.arange(100), np.arange(100) + (np.arange(100) < 2))
    assert worse.violations(TOLERANCES["fp32"]) == ["agreement 0.9800 < 0.999"]
    assert worse.violations(TOLERANCES["bf16"]) == ["agreement 0.9800 < 0.99"]
    assert not worse.violations(TOLERANCES["int8"])


def test_integer_outputs_of_another_shape_fail() -> None:
    assert deviation("g", "codes", np.arange(3), np.arange(4)).violations(TOLERANCES["fp32"])


def test_half_floats_are_compared_in_full_precision() -> None:
    reference = np.full(100_000, 300.0, np.float32)
    assert deviation("g", "y", reference, reference.astype(np.float16)).snr_db == 200.0


def test_the_verdict() -> None:
    assert judged([1.0, 2.0], [1.0, 2.0]).verdict == "pass"
    record = judged([1.0, 2.0], [1.0, 2.1])
    assert record.verdict == "fail"
    assert "g/y: cosine" in record.reason
    assert "SNR" in record.reason
    with pytest.raises(ParityFailed, match="the bundle differs from ref: g/y") as caught:
        record.require(where="the bundle")
    assert caught.value.exit_code == 4
    judged([1.0, 2.0], [1.0, 2.01], "fp16").require(where="the bundle")


def test_the_worst_sample_counts() -> None:
    record = compare(
        "g",
        [{"y": np.ones(4)}, {"y": np.ones(4)}],
        [{"y": np.ones(4)}, {"y": np.array([1, 1, 1, 1.5])}],
        TOLERANCES["fp32"],
        reference="r",
        candidate="c",
        executed_on="device",
    )
    assert (record.verdict, record.samples) == ("fail", 2)
    assert record.outputs[0].max_abs == pytest.approx(0.5)


def test_merge() -> None:
    good, bad, none = judged([1.0], [1.0]), judged([1.0], [2.0]), Parity.not_run("no device here")
    assert merge([good, good]).verdict == "pass"
    assert merge([good, good]).samples == 2
    assert merge([good, bad, none]).verdict == "fail"
    assert merge([good, none]).verdict == "not_run"
    assert merge([good, none]).reason == "no device here"
    assert len(merge([good, bad]).outputs) == 2


def test_merge_of_nothing() -> None:
    assert merge([]).verdict == "not_run"


def test_a_deviation_at_the_tolerance_passes() -> None:
    tolerance = TOLERANCES["fp32"]
    edge = Deviation("g", "y", 1.0, 1e-3, 0.99999, 80.0)
    assert not edge.violations(tolerance)
    assert Deviation("g", "y", 1.0, 1.1e-3, 0.99998, 79.9).violations(tolerance) == [
        "cosine 0.999980 < 0.99999",
        "SNR 79.9 dB < 80.0 dB",
        "largest error 1.1e-03 of the reference's maximum > 0.001",
    ]
    assert Deviation("g", "y", 1.0, 0.0, math.nan, math.nan).violations(tolerance)


def test_a_bound_in_steps_counts_the_error_itself_however_dark_the_picture() -> None:
    wide = Tolerance(cosine=0.0, snr_db=-1e9, max_abs=None, agreement=1.0, steps=2.0)
    dark = np.full((8, 8), 20.0, np.float32)
    assert deviation("pipeline", "answer", dark, dark + 2).violations(wide) == []
    assert deviation("pipeline", "answer", dark, dark + 3).violations(wide) == ["largest error 3 > 2 steps"]
