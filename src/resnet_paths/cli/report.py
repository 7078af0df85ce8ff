"""``resnet-paths report``: every analysis on one model, as one HTML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import resnet_paths as rp

from ..choices import MetricName
from ..durations import in_seconds
from ..tables import json_text
from ..text_tables import show, table
from ._app import command
from ._inputs import console, model_and_source, unrolled
from .names import STAGES
from .options import BatchSize, Json, Limit, Place, Seed, Subject, path_option


def _budget(text: str) -> str:
    """A budget in the form that the report takes; anything else is refused here."""
    if text not in _BUDGETS:
        try:
            in_seconds(text)
        except ValueError as reason:
            raise typer.BadParameter(f"{reason}; or quick (3min) or full (30min)") from None
    return text


def _budgets(incomplete: str) -> list[tuple[str, str]]:
    return [(word, about) for word, about in _BUDGETS.items() if word.startswith(incomplete)]


def _stages(incomplete: str) -> list[tuple[str, str]]:
    return [(name, title) for name, title in STAGES.items() if name.startswith(incomplete)]


_BUDGETS = {"quick": "at most 3 minutes", "full": "at most 30 minutes"}


# A command has a parameter for each of its options, whatever their number.
@command(
    "resnet-paths report",
    "resnet-paths report --model cifar-resnet56@weights.safetensors --data images.npz --budget 30min",
    "resnet-paths report --model mine.py:model --data mine.py:texts --metric perplexity --rise 0.5",
    "resnet-paths report --only explorer --only frontier --json",
    note="Exit codes: 0 all stages done, 1 a stage failed (the page shows its error), 2 invalid use.",
)
def report(
    subject: Subject,
    budget: Annotated[
        str,
        typer.Option(
            help="Time for the whole report: quick (3min), full (30min), or a duration such as 90s, 10min, 1h. Numbers "
            "of images and draws are chosen to fit it; the page names what was reduced.",
            parser=_budget,
            metavar="<time>",
            autocompletion=_budgets,
        ),
    ] = "quick",
    skip: Annotated[
        list[str] | None,
        typer.Option(help=f"Skip this stage; repeat for more. Stages: {', '.join(STAGES)}.", autocompletion=_stages),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run this stage and no other; repeat for more.", autocompletion=_stages),
    ] = None,
    metric: Annotated[
        MetricName | None,
        typer.Option(
            help="What is measured (default: error for one class each, otherwise what fits the targets, such as "
            "next_token_loss, pixel_loss or squared_error)."
        ),
    ] = None,
    accuracy_drop: Annotated[
        float,
        typer.Option(
            help="Recommend blocks to drop only if, with 95 % confidence, accuracy falls by at most this much (or "
            "another metric of at most 1 rises).",
            min=0,
            max=1,
        ),
    ] = 0.02,
    rise: Annotated[
        float | None,
        typer.Option(
            help="The same for any --metric: its allowed rise, such as 0.5 of perplexity (default: --accuracy-drop for "
            "metrics of at most 1, otherwise 5 % of the full network's value).",
            min=0,
        ),
    ] = None,
    limit: Limit = None,
    batch_size: BatchSize = 500,
    memory: Annotated[
        float,
        typer.Option(
            help="Limit, in GB, on the memory of computations in addition to the model and the images.", min=0.01
        ),
    ] = 2.0,
    seed: Seed = 0,
    out: Annotated[Path, path_option("--out", "-o", help="The HTML file to write."), Place(folder=False)] = Path(
        "report.html"
    ),
    journal: Annotated[
        Path | None,
        path_option("--journal", help="File that stores finished stages (default: beside --out)."),
        Place(folder=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run every analysis on a model and write one self-contained HTML file.

    Run it again to resume after an interruption: finished stages are kept. With no options it reports on the embedded
    ResNet-56 (27 blocks, trained on UCI digits), offline.
    """
    network, source = model_and_source(subject)
    data = source.examples(network, limit=limit)
    unrolled(network, data)
    result = rp.report.write_report(
        network,
        data,
        out,
        metric=metric,
        training=source.training(network),
        budget=budget,
        skip=_skipped(skip or [], only or []),
        accuracy_drop=accuracy_drop,
        rise=rise,
        seed=seed,
        batch_size=batch_size,
        memory=memory,
        expressions=rp.report.Expressions(
            model=f"load_model({json.dumps(subject.model)})",
            data=source.code(data, limit),
            training=source.code(data, None, "train"),
        ),
        journal=journal,
    )
    if as_json:
        typer.echo(json_text(_as_json(result)))
    else:
        _show(result)
    if result.failed:
        raise typer.Exit(1)


def _skipped(skip: list[str], only: list[str]) -> list[str]:
    """The stages to skip. Names that are not stages are passed on, for the report to refuse."""
    if not only:
        return skip
    unknown = [name for name in only if name not in STAGES]
    return [*unknown, *skip, *(name for name in STAGES if name not in only)]


def _as_json(result: rp.report.Report) -> dict[str, object]:
    from ..report.page import everything

    return {"report": str(result.path), "journal": str(result.journal), **everything(result)}


def _show(result: rp.report.Report) -> None:
    screen = console()
    rows = table("Stages", ["stage", "status"], ["seconds"])
    for outcome in result.outcomes:
        status = outcome.status if not outcome.reason else f"{outcome.status}: {outcome.reason}"
        rows.add_row(outcome.stage.name, status, f"{outcome.seconds:.1f}")
    show(screen, rows)
    for text in result.findings:
        screen.print(f"- {text}", highlight=False, markup=False)
    for text in result.warnings:
        screen.print(f"warning: {text}", highlight=False, markup=False, style="yellow")
    screen.print(f"Written: {result.path}", soft_wrap=True)
