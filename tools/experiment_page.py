"""Write docs/experiments/FAMILY.md from the folders that `avsdk experiment` left, with small JPEGs of the pictures.

python tools/experiment_page.py results/speed results/losses ... --out docs/experiments/style_transfer.md
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import cv2

from avsdk.errors import AvsdkError, UsageError
from avsdk.files import write_atomic
from avsdk.media import read_image, resized
from avsdk_train.experiment_report import PICTURES, RESULTS, markdown_from_results
from avsdk_train.experiments import list_experiments, load_experiment

MAX_BYTES = 60_000
MAX_WIDTH_PX = 1000
HEAD = """\
# Experiments: {family}

Each section is what one command wrote on the machine that it names, with that machine's load average when it began.
`avsdk experiment list` shows them all, `--small` makes any of them fit a laptop, and a command that was stopped goes on
where it was. `python tools/experiment_page.py` puts such results on this page.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="--out folders of avsdk experiment")
    parser.add_argument("--out", type=Path, required=True, help="the page")
    given = parser.parse_args()
    try:
        write_page(given.folders, given.out)
    except AvsdkError as error:
        sys.exit(f"error: {error}")


def write_page(folders: list[Path], page: Path) -> None:
    """Replace the sections of these experiments, in the order in which their family declares them, and keep the others.

    The pictures go into a folder of the page's name.
    """
    sections = sections_of(page)
    family = ""
    for folder in folders:
        document = read_results(folder)
        name = document["experiment"]
        family, _, short = name.partition(".")
        for block in document["blocks"]:
            if block["kind"] == "picture":
                source = folder / PICTURES / f"{block['name']}.png"
                write_atomic(page.with_suffix("") / f"{short}-{block['name']}.jpg", small_jpeg(source))
        link = f"{page.stem}/{short}-{{}}.jpg"
        sections[name] = markdown_from_results(document, link.format, level=2)
    ordered = [sections[name] for name in list_experiments() if name in sections]
    write_atomic(page, "\n".join([HEAD.format(family=family), *ordered]))


def sections_of(page: Path) -> dict[str, str]:
    """What stands on the page already, by the experiment's name."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    parts = re.split(r"^## (\S+)\n", text, flags=re.MULTILINE)
    return {name: f"## {name}\n{body.rstrip()}\n" for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def read_results(folder: Path) -> dict[str, Any]:
    """What an experiment left, whole."""
    file = folder / RESULTS
    if not file.is_file():
        raise UsageError(f"{folder} has no {RESULTS}", expected="the --out of a finished avsdk experiment")
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    load_experiment(document["experiment"])
    return document


def small_jpeg(source: Path) -> bytes:
    """The picture as a JPEG of at most MAX_BYTES: narrower first, then coarser."""
    image = read_image(source)
    width = min(image.shape[1], MAX_WIDTH_PX)
    while True:
        sized = resized(image, max(1, round(image.shape[0] * width / image.shape[1])), width)
        for quality in (90, 80, 70):
            _, data = cv2.imencode(".jpg", cv2.cvtColor(sized, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
            if len(data) <= MAX_BYTES:
                return data.tobytes()
        width = width * 9 // 10


if __name__ == "__main__":
    main()
