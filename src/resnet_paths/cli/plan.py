"""``resnet-paths plan`` and ``resnet-paths drop``: choose blocks to drop, and write the smaller model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..models import save_checkpoint
from ..models.reading import facts_of
from ..network import UnitRef
from ..network.norms import tracking_norms
from ..network.unrolled import placed
from ..plot import plot_plan, save
from ..surgery import drop_blocks, norms_before, recalibrate_batchnorm
from ..surgery.export import export_model
from ..tradeoff import (
    DropPlan,
    as_in_training,
    count_parameters,
    distil,
    load_plan,
    plan_drop,
)
from ._common import (
    BatchOption,
    DataOption,
    DeviceOption,
    JsonOption,
    LimitOption,
    MeanOption,
    ModelOption,
    OutOption,
    SizeOption,
    StdOption,
    console,
    model_and_source,
    unrolled,
    user_errors,
)
from ._tables import show, table

UnitsOption = Annotated[str | None, typer.Option("--units", help="Indices or names, joined by commas: 3,7,layer3.4")]
PlanOption = Annotated[Path | None, typer.Option("--plan", help="A plan written by resnet-paths plan.")]
RecalibrateOption = Annotated[
    bool,
    typer.Option(
        help="Measure batch-norm statistics again, on the training images of --data, moved and mirrored where that "
        "comes closer to the model's own statistics."
    ),
]

FinetuneOption = Annotated[
    bool, typer.Option(help="Teach the smaller model the whole model's outputs, on the training images of --data.")
]


def register(app: typer.Typer) -> None:
    """Add both commands."""

    @app.command(
        epilog="Examples:\n\n  resnet-paths plan --latency 0.8\n\n"
        "  resnet-paths plan --accuracy-drop 0.01 --search beam"
    )
    @user_errors
    def plan(
        model: ModelOption = "embedded",
        data: DataOption = "digits",
        latency: Annotated[float | None, typer.Option(help="Share of the whole model's latency to reach.")] = None,
        accuracy_drop: Annotated[float | None, typer.Option(help="Fall of accuracy allowed (default 0.01).")] = None,
        confidence: Annotated[
            float | None,
            typer.Option(
                help="With --accuracy-drop: choose the last point whose fall is shown, with this probability, on the "
                "test images (default 0.95)."
            ),
        ] = None,
        n_drop: Annotated[int | None, typer.Option(help="Number of blocks to drop.")] = None,
        search: Annotated[str, typer.Option(help="greedy, beam or exact.")] = "greedy",
        metric: Annotated[
            str,
            typer.Option(
                help="What the search minimises: soft_error, error or loss; without labels soft_disagreement, "
                "disagreement or divergence."
            ),
        ] = "soft_error",
        most: Annotated[int | None, typer.Option(help="Drop at most this many blocks.")] = None,
        recalibrate: RecalibrateOption = True,
        finetune: FinetuneOption = False,
        limit: LimitOption = 400,
        size: SizeOption = None,
        mean: MeanOption = None,
        std: StdOption = None,
        batch_size: BatchOption = 100,
        device: DeviceOption = "cpu",
        out: OutOption = Path("results/plan"),
        as_json: JsonOption = False,
    ) -> None:
        """Find which blocks to drop for a latency or an accuracy; searched on training, reported on test images."""
        if latency is None and accuracy_drop is None and n_drop is None:
            accuracy_drop = 0.01
        if accuracy_drop is not None and confidence is None:
            confidence = 0.95
        network, source = model_and_source(model, data, size, device, mean, std)
        report, training = source.images("test"), source.images("train", limit)
        net = unrolled(network, report)
        images = as_in_training(network, training) if recalibrate else training
        result = plan_drop(
            net,
            images,
            latency=latency,
            accuracy_drop=accuracy_drop,
            confidence=confidence,
            n_drop=n_drop,
            search=search,  # type: ignore[arg-type]
            metric=metric,
            most=most,
            recalibrate=images if recalibrate else None,
            finetune=training if finetune else None,
            report=report,
            batch_size=batch_size,
        )
        file = result.save(out / "plan.json")
        picture = save(plot_plan(result), out / "plan.png")
        if as_json:
            typer.echo(json.dumps({**asdict(result), "file": str(file), "picture": str(picture)}, indent=2))
            return
        screen = console()
        show(screen, _table(result))
        if result.confidence is not None:
            screen.print(_chosen(result))
        if recalibrate and tracking_norms(network):
            screen.print(f"Searched and recalibrated on {images.name}")
        elif recalibrate:
            screen.print("The model has no batch norms that keep statistics: nothing was recalibrated")
        if result.point.finetuned is not None:
            screen.print(f"The chosen model, fine-tuned: {result.point.finetuned:.2%}")
        screen.print(f"Written: {file} and {picture}")
        given = {"--data": data, "--size": size, "--mean": mean, "--std": std, "--limit": limit, "--device": device}
        again = _drop_command(model, file, given, recalibrate, finetune)
        screen.print(f"[dim]Next: {escape(again)}[/dim]", soft_wrap=True)

    @app.command(
        epilog="Examples:\n\n  resnet-paths drop --units 3,7 --out smaller\n\n"
        "  resnet-paths drop --model resnet50 --plan results/plan/plan.json --data photos/ --size 224"
    )
    @user_errors
    def drop(
        model: ModelOption = "embedded",
        data: DataOption = "digits",
        units: UnitsOption = None,
        plan: PlanOption = None,
        recalibrate: RecalibrateOption = False,
        finetune: FinetuneOption = False,
        onnx: Annotated[bool, typer.Option(help="Write an ONNX file too.")] = True,
        limit: LimitOption = 400,
        size: SizeOption = None,
        mean: MeanOption = None,
        std: StdOption = None,
        device: DeviceOption = "cpu",
        out: OutOption = Path("results/drop"),
        as_json: JsonOption = False,
    ) -> None:
        """Drop blocks for real and write the smaller model: model.pt2, model.safetensors and model.onnx."""
        if (units is None) == (plan is None):
            raise ValueError("expected either --units or --plan, got " + ("neither" if units is None else "both"))
        network, source = model_and_source(model, data, size, device, mean, std)
        training = source.images("train", limit) if recalibrate or finetune else None
        images = source.images(limit=2) if training is None else training  # an example of the model's input
        net = unrolled(network, images)
        chosen: list[UnitRef] = _references(units) if units is not None else list(load_plan(plan or "").point.names)
        smaller = drop_blocks(net, chosen)
        if recalibrate and training is not None and tracking_norms(smaller):
            recalibrate_batchnorm(smaller, as_in_training(network, training), keep=norms_before(net, chosen))
        if finetune and training is not None:
            distil(smaller, net, training)
        example = placed(images.subset(slice(0, 2)).x, smaller)
        files = export_model(smaller, example, out, onnx=onnx)
        save_checkpoint(
            smaller,
            files["safetensors"],
            dropped=[*facts_of(model).get("dropped", ()), *(net[index].name for index in net.indices(chosen))],
            mean=list(images.mean),
            std=list(images.std),
            classes=list(images.classes),
        )
        facts = {
            "dropped": net.indices(chosen),
            "parameters_before": count_parameters(network),
            "parameters_after": count_parameters(smaller),
            "files": {kind: str(path) for kind, path in files.items()},
        }
        if as_json:
            typer.echo(json.dumps(facts, indent=2))
            return
        screen = console()
        names = ", ".join(net[index].name for index in net.indices(chosen))
        screen.print(f"Dropped {names}: {facts['parameters_before']:,} to {facts['parameters_after']:,} parameters")
        if recalibrate and not tracking_norms(smaller):
            screen.print("The model has no batch norms that keep statistics: nothing was recalibrated")
        screen.print("Written: " + ", ".join(map(str, files.values())))


def _drop_command(model: str, file: Path, given: Mapping[str, object], recalibrate: bool, finetune: bool) -> str:
    """The command that makes the model which the plan was measured on: from the same images, by the same steps."""
    usual = {"--data": "digits", "--limit": 400, "--device": "cpu"}
    words = ["resnet-paths", "drop", "--model", model, "--plan", str(file)]
    for option, value in given.items():
        words += [] if value is None or value == usual.get(option) else [option, str(value)]
    words += ["--recalibrate"] * recalibrate + ["--finetune"] * finetune
    return shlex.join(words)


def _references(text: str) -> list[UnitRef]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"expected --units as indices or names joined by commas, such as 3,7,layer3.4, got {text!r}")
    return [int(part) if part.lstrip("-").isdecimal() else part for part in parts]


def _chosen(plan: DropPlan) -> str:
    """What the choice rests on."""
    said = f"with {plan.confidence:.0%} confidence accuracy falls by at most {plan.accuracy_drop:.2%}"
    if plan.point.dropped:
        return f"Chosen: the last set, tested in order of size, of which it is shown that {said}"
    first = plan.points[1] if len(plan.points) > 1 else None
    bound = "" if first is None else f" (the first set falls by {first.fall:.2%}, by up to {first.fall_at_most:.2%})"
    return f"No set chosen: of none it is shown that {said}{bound}"


def _table(plan: DropPlan) -> Table:
    rows = table(
        f"Dropping blocks by {plan.search} search, batch {plan.batch}",
        ["dropped", "last block"],
        ["accuracy", "recalibrated", "95 % interval", "latency", "parameters", ""],
    )
    whole = plan.points[0]
    before: set[str] = set()
    for row, point in enumerate(plan.points):
        new = ", ".join(name for name in point.names if name not in before)
        before = set(point.names)
        low, high = point.recalibrated_interval or point.accuracy_interval
        rows.add_row(
            str(len(point.dropped)),
            new,
            f"{point.accuracy:.2%}",
            "" if point.recalibrated is None else f"{point.recalibrated:.2%}",
            f"{low:.1%} to {high:.1%}",
            f"{point.latency / whole.latency:.2f}",
            f"{point.parameters / whole.parameters:.2f}",
            "chosen" if row == plan.chosen else "",
        )
    return rows
