"""The main job, from a photograph to measured bundles, by the commands that a user would type: demo.py FOLDER.

Every command is echoed before it runs, so that it can be copied; the answers are read from their ``--json`` form.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from photograph import copied_photograph

MODEL = "zoo:style_transfer/wave"
SIZE = "height=428,width=640"  # the photograph is 427x640, and the network pads to a multiple of 4
TARGETS = "onnxruntime,openvino,litert"
BUDGET_S = 60


def answer_of(*arguments: str | Path, may_fail: bool = False) -> dict[str, Any]:
    """Run one avsdk command and return its JSON document; stops the demo where the command fails and must not."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ avsdk {shlex.join(words)}", flush=True)
    command = [str(Path(sys.executable).parent / "avsdk"), *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode and not may_fail:
        sys.stdout.write(done.stdout)
        raise SystemExit(f"that command failed with exit code {done.returncode}")
    return dict(json.loads(done.stdout or "{}"))


def exported(answer: dict[str, Any]) -> list[Path]:
    """Print what an export says of its bundles, and return their folders."""
    for bundle in answer.get("bundles", ()):
        parity = bundle["parity"]
        snrs_db = [output["snr_db"] for output in parity["outputs"] if output["graph"] != "pipeline"]
        distance = f"{min(snrs_db):.0f} dB from PyTorch" if snrs_db else parity["reason"]
        print(
            f"  {bundle['path']}: effective {bundle['effective_precision']}, parity {parity['verdict']} ({distance}), "
            f"{bundle['seconds']:.1f} s"
        )
    for failure in answer.get("failed", ()):
        print(f"  {failure['target']}: {failure['reason']}")
    return [Path(bundle["path"]) for bundle in answer.get("bundles", ())]


def run(bundle: Path, photo: Path, out: Path) -> None:
    """Stylise the photograph with one bundle."""
    answer = answer_of("run", bundle, photo, "--out", out)
    spent = answer["latency_ms"]
    print(f"  {out}: " + ", ".join(f"{stage} {milliseconds:.0f} ms" for stage, milliseconds in spent.items()))


def measured(bundles: list[Path], folder: Path) -> None:
    """Bench the bundles against each other and print the table."""
    command: list[str | Path] = ["bench", *bundles, "--axis", SIZE, "--budget-s", str(BUDGET_S)]
    answer = answer_of(*command, "--out", folder / "bench.json", "--chart", folder / "chart.png")
    columns = (
        "engine",
        "graph",
        "effective_precision",
        "status",
        "steady",
        "p50_ms",
        "p50_ci_ms",
        "peak_rss_mb",
        "size_mb",
    )
    lines = [columns] + [tuple(shown(row.get(column)) for column in columns) for row in answer["rows"]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def shown(value: Any) -> str:
    """A cell of the table; nothing measured is a dash."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return " .. ".join(shown(item) for item in value)
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def main(folder: Path) -> None:
    """Photograph, exports, pictures, table, chart."""
    photo = copied_photograph(folder)
    print(f"{photo}: a photograph that scikit-learn ships")
    bundles = exported(answer_of("export", MODEL, "--target", TARGETS, "--axis", SIZE, "--out", folder / "bundles"))
    # Not every processor computes in bf16; where this one does not, the line that says so is the answer.
    bf16 = ("export", MODEL, "--target", "openvino", "--precision", "bf16", "--axis", SIZE, "--out", folder / "bundles")
    bundles += exported(answer_of(*bf16, may_fail=True))
    for bundle in bundles:
        run(bundle, photo, folder / f"{bundle.name}.png")
    measured(bundles, folder)
    print(f"\nThe pictures, bench.json and chart.png are in {folder}/")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
