"""The commands ``train``, ``evaluate`` and ``zoo``. Torch is imported inside them: ``avsdk --help`` must stay fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from avsdk.console import JsonOption, SetOption, next_step, print_json, settings_from, show
from avsdk_train import experiment_cli

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train models, evaluate them, and list those that come with avsdk.",
)
zoo_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The trained models that come with avsdk.")
app.add_typer(zoo_app, name="zoo")
app.registered_commands += experiment_cli.app.registered_commands

_INTERRUPTED = 130

DataOption = Annotated[
    list[Path] | None,
    typer.Option("--data", metavar="DIR", help="A folder of files; may be repeated.", show_default=False),
]


@app.command()
def train(
    family: Annotated[str, typer.Argument(help="The model system: style_transfer, ...")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder.", show_default=False)],
    data: DataOption = None,
    recipe: Annotated[str, typer.Option("--recipe", help="A TOML file, or small or paper.")] = "",
    variant: Annotated[str, typer.Option("--variant", help="A size or setting of the family.")] = "",
    settings: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model: checkpoints, previews and logs go to the run's folder."""
    from avsdk_train import commands

    act = commands.train_on if resume else commands.train_new
    answer = act(family, data or [], out, recipe, variant, settings or [])
    if answer["process"] > 0:  # one of several processes speaks
        raise typer.Exit(0 if answer["finished"] else _INTERRUPTED)
    lines = [f"{answer['step']} of {answer['steps']} steps, weights: {answer['weights']}"]
    if answer["pace"]:
        lines.append(
            "{samples_per_s:.3g} samples/s, {waiting_for_data:.0%} of the time waiting for data".format(
                **answer["pace"]
            )
        )
    if answer["preview"]:
        lines.append(f"preview: {answer['preview']}")
    _print(answer, lines, as_json)
    if answer["finished"]:
        next_step(f"avsdk export {out} --target openvino:cpu,onnxruntime:cpu")
    else:
        next_step(f"avsdk train {family} --out {out} --resume")
        raise typer.Exit(_INTERRUPTED)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A run's folder, a bundle, or zoo:NAME.")],
    data: DataOption = None,
    split: Annotated[str, typer.Option("--split", help="Only this part of the data.")] = "",
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model by its family's metrics, each with a 95 % interval."""
    from avsdk_train import commands

    answer = commands.evaluate(model, data or [], split, settings_from(settings))
    metrics = answer["metrics"]
    lines = [f"{answer['n']} items"]
    for key in (key for key in metrics if not key.endswith("_ci")):
        low, high = metrics.get(f"{key}_ci", [None, None])
        lines.append(f"{key:24} {metrics[key]:.4g}" + (f"  [{low:.4g}, {high:.4g}]" if low is not None else ""))
    _print(answer, lines, as_json)
    next_step(f"avsdk export {model} --target openvino:cpu")


@zoo_app.command("list")
def zoo_list(as_json: JsonOption = False) -> None:
    """List the models of the zoo."""
    from avsdk_train.zoo import list_zoo

    models = [model.to_json() for model in list_zoo()]
    lines = [f"zoo:{model['name']:32} {model['size_mb']:>6} MB  {model['summary']}" for model in models]
    _print({"models": models}, lines or ["the zoo is empty"], as_json)
    if models:
        next_step(f"avsdk export zoo:{models[0]['name']} --target openvino:cpu")


@zoo_app.command("publish", hidden=True)
def zoo_publish(
    run: Annotated[Path, typer.Argument(help="A run with weights.")],
    name: Annotated[str, typer.Argument(help="family/name, as style_transfer/wave.")],
    summary: Annotated[str, typer.Option("--summary", help="One line about the model.")],
    about_data: Annotated[str, typer.Option("--about-data", help="What it was trained on, with its licence.")],
    example: Annotated[Path, typer.Option("--example", help="A picture to show the model on.")],
    licence: Annotated[str, typer.Option("--licence", help="Licence of the weights.")] = "Apache-2.0",
    as_json: JsonOption = False,
) -> None:
    """Put a run into the zoo of this checkout: fp16 weights, hashes, card, curve, example."""
    from avsdk_train.zoo.publish import publish

    model = publish(run, name, summary=summary, about_data=about_data, example=example, licence=licence)
    _print(model.to_json(), [f"published zoo:{model.name} in {model.folder}"], as_json)
    next_step(f"avsdk export zoo:{model.name} --target openvino:cpu")


@zoo_app.command("measure", hidden=True)
def zoo_measure(
    name: Annotated[str, typer.Argument(help="zoo:family/name.")],
    about_data: Annotated[str, typer.Option("--about-data", help="What is measured on, with its licence.")],
    data: DataOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the model's metrics, beside what else could do the same, into its card."""
    from avsdk_train.zoo.measure import HEADING, measure

    model = measure(name, data or [], about_data=about_data, options=settings_from(settings))
    card = (model.folder / "card.md").read_text(encoding="utf-8")
    _print(model.to_json(), [HEADING + card.partition(HEADING)[2].partition("\n## ")[0].rstrip()], as_json)
    next_step(f"avsdk export zoo:{model.name} --target openvino:cpu")


def _print(answer: dict[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    for line in () if as_json else lines:
        show(line)
