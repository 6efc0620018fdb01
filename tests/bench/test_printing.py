from __future__ import annotations

from dataclasses import replace

import pytest
from tests.bench.made_up import made_up_report, made_up_row

from avsdk_bench.printing import comparison_lines, narrow_lines


@pytest.mark.parametrize("width", [60, 80])
def test_no_word_is_broken_on_a_narrow_terminal(width: int) -> None:
    row = made_up_row("some/where/style_transfer-openvino_cpu-fp32", settings={"mode": "reduce-overhead"})
    lines = list(narrow_lines([row, replace(row, status="unavailable", p50_ms=None, p50_ci_ms=None)], width))
    assert max(map(len, lines)) <= width
    text = " ".join(lines).split()
    assert "style_transfer-openvino_cpu-fp32" in text
    assert any("SNR dB 101.5" in line for line in lines), "a name and its number stay on one line"
    assert "unavailable" in text


def test_what_was_compared_is_said_in_a_line_each() -> None:
    assert list(comparison_lines(made_up_report())) == [
        "wave · net · 16x20 · onnxruntime:cpu takes 1.200 x the time of wave · net · 16x20 · openvino:cpu "
        "[1.190, 1.210]: slower"
    ]
