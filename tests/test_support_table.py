"""The support table of the README is what the doctor said, written by tools/support_table.py and by nobody else."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from avsdk_targets.device import list_devices
from avsdk_targets.doctor import GRADES

ROOT = Path(__file__).resolve().parent.parent


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("support_table", ROOT / "tools" / "support_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _tool()


def said(profile: str, engine: str, verified: str, vendor: str = "Acme") -> dict[str, str]:
    return {
        "profile": profile, "engine": engine, "verified": verified, "vendor": vendor, "description": f"the {profile}",
    }  # fmt: skip


def document(*rows: dict[str, str], accelerators: tuple[str, ...] = (), toolchains: tuple[str, ...] = ()) -> Any:
    host = {"cpu": "Acme 1", "accelerators": list(accelerators), "toolchains": list(toolchains)}
    return {"targets": list(rows), "host": host}


def test_a_row_per_device_with_its_engines_in_order_and_their_grades() -> None:
    found = document(
        said("b", "second", "emulated"), said("b", "first", "contract"), said("a", "", "contract"),
        said("z", "only", "hardware", vendor=""), toolchains=("one", "two"),
    )  # fmt: skip
    assert tool.support_table([found]) == "\n".join(
        [
            "The doctor was asked on Acme 1, no accelerator; toolchains: one, two.",
            "",
            "| `--target` | what it is | engines, best first, and their grades |",
            "|---|---|---|",
            "| `z` | the z | only `hardware` |",
            "| `a` | the a | withdrawn by its vendor `contract` |",
            "| `b` | the b | second `emulated`, first `contract` |",
        ]
    )


def test_of_several_machines_the_strongest_grade_counts() -> None:
    here = document(said("a", "x", "contract"), said("a", "y", "hardware"))
    there = document(said("a", "x", "hardware"), said("a", "y", "build-only"), accelerators=("a GPU",))
    table = tool.support_table([here, there])
    assert "| x `hardware`, y `hardware` |" in table
    assert "asked on Acme 1, no accelerator; toolchains: none and on Acme 1, a GPU; toolchains: none." in table


def test_only_what_lies_between_the_markers_changes() -> None:
    page = f"before\n{tool.BEGIN}\nold\n{tool.END}\nafter\n"
    assert tool.readme_with(page, "new") == f"before\n{tool.BEGIN}\nnew\n{tool.END}\nafter\n"


@pytest.mark.parametrize("page", ["", tool.BEGIN, f"{tool.END}\n{tool.BEGIN}", f"{tool.BEGIN}{tool.BEGIN}{tool.END}"])
def test_a_page_without_its_markers_is_not_written(page: str) -> None:
    with pytest.raises(ValueError, match="README.md needs the line"):
        tool.readme_with(page, "new")


def test_documents_are_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, file = tmp_path / "README.md", tmp_path / "doctor.json"
    page.write_text(f"{tool.BEGIN}\n{tool.END}\n")
    file.write_text(json.dumps(document(said("a", "x", "hardware"))))
    monkeypatch.setattr(tool, "README", page)
    tool.main([str(file)])
    assert "| `a` | the a | x `hardware` |" in page.read_text()


def test_the_readme_has_every_device_of_the_catalogue_and_no_other_grade() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split(tool.BEGIN)[1].split(tool.END)[0]
    rows = dict(re.findall(r"^\| `([^`]+)` \|[^|]+\| ([^|]+) \|$", table, re.MULTILINE))
    assert set(rows) >= {device.name for device in list_devices()}
    assert {grade for cell in rows.values() for grade in re.findall(r"`([^`]+)`", cell)} <= set(GRADES)
    for device in list_devices():
        named = re.findall(r"(\w+) `", rows[device.name])
        assert named == (list(device.engines) or ["vendor"]), "run make support-table"


def test_the_tool_knows_the_doctors_grades() -> None:
    assert tuple(GRADES) == tool.GRADES
