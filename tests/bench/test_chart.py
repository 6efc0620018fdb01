from __future__ import annotations

from dataclasses import replace

import pytest

from avsdk_bench.chart import _labels, duration_text
from avsdk_bench.report import Row


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


def test_a_label_tells_engine_device_and_setting_and_what_was_not_measured() -> None:
    row = Row(
        "zoo:a/net", "net", "torch:cpu", "torch", "cpu", "fp32", 2, {}, 1.0, "measured", settings={"mode": "eager"}
    )
    elsewhere = replace(row, target="xeon", engine="openvino", device="this-cpu", settings={}, reason="another machine")
    first, second = (label.splitlines()[2] for label in _labels([row, elsewhere]))
    assert first == "torch:cpu eager"
    assert second == "openvino:this-cpu, not on xeon"
