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
from ._inputs import block_names, console, model_and_source, unrolled
from ._planning import PlanImages, repair_of, repair_said, source_of
from ._smaller import Folder, check_as_planned, form_for, value_shown, write_smaller
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
    for name, value in facts.get("measured", {}).items():
        screen.print(f"{name} of the written network on the {facts['test']}: {value_shown(name)(value)}, as planned")
    for name, why in facts["left_out"].items():
        screen.print(f"Note: {name} was left out: {why}", markup=False)
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
    split = replace(images.split(used, plan.split.seed), batch_size=plan.split.batch_size)
    net = unrolled(network, images.test)
    _check_onnx(onnx)
    if isinstance(used, rp.tradeoff.Distil) and plan.keeps_finetuned:
        plan = replace(
            plan, repair=replace(used, images=source.examples(network, "train", noted.get("finetune_limit")))
        )
    smaller = plan.apply(net, images.used, split=split)
    written = write_smaller(smaller, noted["model"], plan.point.names, images.test, out, onnx=onnx)
    measured = check_as_planned(plan, written, images.test, net)
    facts = _facts(net, plan.point.dropped, smaller, written)
    return {**facts, "measured": measured, "test": f"{len(images.test)} test {images.test.nouns}"}


def _by_blocks(
    blocks: list[rp.network.BlockRef], subject: Subject, limit: int | None, repair: Repair, onnx: bool, out: Path
) -> dict[str, Any]:
    used, said = repair_of(repair), None
    network, source = model_and_source(subject)
    parts = PlanImages.of(network, source, limit, used) if used.needs_images else None
    # without a repair, a few examples of the model's input are enough
    images = source.examples(network, limit=4) if parts is None else parts.training
    form_for(images, network)
    net = unrolled(network, images)
    dropped = net.indices(blocks)
    _check_onnx(onnx)
    if parts is None:
        smaller = rp.drop_blocks(net, blocks)
    else:
        said = repair_said(used, network, parts.used)
        smaller = used.repairer(net, parts.used)(tuple(sorted(dropped))).model
    names = tuple(net[index].name for index in dropped)
    written = write_smaller(smaller, subject.model, names, images, out, onnx=onnx)
    return {**_facts(net, dropped, smaller, written), "repair": said}


def _check_onnx(onnx: bool) -> None:
    """Check what an ONNX file needs: before any long work, and after all arguments."""
    if onnx:
        rp.surgery.export.check_onnx()


def _facts(net: rp.UnrolledNetwork, dropped: Sequence[int], smaller: nn.Module, written: Folder) -> dict[str, Any]:
    return {
        "dropped": list(dropped),
        "names": [net[index].name for index in dropped],
        "repair": None,
        "parameters_before": rp.tradeoff.count_parameters(net.model),
        "parameters_after": rp.tradeoff.count_parameters(smaller),
        "files": {kind: str(path) for kind, path in written.files.items()},
        "left_out": written.left_out,
    }
