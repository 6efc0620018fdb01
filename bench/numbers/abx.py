"""Our ABX errors beside those of fastabx, on the same features and item file.

    python bench/numbers/abx.py --data ../shared/data/librispeech --fastabx /path/to/python

fastabx 0.9 needs Python 3.12 and torch 2.10 or newer, so it lives in an environment of its own, whose Python is given:
``python3.12 -m venv ENV && ENV/bin/pip install fastabx torch==2.13.0``. The features are made here in numpy: the log
energies of 24 bands, 100 frames a second, and their loudest band as a code, 25 frames a second (many equal distances).
The figures are stored in tests/train/test_abx_oracle.py.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import typer
from numpy.typing import NDArray

from avsdk.console import show
from avsdk.sound import read_sound
from avsdk_train.metrics.abx import abx_score
from avsdk_train.metrics.items import read_items

Features = Mapping[str, NDArray[np.float32]]
BANDS, RATE_HZ = 24, 16_000

_THEIRS = """
import json, sys
from pathlib import Path
import numpy as np, torch
from fastabx import zerospeech_abx
folder, items, rate = sys.argv[1:]
def features(path):
    return torch.from_numpy(np.load(path))
modes = [("within", {}), ("across", {"max_x_across": None})]
print(json.dumps({mode: 100 * zerospeech_abx(
    items, folder, max_size_group=None, speaker=mode, frequency=int(rate), feature_maker=features,
    extension=".npy", device="cpu", progress=False, **more) for mode, more in modes}))
"""


def bands(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Log energies of bands of equal width, by recording: (frames, 24), windows of 25 ms every 10 ms."""
    window, found = np.hanning(400), {}
    for file in sorted(folder.rglob("*.flac")):
        sound = np.pad(read_sound(file, RATE_HZ).astype(np.float64), 200)
        frames = np.lib.stride_tricks.sliding_window_view(sound, 400)[::160]
        power = np.abs(np.fft.rfft(frames * window, 480)[:, 1:]) ** 2
        energies = np.log(power.reshape(len(power), BANDS, -1).sum(2) + 1e-6)
        found[file.stem] = (energies - energies.mean(0)).astype(np.float32)
    return found


def loudest(features: Features) -> dict[str, NDArray[np.float32]]:
    """The band that is loudest over four frames, as a one-hot row: (frames / 4, 24)."""
    found = {}
    for name, values in features.items():
        mean = np.add.reduceat(values, np.arange(0, len(values), 4))
        found[name] = np.eye(BANDS, dtype=np.float32)[mean.argmax(1)]
    return found


def main(
    data: Annotated[Path, typer.Option("--data", help="The folder with test-other and its item files.")],
    fastabx: Annotated[Path, typer.Option("--fastabx", help="The Python of an environment that has fastabx.")],
) -> None:
    """Print both errors, their difference in points, and both times."""
    continuous = bands(data / "test-other")
    for items in ("triphone", "phoneme"):
        path = data / f"test-other.{items}.item"
        for name, features, rate in (("bands", continuous, 100), ("codes", loudest(continuous), 25)):
            if (items, name) == ("phoneme", "codes"):
                continue  # fastabx refuses tokens shorter than a frame
            started = time.perf_counter()
            theirs = _fastabx(fastabx, path, features, rate)
            their_s, started = time.perf_counter() - started, time.perf_counter()
            for mode, error in theirs.items():
                speakers = cast(Literal["within", "across"], mode)
                ours = abx_score(read_items(path), features, rate, speakers, threads=2).error
                show(f"{items:9} {name:6} {mode:7} ours {ours:.4f} fastabx {error:.4f} apart {abs(ours - error):.6f}")
            show(f"{items:9} {name:6} both    ours {time.perf_counter() - started:.1f} s, fastabx {their_s:.1f} s")


def _fastabx(python: Path, items: Path, features: Features, rate: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        for name, values in features.items():
            np.save(Path(folder) / f"{name}.npy", values)
        command = [str(python), "-W", "ignore", "-c", _THEIRS, folder, str(items), str(rate)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    typer.run(main)
