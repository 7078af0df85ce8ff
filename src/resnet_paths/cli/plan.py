"""``resnet-paths plan`` and ``resnet-paths drop``: choose blocks to drop, and write the smaller model."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..network import BlockRef
from ..surgery import drop_blocks
from ..surgery.export import ONNX, check_onnx, missing
from ..tradeoff import Distil, DropPlan, count_parameters, load_plan
from ._common import (
    BatchOption,
    DataOption,
    DeviceOption,
    JsonOption,
    LimitOption,
    MeanOption,
    ModelOption,
    OutOption,
    SeedOption,
    SizeOption,
    StdOption,
    console,
    model_and_source,
    unrolled,
    user_errors,
)
from ._planning import (
    AccuracyDropOption,
    ConfidenceOption,
    CountOption,
    DisagreementOption,
    EpochsOption,
    FinetuneLimitOption,
    Finetuning,
    LatencyBatchOption,
    LatencyOption,
    MetricOption,
    MostOption,
    PlanImages,
    RateOption,
    RepairOption,
    RuntimeOption,
    SearchOption,
    SecondsOption,
    ThreadsOption,
    Where,
    clock_of,
    goal_of,
    planned,
    repair_of,
    repair_said,
    search_of,
)
from ._smaller import check_as_planned, write_smaller

BlocksOption = Annotated[str | None, typer.Option("--blocks", help="Indices or names, joined by commas: 3,7,layer3.4")]
PlanOption = Annotated[
    Path | None, typer.Option("--plan", help="A plan of resnet-paths plan: what it measured is made, and measured.")
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
        latency: LatencyOption = None,
        accuracy_drop: AccuracyDropOption = None,
        disagreement: DisagreementOption = None,
        count: CountOption = None,
        confidence: ConfidenceOption = 0.95,
        search: SearchOption = "greedy",
        metric: MetricOption = None,
        most: MostOption = None,
        repair: RepairOption = "refit",
        finetune_epochs: EpochsOption = 0,
        finetune_rate: RateOption = None,
        finetune_limit: FinetuneLimitOption = None,
        runtime: RuntimeOption = "eager",
        latency_batch: LatencyBatchOption = 32,
        latency_seconds: SecondsOption = 0.5,
        threads: ThreadsOption = None,
        limit: LimitOption = 1000,
        size: SizeOption = None,
        mean: MeanOption = None,
        std: StdOption = None,
        batch_size: BatchOption = 100,
        seed: SeedOption = 0,
        device: DeviceOption = "cpu",
        out: OutOption = Path("results/plan"),
        as_json: JsonOption = False,
    ) -> None:
        """Find which blocks to drop for a latency or an accuracy; searched on training, reported on test images."""
        made = planned(
            Where(model, data, size, mean, std, limit, device),
            goal_of(latency, accuracy_drop, disagreement, count, confidence),
            search_of(search, metric, most),
            repair_of(repair),
            clock_of(runtime, latency_batch, threads, latency_seconds),
            Finetuning(finetune_epochs, finetune_rate, finetune_limit),
            seed,
            batch_size,
            out,
        )
        file, picture = made.files["plan"], made.files["picture"]
        if as_json:
            typer.echo(
                json.dumps({**json.loads(file.read_text()), "file": str(file), "picture": str(picture)}, indent=2)
            )
            return
        screen = console()
        made.show(screen)
        screen.print(f"Written: {file} and {picture}")
        if made.plan.point.dropped:
            again = ["resnet-paths", "drop", "--plan", str(file), *(["--no-onnx"] if missing(ONNX) else [])]
            screen.print(f"[dim]Next: {escape(shlex.join(again))}[/dim]", soft_wrap=True)

    @app.command(
        epilog="Examples:\n\n  resnet-paths drop --blocks 3,7 --out smaller\n\n"
        "  resnet-paths drop --plan results/plan/plan.json --out smaller"
    )
    @user_errors
    def drop(
        model: ModelOption = "embedded",
        data: DataOption = "digits",
        blocks: BlocksOption = None,
        plan: PlanOption = None,
        repair: RepairOption = "none",
        onnx: Annotated[bool, typer.Option(help="Write an ONNX file too.")] = True,
        limit: LimitOption = 1000,
        size: SizeOption = None,
        mean: MeanOption = None,
        std: StdOption = None,
        device: DeviceOption = "cpu",
        out: OutOption = Path("results/drop"),
        as_json: JsonOption = False,
    ) -> None:
        """Drop blocks for real and write the smaller model: model.pt2, model.safetensors and model.onnx."""
        if onnx:
            check_onnx()
        if (blocks is None) == (plan is None):
            raise ValueError("expected either --blocks or --plan, got " + ("neither" if blocks is None else "both"))
        given = {"model": model, "data": data, "size": size, "mean": mean, "std": std, "limit": limit, "device": device}
        if plan is not None:
            facts = _as_planned(load_plan(plan), given, repair, onnx, out)
        else:
            facts = _by_blocks(_references(blocks or ""), given, repair, onnx, out)
        if as_json:
            typer.echo(json.dumps(facts, indent=2))
            return
        screen = console()
        screen.print(
            f"Dropped {', '.join(facts['names'])}: {facts['parameters_before']:,} to {facts['parameters_after']:,} "
            "parameters"
        )
        if facts["repair"] is not None:
            screen.print(facts["repair"])
        if "accuracy" in facts:
            screen.print(f"What was written is right on {facts['accuracy']:.2%} of the test images, as planned")
        screen.print("Written: " + ", ".join(facts["files"].values()))


_USUAL = {
    "model": "embedded",
    "data": "digits",
    "size": None,
    "mean": None,
    "std": None,
    "limit": 1000,
    "device": "cpu",
}


def _as_planned(plan: DropPlan, given: dict[str, Any], repair: str, onnx: bool, out: Path) -> dict[str, Any]:
    """Make what the plan measured, from the images that it names, write it, and measure what was written."""
    noted = dict(plan.source)
    if not noted:
        raise ValueError(
            "expected a plan of resnet-paths plan, which says where its model and images came from, got one that does "
            "not; use its apply() in Python"
        )
    other = [f"--{name}" for name, value in given.items() if value not in (_USUAL[name], noted[name])]
    other += ["--repair"] * (repair != "none")
    if other:
        raise ValueError(f"expected {other[0]} as in the plan, which decides it, got another; leave it out")
    if not plan.point.dropped:
        raise ValueError("expected a plan that drops blocks, got one in which no set reached the goal")
    network, source = model_and_source(*(noted[name] for name in ("model", "data", "size", "device", "mean", "std")))
    how = plan.repair
    images = PlanImages.of(network, source, noted["limit"], how)
    split = replace(images.split(how, plan.split.seed), batch_size=plan.split.batch_size)
    net = unrolled(network, images.test)
    if isinstance(how, Distil) and plan.keeps_finetuned:
        plan = replace(plan, repair=replace(how, images=source.images("train", noted.get("finetune_limit"))))
    smaller = plan.apply(net, images.used, split=split)
    files = write_smaller(smaller, noted["model"], plan.point.names, images.test, out, onnx=onnx)
    accuracy = check_as_planned(plan, files["pt2"], images.test, net)
    return {
        "dropped": list(plan.point.dropped),
        "names": list(plan.point.names),
        "repair": None,
        "accuracy": accuracy,
        "parameters_before": count_parameters(network),
        "parameters_after": count_parameters(smaller),
        "files": {kind: str(path) for kind, path in files.items()},
    }


def _by_blocks(blocks: list[BlockRef], given: dict[str, Any], repair: str, onnx: bool, out: Path) -> dict[str, Any]:
    how = repair_of(repair)
    network, source = model_and_source(*(given[name] for name in ("model", "data", "size", "device", "mean", "std")))
    if not how.needs_images:
        said, images = None, source.images(limit=2)  # an example of the model's input
        net = unrolled(network, images)
        smaller = drop_blocks(net, blocks)
    else:
        parts = PlanImages.of(network, source, given["limit"], how)
        images, net = parts.training, unrolled(network, parts.training)
        said = repair_said(how, network, parts.used)
        smaller = how.repairer(net, parts.used)(tuple(sorted(net.indices(blocks)))).model
    names = tuple(net[index].name for index in net.indices(blocks))
    files = write_smaller(smaller, given["model"], names, images, out, onnx=onnx)
    return {
        "dropped": net.indices(blocks),
        "names": list(names),
        "repair": said,
        "parameters_before": count_parameters(network),
        "parameters_after": count_parameters(smaller),
        "files": {kind: str(path) for kind, path in files.items()},
    }


def _references(text: str) -> list[BlockRef]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError(f"expected --blocks as indices or names joined by commas, such as 3,7,layer3.4, got {text!r}")
    return [int(part) if part.lstrip("-").isdecimal() else part for part in parts]
