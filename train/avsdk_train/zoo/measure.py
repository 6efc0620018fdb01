"""The section "Measured" of a zoo model's card: its family's metrics, beside what else could do the same."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from avsdk.files import atomic_folder, sha256_file, write_atomic
from avsdk.schema import SCHEMA, encode
from avsdk_train.family import Scores
from avsdk_train.run import RECIPE
from avsdk_train.trained import recipe_from_file, trained_from_zoo
from avsdk_train.zoo import ENTRY, ZooModel, load_zoo

HEADING = "## Measured"
CARD = "card.md"


def measure(model: str, folders: Sequence[Path], *, about_data: str, options: Mapping[str, str]) -> ZooModel:
    """Score a zoo model and its family's ``comparisons`` on the items beneath the folders, and write it into the card.

    An older section "Measured" is replaced; the rest of the card stays. ``about_data`` says what was measured on.
    """
    entry = load_zoo(model)
    trained = trained_from_zoo(model)
    family, recipe = recipe_from_file(entry.folder / RECIPE)
    subjects = {"this model": family.apply(trained.network), **family.comparisons(recipe, trained.assets, options)}
    found = {name: family.score(apply, folders, trained.assets, options) for name, apply in subjects.items()}
    card = _with_section((entry.folder / CARD).read_text(encoding="utf-8"), section(found, about_data))
    with atomic_folder(entry.folder) as new:
        for name in entry.content.files:
            shutil.copyfile(entry.folder / name, new / name)
        write_atomic(new / CARD, card)
        files = {name: sha256_file(new / name) for name in entry.content.files}
        content = dataclasses.replace(entry.content, files=files)
        write_atomic(new / ENTRY, json.dumps({"schema": SCHEMA, **encode(content)}, indent=1) + "\n")
    return load_zoo(model)


def section(found: Mapping[str, Scores], about_data: str) -> str:
    """The section in Markdown: a row for each subject, a column for each metric, with 95 % intervals."""
    keys = [key for key in next(iter(found.values())).metrics if not key.endswith("_ci")]
    rows = [f"| {name} | {' | '.join(_cell(scores, key) for key in keys)} |" for name, scores in found.items()]
    count = next(iter(found.values())).n
    return "\n".join([
        HEADING, "", f"Means over {count} items: {about_data} In brackets 95 % intervals of the mean.", "",
        f"| | {' | '.join(key.replace('_', ' ') for key in keys)} |", f"|---|{'---|' * len(keys)}", *rows, "",
    ])  # fmt: skip


def _cell(scores: Scores, key: str) -> str:
    low, high = scores.metrics.get(f"{key}_ci", [None, None])
    return f"{scores.metrics[key]:.4g}" + ("" if low is None else f" [{low:.4g}, {high:.4g}]")


def _with_section(card: str, text: str) -> str:
    """The card with the section in place of an older one, else before "Training"."""
    before, _, rest = card.partition(HEADING)
    if rest:
        _, heading, after = rest.partition("\n## ")
        return before + text + (heading + after if heading else "")
    before, heading, after = card.partition("## Training")
    return before + text + "\n" + heading + after
