"""``resnet-paths shrink``: from a budget to the files of a smaller network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import resnet_paths as rp

from ..choices import Runtime
from ..files import write_text
from ..tables import json_text
from ..text_tables import show, table
from ._app import command
from ._inputs import console
from ._planning import planned
from ._smaller import Folder, check_as_planned, value_shown, write_smaller
from .options import Json, Out, Planning, Subject


@command(
    "resnet-paths shrink --latency 0.8 --out smaller",
    "resnet-paths shrink --model mine.py:build --data photos/ --accuracy-drop 0.01 --finetune-epochs 5 --out smaller",
    "resnet-paths shrink --model mine.py:build --data mine.py:texts --metric perplexity --rise 0.5 --out smaller",
)
def shrink(
    subject: Subject,
    planning: Planning,
    onnx: Annotated[bool, typer.Option(help="Write an ONNX file and measure its latency.")] = True,
    out: Out = Path("results/shrink"),
    as_json: Json = False,
) -> None:
    """Drop blocks for a budget, repair, optionally fine-tune, and write the smaller network with a summary."""
    packages = (*rp.surgery.export.ONNX, *rp.surgery.export.ONNX_RUNTIME) if onnx else ()
    made = planned(subject, planning, out, packages=packages)
    plan, net, images, files = made.plan, made.net, made.images, made.files
    screen = console(quiet=as_json)
    made.show(screen)
    if not plan.point.dropped:
        raise ValueError(
            f"no blocks were dropped: for no set could it be shown that {plan.goal}; allow more, or pass more "
            f"{images.test.nouns}"
        )
    smaller = plan.apply(net, images.used, split=made.split)
    written = write_smaller(smaller, subject.model, plan.point.names, images.test, out, onnx=onnx)
    files |= written.files
    check_as_planned(plan, written, images.test, net)
    stages = _stages(net, plan, images.test, files["onnx"] if written.runs_onnx and subject.device == "cpu" else None)
    _add_to_readme(files["readme"], stages, plan)
    if as_json:
        facts: dict[str, Any] = {
            "summary": plan.summary,
            "dropped": list(plan.point.names),
            "stages": [asdict(one) for one in stages],
        }
        facts["left_out"] = written.left_out
        typer.echo(json_text({**facts, "files": {kind: str(path) for kind, path in files.items()}}))
        return
    _show(stages, plan, screen)
    _show_end(plan, written, out, files, screen)


def _show_end(plan: rp.tradeoff.DropPlan, written: Folder, out: Path, files: dict[str, Path], screen: Console) -> None:
    screen.print(f"Dropped: {', '.join(plan.point.names)}")
    for note in written.notes:
        screen.print(f"Note: {note}", markup=False)
    screen.print(f"Written to {out}: {', '.join(path.name for path in files.values())}")


@dataclass(frozen=True)
class Stage:
    """A row of the table: one of the networks from the full one to the one that is written.

    Attributes:
        name: what it is.
        metric: ``accuracy``, or the metric of the plan.
        value: of the metric, on the data that certify.
        ends: of its 95 % interval.
        milliseconds: of a forward pass, by runtime.
        macs: multiply-adds of one example.
        parameters: their number.
    """

    name: str
    metric: str
    value: float
    ends: tuple[float, float]
    milliseconds: dict[str, float]
    macs: int
    parameters: int


_RUNTIMES: dict[Runtime, str] = {
    "eager": "PyTorch", "onnx": "ONNX Runtime", "compile": "compiled", "export": "exported", "openvino": "OpenVINO",
}  # fmt: skip
"""The headers of their columns."""


def _stages(
    net: rp.UnrolledNetwork, plan: rp.tradeoff.DropPlan, data: rp.data.InMemory, onnx: Path | None
) -> list[Stage]:
    """The full network, and the dropped, repaired and fine-tuned ones; the latter three are equally fast.

    The times are the plan's in its runtime, and are measured here in the others: eager, and that of the ONNX file.
    """
    full, point = plan.points[0], plan.points[plan.chosen]
    times = {plan.clock.runtime: (1e3 * full.latency, 1e3 * point.latency)}
    if "eager" not in times:
        times["eager"] = _milliseconds(net, replace(plan.clock, runtime="eager"), point, data)
    if onnx is not None and "onnx" not in times:
        from ..tradeoff.runtimes import onnx_session

        clock, written = replace(plan.clock, runtime="onnx"), onnx_session(onnx, plan.clock.threads)
        times["onnx"] = _milliseconds(net, clock, point, data, written)
    heads = {runtime: head for runtime, head in _RUNTIMES.items() if runtime in times}
    before, after = ({head: times[runtime][when] for runtime, head in heads.items()} for when in (0, 1))
    rows = [Stage("full", *_reached(full), before, full.macs, full.parameters)]
    size = (after, point.macs, point.parameters)
    if point.repair != "none":
        rows.append(Stage("dropped", *_dropped(point, plan), *size))
    rows.append(Stage("dropped" if point.repair == "none" else point.repair, *_reached(point), *size))
    if plan.finetuned is not None and plan.finetuned.repair == "fine-tuned":
        name = "fine-tuned" if plan.keeps_finetuned else "fine-tuned, not used"
        rows.append(Stage(name, *_reached(plan.finetuned), *size))
    return rows


Reached = tuple[str, float, tuple[float, float]]


def _reached(point: rp.tradeoff.PlanPoint) -> Reached:
    """The metric of a plan with its interval; accuracy, if it has none."""
    if point.value is not None and point.value_interval is not None:
        return point.metric, point.value, point.value_interval
    return "accuracy", point.accuracy, point.accuracy_interval


def _dropped(point: rp.tradeoff.PlanPoint, plan: rp.tradeoff.DropPlan) -> Reached:
    """The same before the repair."""
    if point.plain_value is not None and point.plain_interval is not None:
        return point.metric, point.plain_value, point.plain_interval
    return "accuracy", point.plain, rp.statistics.share_interval(point.plain, plan.images["certify"].count)


def _milliseconds(
    net: rp.UnrolledNetwork,
    clock: rp.tradeoff.Clock,
    point: rp.tradeoff.PlanPoint,
    data: rp.data.InMemory,
    call: Callable[..., object] | None = None,
) -> tuple[float, float]:
    from ..graph.inputs import placed
    from ..tradeoff.stopwatch import Stopwatch

    watch = Stopwatch(net, clock, placed(clock.input(data), net.model))
    seconds = watch.first().median
    return 1e3 * seconds, 1e3 * watch.time(point, call=call).latency


def _show(stages: list[Stage], plan: rp.tradeoff.DropPlan, screen: Console) -> None:
    certify, metric = plan.images["certify"], stages[0].metric
    rows = table(f"Milliseconds for {plan.clock.batch} {certify.nouns}; {metric} on {certify.count}", [])
    rows.add_column("", no_wrap=True)
    for name in _heads(stages):
        rows.add_column(name, justify="right")
    for cells in _cells(stages):
        rows.add_row(*cells)
    show(screen, rows)


def _heads(stages: list[Stage]) -> list[str]:
    first = stages[0]
    return [first.metric, "95 % interval", *(f"{name} ms" for name in first.milliseconds), "MACs", "parameters"]


def _cells(stages: list[Stage]) -> list[list[str]]:
    shown = value_shown(stages[0].metric)
    return [
        [
            one.name,
            shown(one.value),
            _interval(one),
            *(f"{value:.2f}" for value in one.milliseconds.values()),
            _short(one.macs),
            _short(one.parameters),
        ]
        for one in stages
    ]


def _interval(stage: Stage) -> str:
    low, high = stage.ends
    if value_shown(stage.metric)(0.0).endswith("%"):
        return f"{100 * low:.1f}-{100 * high:.1f}"
    return f"{low:.4g} to {high:.4g}"


def _short(count: int) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def _add_to_readme(readme: Path, stages: list[Stage], plan: rp.tradeoff.DropPlan) -> None:
    """The summary, below the instructions for loading."""
    heads = ["", *_heads(stages)]
    lines = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *_cells(stages))]
    text = f"\n## Measurements\n\n{plan.summary}.\n\n" + "\n".join(lines) + "\n"
    write_text(readme, readme.read_text() + text)
