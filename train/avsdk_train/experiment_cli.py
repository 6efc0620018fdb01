"""The commands ``stylise``, ``experiment`` and ``sheet``; ``cli`` takes them in. Torch is imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from avsdk.console import JsonOption, SetOption, next_step, notice, print_json, show

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


def _print(answer: dict[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    for line in () if as_json else lines:
        show(line)
