"""The commands ``stylise``, ``experiment`` and ``sheet``; ``cli`` takes them in. Torch is imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from avsdk.console import JsonOption, SetOption, next_step, notice, print_json, show
from avsdk.errors import UsageError

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_INTERRUPTED = 130


@app.command()
def stylise(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="The photograph.", show_default=False)],
    style: Annotated[Path, typer.Option("--style", metavar="PAINTING", help="The painting.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="PICTURE", help="The picture.", show_default=False)],
    features: Annotated[
        str, typer.Option("--features", metavar="FILE", help="VGG or AlexNet weights (safetensors).")
    ] = "",
    recipe: Annotated[str, typer.Option("--recipe", metavar="FILE", help="A TOML file of settings.")] = "",
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Paint one photograph by optimising the picture itself (version 1, Gatys et al. 2016).

    Settings: sizes=256,512 calls=500,200 init=content|noise|style optimiser=lbfgs|adam|sgd loss=mse|l1|smooth_l1|huber
    scale=channels|paper|notebook|mean style_weight content_weight total_variation_weight pooling=average|max seed ...
    Ctrl-C keeps the best picture so far.
    """
    from avsdk_train.families.style_transfer.stylise import stylise as stylised

    answer = stylised(photo, style, features, out, recipe, settings or [])
    for text in answer["notices"]:
        notice(text)
    best, size = answer["best"], f"{answer['width']} x {answer['height']}"
    lines = [
        f"{answer['output']}: {size}, {answer['calls']} calls, {answer['seconds']:.0f} s",
        f"loss {best['loss']:.4g}, content {best['content']:.4g}, style {best['style']:.4g} (call {best['call']})",
        f"curve: {answer['curve']}",
    ]
    _print(answer, lines, as_json)
    next_step(f"avsdk train style_transfer --data PHOTOS --out runs/mine --set style={style} --set features={features}")
    if not answer["finished"]:
        raise typer.Exit(_INTERRUPTED)


@app.command()
def experiment(
    name: Annotated[
        str, typer.Argument(metavar="FAMILY.NAME", help="As style_transfer.speed; without it, a list.")
    ] = "list",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The folder of results.", show_default=False)
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="Smaller sizes and fewer steps, for a laptop.")] = False,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Repeat an experiment of a family's paper: results.json, report.md and pictures; a second run goes on."""
    from avsdk_train.experiments import list_experiments, load_experiment, run_experiment

    if name == "list":
        rows = [{"name": full, "summary": item.summary} for full, item in list_experiments().items()]
        lines = [f"{row['name']:32} {row['summary']}" for row in rows]
        _print({"experiments": rows}, lines, as_json)
        if rows:
            next_step(f"avsdk experiment {rows[0]['name']} --small --out results")
        return
    load_experiment(name)
    if out is None:
        raise UsageError(f"{name} got no --out", expected="--out DIR, a folder for its results")
    answer = run_experiment(name, out, small=small, overrides=settings or [])
    _print(answer, [Path(answer["report"]).read_text(encoding="utf-8").rstrip()], as_json)
    next_step("avsdk experiment list")


@app.command()
def sheet(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A training run's folder.", show_default=False)],
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photograph.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="PICTURE", help="The sheet.", show_default=False)],
    size_px: Annotated[int, typer.Option("--size", min=64, max=4096, help="The photograph's shorter side.")] = 256,
    columns: Annotated[int, typer.Option("--columns", min=1, max=16, help="Pictures in a row.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Lay out one photograph through every checkpoint of a run, labelled, to choose one."""
    from avsdk_train.families.style_transfer.experiments.checkpoints import write_sheet

    answer = write_sheet(run, photo, out, size_px, columns)
    _print(answer, [f"{answer['output']}: {', '.join(answer['checkpoints'])}"], as_json)
    next_step(f"avsdk export {run} --target openvino:cpu")


def _print(answer: dict[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    for line in () if as_json else lines:
        show(line)
