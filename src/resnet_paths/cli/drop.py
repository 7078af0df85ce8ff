"""``resnet-paths drop``: write the model without some blocks, either named or planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import resnet_paths as rp

from ..tables import json_text
from ._app import command
from ._inputs import block_names, console, model_and_source, only_images, unrolled
from ._planning import PlanImages, in_python, repair_of, repair_said, source_of
from ._smaller import check_as_planned, write_smaller
from .options import Json, Limit, Out, Repair, Subject

if TYPE_CHECKING:
    from torch import nn

LIMIT = 1000


@command(
    "resnet-paths drop --blocks 3,7 --out smaller",
    "resnet-paths drop --plan results/plan/plan.json --out smaller",
)
def drop(
    subject: Subject,
    blocks: Annotated[str | None, typer.Option(help="Comma-separated indices or names: 3,7,layer3.4")] = None,
    plan: Annotated[
        Path | None,
        typer.Option(help="A plan written by resnet-paths plan. The planned network is made and measured again."),
    ] = None,
    repair: Repair = "none",
    onnx: Annotated[bool, typer.Option(help="Also write an ONNX file.")] = True,
    limit: Limit = LIMIT,
    out: Out = Path("results/drop"),
    as_json: Json = False,
) -> None:
    """Drop blocks and write the smaller model: model.pt2, model.safetensors and model.onnx."""
    if (blocks is None) == (plan is None):
        raise ValueError("expected either --blocks or --plan, got " + ("neither" if blocks is None else "both"))
    if plan is not None:
        facts = _as_planned(plan, subject, limit, repair, onnx, out)
    else:
        facts = _by_blocks(block_names(blocks or ""), subject, limit, repair, onnx, out)
    if as_json:
        typer.echo(json_text(facts))
        return
    screen = console()
    before, after = (f"{facts[f'parameters_{when}']:,}" for when in ("before", "after"))
    screen.print(f"Dropped {', '.join(facts['names'])}: {before} to {after} parameters")
    if facts["repair"] is not None:
        screen.print(facts["repair"])
    if "accuracy" in facts:
        screen.print(f"The written network has an accuracy of {facts['accuracy']:.2%} on the test images, as planned")
    screen.print("Written: " + ", ".join(facts["files"].values()))


def _as_planned(
    file: Path, subject: Subject, limit: int | None, repair: Repair, onnx: bool, out: Path
) -> dict[str, Any]:
    """Make the planned network from the plan's images, write it, and measure what was written."""
    plan = rp.tradeoff.load_plan(file)
    noted, usual = dict(plan.source), source_of(Subject(), LIMIT)
    if not usual.keys() <= noted.keys():
        raise ValueError(
            "expected a plan written by resnet-paths plan, which names its model and images, got one that does not; "
            "use its apply() in Python"
        )
    given = source_of(subject, limit).items()
    other = [f"--{name}" for name, value in given if value not in (usual[name], noted.get(name))]
    other += ["--repair"] * (repair != "none")
    if other:
        raise ValueError(f"expected {other[0]} as in the plan, got another value; leave it out")
    if not plan.point.dropped:
        raise ValueError("expected a plan that drops blocks, got one in which no set reaches the goal")
    network, source = model_and_source(Subject(**{field.name: noted[field.name] for field in fields(Subject)}))
    used = plan.repair
    images = PlanImages.of(network, source, noted["limit"], used)
    if not isinstance(images.test, rp.ImageData):
        raise ValueError(
            f"expected a plan for images with one class each, got one for {images.test!r}; in Python: "
            + in_python(plan, file)
        )
    split = replace(images.split(used, plan.split.seed), batch_size=plan.split.batch_size)
    net = unrolled(network, images.test)
    _check_onnx(onnx)
    if isinstance(used, rp.tradeoff.Distil) and plan.keeps_finetuned:
        plan = replace(plan, repair=replace(used, images=source.images("train", noted.get("finetune_limit"))))
    smaller = plan.apply(net, images.used, split=split)
    files = write_smaller(smaller, noted["model"], plan.point.names, images.test, out, onnx=onnx)
    accuracy = check_as_planned(plan, files["pt2"], images.test, net)
    return {**_facts(net, plan.point.dropped, smaller, files), "accuracy": accuracy}


def _by_blocks(
    blocks: list[rp.network.BlockRef], subject: Subject, limit: int | None, repair: Repair, onnx: bool, out: Path
) -> dict[str, Any]:
    used, said = repair_of(repair), None
    network, source = model_and_source(subject)
    parts = PlanImages.of(network, source, limit, used) if used.needs_images else None
    # without a repair, two images are enough: an example of the model's input
    images = source.images(limit=2) if parts is None else only_images(parts.training)
    net = unrolled(network, images)
    dropped = net.indices(blocks)
    _check_onnx(onnx)
    if parts is None:
        smaller = rp.drop_blocks(net, blocks)
    else:
        said = repair_said(used, network, parts.used)
        smaller = used.repairer(net, parts.used)(tuple(sorted(dropped))).model
    names = tuple(net[index].name for index in dropped)
    files = write_smaller(smaller, subject.model, names, images, out, onnx=onnx)
    return {**_facts(net, dropped, smaller, files), "repair": said}


def _check_onnx(onnx: bool) -> None:
    """Check what an ONNX file needs: before any long work, and after all arguments."""
    if onnx:
        rp.surgery.export.check_onnx()


def _facts(
    net: rp.UnrolledNetwork, dropped: Sequence[int], smaller: nn.Module, files: dict[str, Path]
) -> dict[str, Any]:
    return {
        "dropped": list(dropped),
        "names": [net[index].name for index in dropped],
        "repair": None,
        "parameters_before": rp.tradeoff.count_parameters(net.model),
        "parameters_after": rp.tradeoff.count_parameters(smaller),
        "files": {kind: str(path) for kind, path in files.items()},
    }
