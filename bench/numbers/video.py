"""Frames per second of a whole video run, over those of its session alone on the same frames: paired rounds."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
from figures import Figure, Section, verdict, written

from avsdk.bundle import open_bundle
from avsdk.media import VideoReader, video_writer
from avsdk.ops.video import frames_per_batch
from avsdk.predictor import Predictor, predictor_for
from avsdk.session import Array
from avsdk_bench.statistics import median_interval, paired_ratio

SIZES = ((256, 256), (288, 512))
FRAMES = 24
ROUNDS = 5
SHARE = 0.95
_STAGES = ("decode", "preprocess", "infer", "postprocess", "encode")


def measured(bundle: Path, work: Path, rounds: int = ROUNDS, frames: int = FRAMES) -> Section:
    """Both in one process, which holds one session with all threads; in each round both, in random order."""
    figures: list[Figure] = []
    with predictor_for(open_bundle(bundle)) as predictor:
        for height, width in SIZES:
            figures += _figures(predictor, _video(work / f"{width}x{height}.mp4", height, width, frames), work, rounds)
    return Section(
        "Video",
        f"{frames} frames; the session alone runs the same batches from memory, the whole run decodes, infers and "
        f"encodes a file. Medians of {rounds} rounds in one process, each with both in random order, after one round "
        "that is not counted; loading and the sound's copy are not part of it. Stage times overlap, so that they add "
        "up to more than what passed.",
        ("python bench/numbers/run_all.py --only pipeline",),
        tuple(figures),
    )


def _figures(predictor: Predictor, video: Path, work: Path, rounds: int) -> list[Figure]:
    batches = _batches(predictor, video)
    count = sum(len(batch) for batch in batches)
    rates: dict[str, list[float]] = {"session": [], "run": []}
    stages: dict[str, list[float]] = {name: [] for name in _STAGES}
    order = random.Random(0)
    for place in range(rounds + 1):
        for name in order.sample(list(rates), len(rates)):
            if name == "session":
                seconds = _alone(predictor, batches)
            else:
                result = predictor.run_file(video, work / "styled.mp4")
                seconds = float(result.extra["video"]["seconds"])
                for stage in _STAGES if place else ():
                    stages[stage].append(result.latency_ms[stage])
            if place:
                rates[name].append(count / seconds)
    paired = paired_ratio(rates["run"], rates["session"])
    ratio = paired.ratio if paired else None
    spent = ", ".join(f"{name} {np.median(found):.3g} ms" for name, found in stages.items())
    size = video.stem
    return [
        Figure(f"{size}: session alone", written(median_interval(rates["session"]), "frames/s")),
        Figure(f"{size}: whole run", written(median_interval(rates["run"]), "frames/s")),
        Figure(
            f"{size}: the run's share of the session's rate",
            written(ratio, ""),
            f"at least {SHARE:g}",
            verdict(ratio is not None and ratio.value >= SHARE),
        ),
        Figure(f"{size}: of the run, per frame", spent),
    ]


def _batches(predictor: Predictor, video: Path) -> list[Array]:
    """The video's frames as the graph takes them, in the batches of a run."""
    reader = VideoReader(video)
    count = frames_per_batch(reader.info()["height"], reader.info()["width"])
    batches = []
    while (frames := reader.read(count)) is not None:
        batches.append(np.ascontiguousarray(frames.transpose(0, 3, 1, 2), dtype=np.float32))
    reader.close()
    return batches


def _alone(predictor: Predictor, batches: list[Array]) -> float:
    (loaded,) = predictor.graphs.values()
    name = loaded.graph.inputs[0].name
    loaded.session_for(loaded.graph.sizes_of({name: batches[0].shape}))
    start = time.perf_counter()
    for batch in batches:
        loaded.run({name: batch})
    return time.perf_counter() - start


def _video(path: Path, height: int, width: int, frames: int) -> Path:
    """Smooth waves that move, so that every frame differs and the codec has work."""
    rows, columns = np.mgrid[0:height, 0:width]
    with video_writer(path, 25.0, height, width) as writer:
        for place in range(frames):
            planes = (rows + 2 * place, columns + 3 * place, rows + columns + 5 * place)
            waves = [127.5 + 127.5 * np.sin(plane / (9.0 + index)) for index, plane in enumerate(planes)]
            writer.write(np.stack(waves, axis=-1).astype(np.uint8)[None])
        writer.finish()
    return path
