"""Write the support table of README.md from what the doctor says: support_table.py [DOCUMENT.json ...].

Without documents it asks the doctor of this machine. With several, each the standard output of `avsdk doctor --json` on
some machine, every engine of every device gets the strongest grade that any of them gives.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- support table: made by tools/support_table.py -->", "<!-- end of the support table -->"
GRADES = ("hardware", "emulated", "build-only", "contract")


def support_table(documents: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown: a row per device, with each of its engines and that engine's grade."""
    strongest: dict[str, dict[str, str]] = {}
    described: dict[str, tuple[str, str]] = {}
    for row in (row for document in documents for row in document["targets"]):
        grades = strongest.setdefault(row["profile"], {})
        engine = row["engine"] or "withdrawn by its vendor"
        grades[engine] = min(grades.get(engine, GRADES[-1]), row["verified"], key=GRADES.index)
        described[row["profile"]] = (row["vendor"], row["description"])
    lines = [
        f"{_machines(documents)}",
        "",
        "| `--target` | what it is | engines, best first, and their grades |",
        "|---|---|---|",
    ]
    for name in sorted(described, key=lambda item: (described[item][0], item)):
        cells = ", ".join(f"{engine} `{grade}`" for engine, grade in strongest[name].items())
        lines.append(f"| `{name}` | {described[name][1]} | {cells} |")
    return "\n".join(lines)


def readme_with(text: str, table: str) -> str:
    """The page with the table between its two markers. Raises ``ValueError`` where they are not there once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        problem = f"README.md needs the line {BEGIN!r} and, after it, {END!r}, once each"
        raise ValueError(problem)
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def _machines(documents: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on where the doctor was asked."""
    places = []
    for document in documents:
        host = document["host"]
        parts = [host["cpu"], *(host["accelerators"] or ["no accelerator"])]
        toolchains = ", ".join(host["toolchains"]) or "none"
        places.append(f"{', '.join(parts)}; toolchains: {toolchains}")
    return f"The doctor was asked on {' and on '.join(places)}."


def doctor_here() -> dict[str, Any]:
    """What `avsdk doctor --json` prints on this machine."""
    command = [str(Path(sys.executable).parent / "avsdk"), "doctor", "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def main(files: Sequence[str]) -> None:
    documents = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files] or [doctor_here()]
    README.write_text(readme_with(README.read_text(encoding="utf-8"), support_table(documents)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
