"""``resnet-paths reproduce``: test the claims of a paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..tables import json_text
from ..text_tables import FittingTable, show, table
from ._app import command
from ._inputs import console, model_and_source, unrolled
from .names import CLAIMS, PAPERS
from .options import Json, Limit, Seed, Subject

if TYPE_CHECKING:
    from ..report.claims import Claim, Reproduction


def _papers(incomplete: str) -> list[tuple[str, str]]:
    return [(name, citation) for name, citation in PAPERS.items() if name.startswith(incomplete)]


def _claims(context: typer.Context, incomplete: str) -> list[str]:
    paper = context.params.get("paper")
    papers = [CLAIMS[paper]] if paper in CLAIMS else CLAIMS.values()
    return [name for names in papers for name in names if name.startswith(incomplete)]


@command(
    "resnet-paths reproduce veit2016",
    "resnet-paths reproduce veit2016 --claim single-deletion --model cifar-resnet56@weights.safetensors "
    "--data images.npz",
    "resnet-paths reproduce he2015 --json",
    note="Exit codes: 0 all claims measured (whatever the verdicts), 1 a measurement failed, 2 invalid use.",
)
def reproduce(
    paper: Annotated[str, typer.Argument(help=f"{', '.join(PAPERS)}.", autocompletion=_papers)],
    subject: Subject,
    claim: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure only this claim; repeat for more (default: all). Claims: "
            + "; ".join(f"{paper}: {', '.join(names)}" for paper, names in CLAIMS.items())
            + ".",
            autocompletion=_claims,
        ),
    ] = None,
    limit: Limit = None,
    seed: Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of training runs per small network that is compared.")
    ] = 3,
    as_json: Json = False,
) -> None:
    """Test the claims of a paper: what it says, what is expected, what was measured, the verdict.

    With no options it runs on the embedded ResNet-56 and digits, offline. Claims about training are measured on small
    networks, trained on the spot from several seeds. A check follows from definitions: if it agrees, the library
    computes what the paper defines.
    """
    from ..report import claims

    screen = console(quiet=as_json)
    network, source = model_and_source(subject)
    images = source.images(limit=limit)
    unrolled(network, images)

    def started(which: Claim) -> None:
        screen.print(f"[dim]{which.name}: {which.statement}[/dim]")

    result = claims.reproduce(
        paper,
        claim or None,
        model=network,
        data=images,
        training=source.training(network) or images,
        seed=seed,
        seeds=seeds,
        progress=started,
    )
    if as_json:
        typer.echo(json_text(_as_json(result)))
    else:
        show(screen, _table(result))
    if result.failed:
        raise typer.Exit(1)


def _as_json(result: Reproduction) -> dict[str, object]:
    numbers = {v.claim.name: dict(v.measured.numbers) for v in result.verdicts if v.measured is not None}
    rows = result.to_pandas().to_dict("records")
    return {
        "paper": result.paper.name,
        "citation": result.paper.citation,
        "model": result.model,
        "data": result.data,
        "images": result.images,
        "seed": result.seed,
        "claims": [{**row, "numbers": _plain(numbers.get(str(row["claim"]), {}))} for row in rows],
    }


def _plain(numbers: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items()}


def _table(result: Reproduction) -> FittingTable:
    title = f"{result.paper.citation}: {result.model}, {result.images} images of {result.data}"
    rows = table(title, ("claim", "kind", "paper", "expected", "measured", "verdict"))
    rows.show_lines = True
    colours = {"holds": "green", "does not hold": "yellow", "disagrees": "red", "failed": "red"}
    for row in result.to_pandas().to_dict("records"):
        verdict = str(row["verdict"])
        words = (row["claim"], row["kind"], f"{row['statement']} ({row['where']})", row["expected"], row["measured"])
        cells = [escape(str(word)) for word in words]
        rows.add_row(*cells, f"[{colours.get(verdict, 'dim')}]{verdict}[/]")
    return rows
