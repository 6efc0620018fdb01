"""The features of ten seconds of speech beside librosa at equal settings, in one thread and one process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
from figures import Figure, Section, verdict, written

from avsdk.ops.spectrum import Frames, rfft_rows
from avsdk.ops.speech import MelBands, mfcc, with_deltas
from avsdk_bench.statistics import median_interval

RATE_HZ, SECONDS = 16_000, 10
ROUNDS = 41
REPEATS = 5
FASTER = 1.5


def measured() -> Section:
    """Rounds of random order; in each the best of some repeats counts, and ratios are paired within the round."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        times = _timed(_candidates())
    features, transform = (
        median_interval([theirs / ours for ours, theirs in zip(times[ours], times[theirs], strict=True)])
        for ours, theirs in (("avsdk", "librosa"), ("pairs", "numpy"))
    )
    assert features is not None
    assert transform is not None
    ratio = written(features, "times as fast")
    return Section(
        "Features of speech",
        f"39 MFCC of {SECONDS} s at {RATE_HZ} Hz (25 ms, 10 ms, 40 bands), one thread; medians of {ROUNDS} interleaved "
        f"rounds, each the best of {REPEATS}, with 95 % intervals of the paired ratio.",
        ("python bench/numbers/run_all.py --only features",),
        (
            *(Figure(f"{name}, median", f"{1000 * np.median(times[name]):.2f} ms") for name in ("avsdk", "librosa")),
            Figure("avsdk beside librosa", ratio, f"at least {FASTER:g} times", verdict(features.value >= FASTER)),
            Figure("real transforms in pairs beside numpy.fft.rfft", written(transform, "times as fast")),
        ),
    )


def _candidates() -> dict[str, Callable[[], object]]:
    import librosa

    sound = np.random.default_rng(0).standard_normal(RATE_HZ * SECONDS).astype(np.float32) / 10
    mel = MelBands(RATE_HZ, Frames(400, 400, 160), bands=40)
    rows = np.lib.stride_tricks.sliding_window_view(sound, 400)[::160].copy()

    def theirs() -> object:
        cepstra = librosa.feature.mfcc(
            y=sound, sr=RATE_HZ, n_mfcc=13, n_fft=400, hop_length=160, n_mels=40, pad_mode="constant"
        )
        return np.concatenate([cepstra, librosa.feature.delta(cepstra), librosa.feature.delta(cepstra, order=2)])

    return {
        "avsdk": lambda: with_deltas(mfcc(sound, mel, top_db=80)),
        "librosa": theirs,
        "pairs": lambda: [rfft_rows(rows[start : start + 256]) for start in range(0, len(rows), 256)],
        "numpy": lambda: np.fft.rfft(rows),
    }


def _timed(candidates: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for place in range(ROUNDS + 1):
        for name in order.sample(list(candidates), len(candidates)):
            best = min(_seconds(candidates[name]) for _ in range(REPEATS))
            if place:  # the first round fills caches and compiles what librosa compiles
                times[name].append(best)
    return times


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
