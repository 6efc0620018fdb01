"""The pages say what is so: every command and option in them exists, and every link leads to a file."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GROUPS = {"toolchain", "bundle", "zoo"}


def commands_of(text: str) -> set[str]:
    """The avsdk command lines of a page: in code blocks from the line's start, and between backticks."""
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    inline = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^avsdk [^\n]+", blocks, re.MULTILINE) + re.findall(r"`(avsdk [^`\n]+)`", inline)
    return {line.partition("#")[0].strip() for line in lines}


COMMANDS = sorted({(page.name, line) for page in PAGES for line in commands_of(page.read_text(encoding="utf-8"))})


@cache
def help_of(*words: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "avsdk"), *words, "--help"],
        capture_output=True, text=True, check=False, timeout=60, env={"COLUMNS": "300", "NO_COLOR": "1", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, f"avsdk {' '.join(words)} --help: {done.stderr[-500:]}"
    return done.stdout


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_in_the_pages_exists(page: str, line: str) -> None:
    words = shlex.split(line)[1:]
    if "--" in words:  # what follows is another program's, as in: avsdk toolchain run xla -- avsdk train ...
        words = words[: words.index("--")]
    if words[0].startswith("--"):
        assert words[0] in help_of()
        return
    names = words[:2] if words[0] in GROUPS and len(words) > 1 and re.fullmatch(r"[a-z]+", words[1]) else words[:1]
    described = help_of(*names)
    for option in (word.partition("=")[0] for word in words if word.startswith("--") and word != "--"):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", described), f"{page}: `avsdk {names[0]}` has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_opens_with_the_two_commands() -> None:
    first_block = (ROOT / "README.md").read_text(encoding="utf-8").split("```")[1]
    assert re.findall(r"^make \w+", first_block, re.MULTILINE) == ["make demo", "make test"]


def test_every_make_target_in_the_pages_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"[`\n]make ([a-z-]+)", page.read_text(encoding="utf-8"))}
    assert named <= targets


def test_every_extra_in_the_readme_is_declared() -> None:
    declared = re.findall(r"^([a-z-]+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    rows = re.findall(
        r"^\| (`[^|]+) \|", (ROOT / "README.md").read_text(encoding="utf-8").split("| extra |")[1], re.MULTILINE
    )
    assert {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)} == set(declared) & set(
        """onnxruntime onnxruntime-gpu onnxruntime-rtx openvino litert tflite-runtime tensorrt tensorrt-rtx tpu media
        video text search train mlflow export quantise bench ray dev""".split()
    )
