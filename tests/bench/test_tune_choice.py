"""Who beats whom, who is best within limits, who is measured again: on rows that were made up."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from tests.bench.made_up import made_up_report, made_up_row

from avsdk.errors import NotMet, UsageError
from avsdk_bench.tune import FINALISTS, finalists
from avsdk_bench.tune_choice import Limits, Tuned, best, dominates, front
from avsdk_bench.tune_report import claim, rivals
from avsdk_bench.tune_space import Configuration


def tuned(
    p50_ms: float, *, snr_db: float | None = 100.0, size_mb: float = 6.0, memory_mb: float = 100.0,
    stage: Any = "screened",
    drop: float | None = None, seed: int = 0, **chosen: Any,
) -> Tuned:  # fmt: skip
    asked = Configuration(**{"target": "openvino", "precision": "fp32", "threads": 1, **chosen})
    row = made_up_row(p50_ms=p50_ms, seed=seed, size_mb=size_mb, peak_rss_mb=memory_mb)
    return Tuned(asked, stage, (row,), snr_db, drop)


def test_the_front_is_that_of_comparing_all_with_all() -> None:
    random = np.random.default_rng(4)
    items = [
        tuned(float(a), snr_db=20.0 + float(b), size_mb=float(c), memory_mb=float(d), threads=place + 1)
        for place, (a, b, c, d) in enumerate(random.integers(1, 6, (60, 4)))
    ]

    def beaten(item: Tuned) -> bool:
        mine = (item.latency_ms, -(item.snr_db or 0.0), item.size_mb or 0.0, item.memory_mb or 0.0)
        for other in items:
            its = (other.latency_ms, -(other.snr_db or 0.0), other.size_mb or 0.0, other.memory_mb or 0.0)
            if all(a <= b for a, b in zip(its, mine, strict=True)) and its != mine:
                return True
        return False

    # samples are drawn around p50_ms, so equal latencies are equal rows
    assert front(items) == [place for place, item in enumerate(items) if not beaten(item)]
    assert 0 < len(front(items)) < len(items)


def test_one_beats_another_only_where_it_is_nowhere_worse() -> None:
    assert dominates((1.0, 2.0), (1.0, 3.0))
    for first, second in itertools.permutations([(1.0, 3.0), (3.0, 1.0)]):
        assert not dominates(first, second)
    assert not dominates((1.0, 2.0), (1.0, 2.0))


def test_an_snr_beyond_what_fp32_reaches_is_no_merit() -> None:
    slower = tuned(12.0, snr_db=140.0, threads=2)
    assert front([tuned(10.0, snr_db=110.0), slower]) == [0]
    assert front([tuned(10.0, snr_db=40.0), slower]) == [0, 1]


def test_sizes_and_predictions_are_no_rivals_of_what_was_measured() -> None:
    items = [
        tuned(10.0, sizes={"height": 128, "width": 128}), tuned(40.0, sizes={"height": 256, "width": 256}),
        tuned(1.0, stage="predicted", target="rtx-4090", sizes={"height": 256, "width": 256}),
    ]  # fmt: skip
    assert front(items) == [0, 1, 2]
    batch = tuned(60.0, sizes={"height": 256, "width": 256, "batch": 2})
    assert front([items[1], batch]) == [0, 1]  # 30 ms each in a pair, 40 ms alone
    assert front([tuned(25.0, sizes={"height": 256, "width": 256}), batch]) == [0]


def test_what_was_screened_at_another_time_does_not_rank_beside_paired_rounds() -> None:
    items = [tuned(5.0), tuned(10.0, stage="final", threads=2), tuned(8.0, stage="final", threads=3, memory_mb=120.0)]
    assert front(items) == [1, 2]
    assert best(items, Limits()) == 2
    others = [*items, tuned(1.0, sizes={"height": 8}), tuned(1.0, stage="predicted", target="rtx-4090")]
    assert front(others) == [1, 2, 3, 4]


def test_the_best_is_the_fastest_within_the_limits() -> None:
    items = [tuned(10.0, snr_db=12.0), tuned(20.0, snr_db=25.0, size_mb=2.0), tuned(30.0), tuned(25.0, snr_db=90.0)]
    assert best(items, Limits()) == 0
    assert best(items, Limits(min_snr_db=20)) == 1
    assert best(items, Limits(min_snr_db=40)) == 3
    assert best(items, Limits(max_size_mb=3)) == 1
    dropped = [tuned(10.0, drop=0.02), tuned(11.0, drop=0.005)]
    assert best(dropped, Limits(max_drop=0.01)) == 1


def test_the_largest_input_that_meets_the_limits_is_preferred() -> None:
    items = [tuned(p50, sizes={"height": side, "width": side}) for p50, side in ((10.0, 128), (40.0, 256), (90.0, 384))]
    assert best(items, Limits(max_latency_ms=50)) == 1
    assert best(items, Limits()) == 2
    assert best(items, Limits(max_latency_ms=20)) == 0


def test_a_prediction_is_best_only_where_nothing_was_measured() -> None:
    predicted = tuned(1.0, stage="predicted")
    assert best([predicted, tuned(50.0)], Limits()) == 1
    assert best([predicted], Limits()) == 0


def test_where_nothing_meets_the_limits_the_nearest_is_named() -> None:
    items = [tuned(30.0, target="litert"), tuned(22.0, snr_db=24.0), tuned(200.0, snr_db=90.0)]
    with pytest.raises(NotMet, match=r"--max-latency-ms 20 --min-snr-db 25; the nearest is openvino fp32") as caught:
        best(items, Limits(max_latency_ms=20, min_snr_db=25))
    assert "latency 22" in caught.value.failed
    assert "SNR 24 dB < 25 dB" in caught.value.failed
    assert caught.value.exit_code == 4
    unknown = tuned(10.0, snr_db=None)
    assert Limits(min_snr_db=20).misses(unknown) == ("SNR unknown for 20 dB",)
    with pytest.raises(NotMet, match="could be measured"):
        best([Tuned(unknown.configuration, "rejected", reason="it broke")], Limits())


@pytest.mark.parametrize("limits", [{"max_latency_ms": 0.0}, {"max_size_mb": -1.0}, {"max_latency_ms": float("nan")}])
def test_a_limit_that_nothing_can_meet_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="--max-"):
        Limits(**limits)


def test_finalists_are_the_near_ones_and_the_front() -> None:
    near = [tuned(10.0 + 0.1 * place, threads=place + 1, memory_mb=100 + place) for place in range(FINALISTS + 4)]
    light = tuned(30.0, threads=30, memory_mb=50.0)
    wrong = tuned(5.0, threads=31, snr_db=3.0)
    beaten = tuned(40.0, threads=32, memory_mb=200.0)
    chosen = finalists([*near, light, wrong, beaten], Limits(min_snr_db=20))
    assert chosen == [*near[:FINALISTS], light]
    assert finalists([wrong], Limits(min_snr_db=20)) == [wrong]
    assert finalists([tuned(1.0, stage="predicted")], Limits()) == []


def test_the_claim_is_what_the_paired_rounds_show() -> None:
    items = [
        tuned(10.0, stage="final"), tuned(15.0, stage="final", threads=2), tuned(20.0, stage="final", threads=3),
        tuned(1.0, stage="screened", threads=4),
    ]  # fmt: skip
    compared = rivals(items, 0, made_up_report())
    assert [rival.place for rival in compared] == [1, 2]
    assert compared[0].ratio.ratio.value == pytest.approx(10 / 15, rel=0.01)
    assert claim(items, 0, compared).startswith("faster than openvino fp32 2 threads: 0.66")
    alike = [items[0], tuned(10.0, stage="final", threads=2, seed=3)]
    assert claim(alike, 0, rivals(alike, 0, made_up_report())) == "no difference shown to: openvino fp32 2 threads"
    assert "screened" in claim(items, 3, rivals(items, 3, made_up_report()))
    assert "predicted" in claim([tuned(1.0, stage="predicted")], 0, [])
