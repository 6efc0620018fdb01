"""What an experiment writes: cells that survive a kill, pictures, ``results.json``, and ``report.md`` made from it."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import avsdk
from avsdk import host
from avsdk.console import notice
from avsdk.files import write_atomic
from avsdk.media import write_image
from avsdk.schema import SCHEMA, encode

CELLS, PICTURES, RESULTS, REPORT = "cells", "pictures", "results.json", "report.md"
_PACKAGES = ("torch", "numpy", "opencv-python-headless", "opencv-python")
Cell = dict[str, Any]


class Report:
    """The folder of one experiment, and the blocks of its page in order.

    ``cell`` computes a part once: with the same settings and input files, a later run reads it back.
    """

    def __init__(self, out: Path, *, name: str, summary: str, command: str, settings: Any, fingerprint: str) -> None:
        self.out = out
        self._fingerprint = fingerprint
        self._document: dict[str, Any] = {
            "schema": SCHEMA,
            "experiment": name,
            "summary": summary,
            "command": command,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine_facts(),
            "versions": versions(),
            "seeds": [seed] if (seed := getattr(settings, "seed", None)) is not None else [],
            "settings": encode(settings),
            "cells": {},
            "blocks": [],
        }
        write_atomic(out / CELLS / "experiment", name + "\n")

    def cell(self, key: str, compute: Callable[[], Mapping[str, Any]]) -> Cell:
        """The values of one part, JSON only: computed now, or read back where an earlier run got as far."""
        file = self.out / CELLS / f"{key}.json"
        found = _read_cell(file, self._fingerprint)
        if found is None:
            notice(f"{self._document['experiment']}: {key}")
            found = json.loads(json.dumps(encode(dict(compute()))))
            content = {"schema": SCHEMA, "fingerprint": self._fingerprint, "values": found}
            write_atomic(file, json.dumps(content, indent=1) + "\n")
        self._document["cells"][key] = found
        return found

    def draw(self, name: str, image: NDArray[np.uint8]) -> None:
        """Write a picture; a cell writes its own before it returns."""
        write_image(self.picture_file(name), image)

    def picture_file(self, name: str) -> Path:
        """Where the picture of that name lies."""
        return self.out / PICTURES / f"{name}.png"

    def text(self, text: str) -> None:
        """A paragraph."""
        self._document["blocks"].append({"kind": "text", "text": text})

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table; numbers get four digits, ``None`` a dash."""
        filled = [list(row) for row in rows]
        self._document["blocks"].append({"kind": "table", "title": title, "columns": list(columns), "rows": filled})

    def picture(self, name: str, caption: str) -> None:
        """A picture that was drawn."""
        self._document["blocks"].append({"kind": "picture", "name": name, "caption": caption})

    def write(self) -> dict[str, Any]:
        """Write ``results.json`` and ``report.md``; the first one's content, with where both lie."""
        write_atomic(self.out / RESULTS, json.dumps(self._document, indent=1) + "\n")
        page = markdown_from_results(self._document, lambda name: f"{PICTURES}/{name}.png", level=1)
        write_atomic(self.out / REPORT, page)
        return {**self._document, "results": str(self.out / RESULTS), "report": str(self.out / REPORT)}


def machine_facts() -> dict[str, Any]:
    """This machine, as far as a figure depends on it."""
    found = host.probe()
    return {
        "cpu": found.cpu,
        "cores": found.cores,
        "cgroup_cpus": found.cgroup_cpus,
        "threads": host.default_threads(),
        "memory_mb": found.memory_mb,
        "isa": list(found.isa),
        "accelerators": list(found.accelerators),
        "system": found.system,
        "load_average": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Of avsdk, Python and what computes."""
    found = {"avsdk": avsdk.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def markdown_from_results(document: Mapping[str, Any], picture: Callable[[str], str], *, level: int) -> str:
    """The report as Markdown; ``picture`` gives the link of a picture's name. Folders of files are left out."""
    machine = document["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    cores = f"{machine['cores']} processors (load {machine['load_average']}), {machine['memory_mb']} MB"
    lines = [
        f"{'#' * level} {document['experiment']}", "",
        document["summary"], "",
        "```sh", without_folders(document["command"]), "```", "",
        f"{document['date']}; {machine['cpu']}, {cores}, {machine['system']}; {packages}.", "",
    ]  # fmt: skip
    for block in document["blocks"]:
        if block["kind"] == "text":
            lines += [block["text"], ""]
        elif block["kind"] == "picture":
            lines += [f"![{block['caption']}]({picture(block['name'])})", "", f"*{block['caption']}*", ""]
        else:
            lines += [f"**{block['title']}**", "", _row(block["columns"]), "|" + "---|" * len(block["columns"])]
            lines += [*(_row(row) for row in block["rows"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def without_folders(command: str) -> str:
    """The command with file names where it has paths, so that a page does not tell of its writer's folders."""
    return re.sub(r"(?<![\w:.-])[\w.~-]*/[^\s,=]*", lambda found: found[0].rstrip("/").rpartition("/")[2], command)


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(_cell_text(cell) for cell in cells) + " |"


def _cell_text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|")


def _read_cell(file: Path, fingerprint: str) -> Cell | None:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("fingerprint") != fingerprint:
        return None
    values = document.get("values")
    return values if isinstance(values, dict) else None
