from __future__ import annotations

import pytest

from avsdk.errors import SilentFallback
from avsdk.precision import MIXED, PRECISIONS, TOLERANCES, Tolerance, check_executed, describe_shares


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        ("fp32", Tolerance(cosine=0.99999, snr_db=80, max_abs=1e-3, agreement=0.999)),
        ("bf16", Tolerance(cosine=0.999, snr_db=30, max_abs=None, agreement=0.99)),
        ("fp16", Tolerance(cosine=0.999, snr_db=30, max_abs=None, agreement=0.99)),
        ("fp16w", Tolerance(cosine=0.999, snr_db=30, max_abs=None, agreement=0.99)),
        ("int8", Tolerance(cosine=0.0, snr_db=15, max_abs=None, agreement=0.95)),
        ("fp11", Tolerance(cosine=0.0, snr_db=15, max_abs=None, agreement=0.95)),
    ],
)
def test_tolerances_are_those_of_the_design(precision: str, tolerance: Tolerance) -> None:
    assert TOLERANCES[precision] == tolerance


def test_every_precision_has_a_tolerance() -> None:
    assert set(TOLERANCES) == {*PRECISIONS, MIXED}


@pytest.mark.parametrize(
    ("shares", "weights", "text"),
    [
        ({"fp32": 1.0}, "", "fp32"),
        ({"fp32": 1.0}, "fp16", "fp32 (fp16 weights)"),
        ({"int8": 0.92, "fp32": 0.08}, "", "int8 (92 %) + fp32"),
        ({"fp32": 0.08, "int8": 0.92}, "", "int8 (92 %) + fp32"),
        ({"bf16": 0.997, "fp32": 0.003}, "", "bf16"),
        ({}, "", "unknown"),
    ],
)
def test_shares_are_described(shares: dict[str, float], weights: str, text: str) -> None:
    assert describe_shares(shares, weights=weights) == text


@pytest.mark.parametrize(
    ("asked", "shares", "fits"),
    [
        ("fp32", {"fp32": 1.0}, True),
        ("fp32", {"fp32": 0.99, "bf16": 0.01}, False),
        ("fp32", {"bf16": 1.0}, False),
        ("fp16w", {"fp32": 1.0}, True),
        ("fp16w", {"fp16": 1.0}, False),
        ("bf16", {"bf16": 0.97, "fp32": 0.03}, True),
        ("bf16", {"bf16": 0.4, "fp32": 0.6}, False),
        ("int8", {"int8": 0.9, "fp32": 0.1}, True),
        ("int8", {"fp32": 1.0}, False),
        ("fp16", {}, False),
    ],
)
def test_what_executed_must_be_what_was_asked_for(asked: str, shares: dict[str, float], fits: bool) -> None:
    if fits:
        check_executed(asked, shares, where="it")
        return
    with pytest.raises(SilentFallback, match=f"it was asked for {asked} and executed") as caught:
        check_executed(asked, shares, where="it")
    assert caught.value.exit_code == 4
    assert caught.value.expected
