"""``resnet-paths report``: every analysis on one model, as one HTML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..report import STAGES, Report, write_report
from ..report.stage import BUDGETS, Budget
from ._common import (
    BatchOption,
    DataOption,
    DeviceOption,
    JsonOption,
    LimitOption,
    MeanOption,
    ModelOption,
    SeedOption,
    SizeOption,
    StdOption,
    console,
    model_and_source,
    named_model,
    unrolled,
    user_errors,
)
from ._places import Place, path_option
from ._tables import show, table


def _budgets(incomplete: str) -> list[str]:
    return [name for name in BUDGETS if name.startswith(incomplete)]


def _stages(incomplete: str) -> list[tuple[str, str]]:
    return [(stage.name, stage.title) for stage in STAGES if stage.name.startswith(incomplete)]


FileOption = Annotated[Path, path_option("--out", "-o", help="The HTML file to write."), Place(folder=False)]
BudgetOption = Annotated[
    str, typer.Option("--budget", help="quick (minutes on a CPU) or full.", autocompletion=_budgets)
]
SkipOption = Annotated[
    list[str] | None,
    typer.Option(
        "--skip",
        help=f"Leave out this stage; repeat it for more. Stages: {', '.join(stage.name for stage in STAGES)}.",
        autocompletion=_stages,
    ),
]
TwinOption = Annotated[
    str | None, typer.Option("--twin", help="A second model to compare with, in the forms of --model.")
]
ToleranceOption = Annotated[
    float,
    typer.Option(
        "--tolerance",
        help="Recommend to drop blocks only if, with 95 % confidence, accuracy falls by at most this.",
        min=0,
        max=1,
    ),
]
JournalOption = Annotated[
    Path | None,
    path_option("--journal", help="The file that keeps finished stages (default: beside --out)."),
    Place(folder=False),
]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Examples:\n\n  resnet-paths report\n\n"
        "  resnet-paths report --model cifar-resnet56@weights.safetensors --data images.npz --budget full\n\n"
        "  resnet-paths report --skip frontier --skip values --json\n\n"
        "Exit codes: 0 all stages done, 1 a stage failed (the page shows its error), 2 wrong use."
    )
    @user_errors
    def report(
        model: ModelOption = "embedded",
        data: DataOption = "digits",
        twin: TwinOption = None,
        budget: BudgetOption = "quick",
        skip: SkipOption = None,
        tolerance: ToleranceOption = 0.02,
        limit: LimitOption = None,
        size: SizeOption = None,
        mean: MeanOption = None,
        std: StdOption = None,
        batch_size: BatchOption = 100,
        seed: SeedOption = 0,
        device: DeviceOption = "cpu",
        out: FileOption = Path("report.html"),
        journal: JournalOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Run every analysis on a model and write one HTML file that needs nothing else.

        Run it again to go on after an interruption: finished stages are kept. With no options it reports on the
        embedded ResNet-56 (27 blocks, trained on UCI digits), offline.
        """
        network, source = model_and_source(model, data, size, device, mean, std)
        images = source.images(limit=limit)
        unrolled(network, images)
        result = write_report(
            network,
            images,
            out,
            training=source.training,
            twin=None if twin is None else named_model(twin, "--twin").to(device),
            budget=_budget(budget),
            skip=skip or (),
            tolerance=tolerance,
            seed=seed,
            batch_size=batch_size,
            model_code=f"load_model({json.dumps(model)})",
            twin_code=f"load_model({json.dumps(twin)})",
            data_code=source.code(images, limit),
            training_code=source.code(images, None, "train"),
            journal=journal,
        )
        if as_json:
            typer.echo(json.dumps(_as_json(result), indent=2))
        else:
            _show(result)
        if result.failed:
            raise typer.Exit(1)


def _budget(name: str) -> Budget:
    if name not in BUDGETS:
        raise ValueError(f"expected --budget quick or full, got {name!r}")
    return name


def _as_json(result: Report) -> dict[str, object]:
    return {
        "report": str(result.path),
        "journal": str(result.journal),
        "stages": json.loads(result.to_frame().to_json(orient="records")),
        "findings": result.findings,
        "warnings": result.warnings,
        "provenance": dict(result.provenance),
        "tables": {
            name: json.loads(frame.to_json(orient="records", double_precision=15))
            for name, frame in result.tables.items()
        },
    }


def _show(result: Report) -> None:
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
