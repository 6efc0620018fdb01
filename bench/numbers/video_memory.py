"""The peak memory of ``avsdk run`` on a video of 10 s and on one of 100 s: it must not grow with the length."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
from figures import Figure, Section, avsdk_command, run_timed, verdict, written

from avsdk.media import video_writer
from avsdk_bench.statistics import median_interval

HEIGHT, WIDTH, FPS = 96, 128, 10.0
SHORT_S, LONG_S = 10, 100
REPEATS = 3
GROWTH = 0.05


def measured(bundle: Path, work: Path) -> Section:
    """Run both videos alternately and compare the peaks."""
    videos = {seconds: _video(work / f"moving-{seconds}s.mp4", seconds) for seconds in (SHORT_S, LONG_S)}
    peaks: dict[int, list[float]] = {seconds: [] for seconds in videos}
    for _ in range(REPEATS):
        for seconds, video in videos.items():
            command = [*avsdk_command(), "run", str(bundle), str(video), "--out", str(work / f"styled-{seconds}s.mp4")]
            peaks[seconds].append(run_timed(command, work / "video.log").peak_rss_mb)
    short, long = median_interval(peaks[SHORT_S]), median_interval(peaks[LONG_S])
    growth = float(np.median(peaks[LONG_S]) / np.median(peaks[SHORT_S]) - 1.0)
    return Section(
        "Memory of a video",
        f"Peak RSS of the largest process of a run, {WIDTH}x{HEIGHT} at {FPS:.0f} frames/s; medians of {REPEATS} runs.",
        tuple(
            shlex.join(["avsdk", "run", bundle.name, video.name, "--out", "styled.mp4"]) for video in videos.values()
        ),
        (
            Figure(f"{SHORT_S} s", written(short, "MB")),
            Figure(f"{LONG_S} s", written(long, "MB")),
            Figure("growth", f"{100 * growth:+.1f} %", f"at most +{100 * GROWTH:.0f} %", verdict(growth <= GROWTH)),
        ),
    )


def _video(path: Path, seconds: int) -> Path:
    """A gradient that moves, so that every frame differs."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    with video_writer(path, FPS, HEIGHT, WIDTH) as writer:
        for place in range(int(seconds * FPS)):
            planes = (rows + 2 * place, columns + 3 * place, rows + columns + 5 * place)
            writer.write(np.stack([plane % 256 for plane in planes], axis=-1).astype(np.uint8)[None])
        writer.finish()
    return path
