from __future__ import annotations

import pytest

from avsdk_bench.chart import duration_text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0.0127, "0.013 ms"), (0.99949, "0.999 ms"), (0.99999, "1.00 ms"), (9.99, "9.99 ms"), (9.999, "10.0 ms"),
        (56.78, "56.8 ms"), (99.97, "100 ms"), (999.4, "999 ms"), (999.9, "1.00 s"), (1360.0, "1.36 s"),
        (23_456.0, "23.5 s"), (136_000.0, "136 s"),
    ],
)  # fmt: skip
def test_a_duration_has_three_digits_and_no_exponent(milliseconds: float, text: str) -> None:
    assert duration_text(milliseconds) == text
