"""One command, one report: every analysis on one model, as one HTML file.

The stages run as points of a sweep, for its journal: a report takes minutes to hours, and after a kill or a failed
stage the same call computes only what is missing. They run one after another in this process, since each uses all cores
and all share the unrolled network. A point is a stage with its budget; the sizes that the stage could afford are part
of its value, so that a later call keeps them, however fast the machine is then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ..arguments import Range, checked
from ..choices import MetricName
from ..data import ImageData, ImageSource, InMemory, as_examples
from ..data.classes import numbered_alike
from ..data.fitting import data_for, target_kinds, usual_metric
from ..data.metrics import Metric
from ..files import write_text
from ..graph.eval_mode import check_eval
from ..graph.model_fingerprint import fingerprint
from ..records import Shown
from ..sweep import SweepResult, operation_threads, sweep, unfinished
from ..sweep.fingerprints import deciding
from ..sweep.progress import duration
from ..sweep.result import last_line
from .budget import Spent, TimePlan, budget_seconds
from .page import render
from .progress import StageProgress
from .section import Section
from .stage import NotApplicableError, Options, Stage
from .stages import STAGES
from .subject import Expressions, Subject


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of a stage.

    Attributes:
        stage: the stage.
        status: ``done``, ``skipped``, ``not applicable``, ``left out`` (no time or memory for it) or ``failed``.
        section: its results, if it is done.
        reason: why not, if it is not done.
        details: the traceback, if it failed.
        seconds: its running time.
        spent: the time that it was given, and the sizes used.
    """

    stage: Stage
    status: str
    section: Section | None = None
    reason: str = ""
    details: str = ""
    seconds: float = 0.0
    spent: Spent = field(default_factory=Spent)


@dataclass(frozen=True, eq=False)
class Report(Shown):
    """A written report.

    Attributes:
        path: the HTML file.
        journal: the file that stores finished stages.
        outcomes: of all stages, in the order of the page.
        provenance: model, data, versions, seed and command.
    """

    path: Path
    journal: Path
    outcomes: tuple[Outcome, ...]
    provenance: Mapping[str, str]

    @property
    def failed(self) -> list[str]:
        """Names of the stages that failed."""
        return [outcome.stage.name for outcome in self.outcomes if outcome.status == "failed"]

    @property
    def left_out(self) -> list[str]:
        """Names of the stages for which there was no time or no memory; the same call again includes them."""
        return [outcome.stage.name for outcome in self.outcomes if outcome.status == "left out"]

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """The sizes used, by stage: with these as `options`, another call computes the same."""
        return {o.stage.name: dict(o.spent.options) for o in self.outcomes if o.status == "done"}

    @property
    def findings(self) -> list[str]:
        """The sentences at the top of the page."""
        return [text for _, section in self._sections() for text in section.findings]

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the numbers, of all stages."""
        return [text for _, section in self._sections() for text in section.warnings]

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables of the page, by name."""
        return {table.name: table.frame() for _, section in self._sections() for table in section.tables}

    @property
    def sections(self) -> list[Section]:
        """Those of the stages that are done."""
        return [section for _, section in self._sections()]

    def _sections(self) -> list[tuple[Stage, Section]]:
        return [(outcome.stage, outcome.section) for outcome in self.outcomes if outcome.section is not None]

    def to_pandas(self) -> pd.DataFrame:
        """One row per stage: its outcome, the seconds that it took and was given, and its sizes."""
        return pd.DataFrame(
            [
                {
                    "stage": o.stage.name,
                    "status": o.status,
                    "reason": o.reason,
                    "seconds": o.seconds,
                    "given": o.spent.given,
                    "sizes": ", ".join(f"{name}={value}" for name, value in o.spent.options.items()),
                    "shrunk": o.spent.precision,
                }
                for o in self.outcomes
            ]
        )


# Seventeen parameters: what the report is about (four), what is measured and how (nine), and what is written (four).
# Nearly all are options of the command line; a script that calls this sets two or three of them.
@checked(accuracy_drop=Range(0, 1), rise=Range(0, math.inf), memory=Range(0, above=True))
def write_report(
    model: nn.Module,
    data: ImageSource,
    out: str | Path = "report.html",
    *,
    metric: MetricName | Metric | None = None,
    training: ImageSource | None = None,
    budget: str | float | timedelta = "quick",
    skip: Sequence[str] = (),
    accuracy_drop: float = 0.02,
    rise: float | None = None,
    seed: int = 0,
    batch_size: int = 500,
    memory: float = 2.0,
    expressions: Expressions | None = None,
    options: Mapping[str, Options] | None = None,
    journal: str | Path | None = None,
    progress: bool | Callable[[str], None] = True,
    stages: Sequence[Stage] = STAGES,
) -> Report:
    """Run every analysis on a model and write one self-contained HTML file.

    The data may be of any form: images, token batches, series, tables. The metric names what is measured on each
    example; the page speaks of it, and of sequences or series instead of images. A stage that does not apply to the
    data, such as one that needs pictures, says so.

    Each finished stage is stored in a journal under a fingerprint of everything that determines it: the model, the
    data, the metric, the options, the seed and the code. A second call computes only what is missing or has failed. A
    kill loses at most the running stage and what finished less than a fifth of a second before it. A failed stage does
    not stop the others: the page shows its error.

    The budget holds for every model and machine. A forward pass is timed first. Each stage then gets a share of the
    remaining time, which determines its numbers of images, draws, orders and grid points. The page names those that
    were reduced, and a stage for which there is no time at all is left out, with the reason. The sizes used are stored
    with the results. A second call plans its time for what is missing.

    Args:
        model: a residual model in eval mode; it is not changed.
        data: the images or other examples on which numbers are reported; what :func:`~resnet_paths.data.as_examples`
            reads.
        out: the file to write.
        metric: see :func:`~resnet_paths.lesion.metric_named`; None: ``error`` for examples with one class each,
            otherwise one that fits the targets (``next_token_loss``, ``pixel_loss``, ``squared_error``, ...).
        training: images for choosing blocks and estimating batch-norm statistics; None: one half of `data`.
        budget: ``quick`` (at most 3 minutes), ``full`` (30 minutes), or a duration: words such as ``"10min"``, seconds
            or a timedelta. A small model takes less: no stage uses more images or draws than its figures need.
        skip: names of stages to skip.
        accuracy_drop: fall of accuracy allowed for the blocks that are recommended for dropping, shown with 95 %
            confidence on held-out images; or the rise of another metric of at most 1, such as a share of wrong answers.
        rise: rise of the metric that is allowed instead; None: for a metric that may exceed 1, a twentieth of the full
            network's value.
        seed: of all random draws.
        batch_size: images per batch at most; above 100 only if their activations stay in the cache.
        memory: what computations may hold in addition to the model and the images, in GB; batches and sizes are chosen
            to stay below it.
        expressions: Python expressions that make the model and the images, for the code shown on the page.
        options: options to fix, by stage; they do not follow the budget.
        journal: the file that stores finished stages (default: beside `out`, with the suffix ``.journal``).
        progress: print a line to stderr for each stage that starts, or a function to be called with its name.
        stages: the stages to run.

    Returns:
        The outcome of each stage, with all tables.

    Raises:
        ValueError: an unknown budget, stage or option; a metric that is unknown or does not fit the targets; a model in
            training mode, without blocks, that does not take the data or gives NaN for them.

    Cost: at most the budget, as far as stages can be estimated (within a fifth); less for the embedded network.

    Example:
        >>> import tempfile
        >>> from resnet_paths import load_data, load_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = write_report(
        ...         load_model("embedded"), load_data("digits", limit=40), folder + "/report.html",
        ...         skip=[stage.name for stage in STAGES if stage.name not in ("blocks", "lengths")], progress=False,
        ...     )
        >>> report.to_pandas().query("status == 'done'")["stage"].tolist()
        ['blocks', 'lengths']
        >>> len(report.tables["blocks"])
        27
    """
    began = time.monotonic()
    seconds = budget_seconds(budget)
    wanted = _wanted(stages, skip, options or {})
    check_eval(model)
    data, training, metric = _read(model, data, training, metric)
    target = Path(out)
    if target.is_dir():
        raise ValueError(
            f"expected a file to write, got the folder {out}; pass a name such as {target / 'report.html'}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    journal_path = Path(journal) if journal is not None else target.with_name(target.name + ".journal")
    written = expressions or Expressions()
    measured: dict[str, Any] = {"memory": 1e9 * memory, "metric": metric, "rise": rise}
    subject = Subject(model, data, training, written, accuracy_drop, seed, batch_size, **measured)
    subject.check()
    stages = [stage.about(subject) for stage in stages]
    wanted_stages = [stage for stage in stages if stage.name in wanted]
    points = [{"stage": stage.name, "seconds": seconds, "options": wanted[stage.name]} for stage in wanted_stages]
    runner = _Runner({stage.name: stage for stage in stages})
    options_of_sweep: Any = {"context": subject, "journal": journal_path, "seed": seed, "progress": lambda state: None}
    threads = sweep(_quickest_threads, [{"what": "threads"}], **options_of_sweep).values["threads"][0]
    with operation_threads(int(threads)):
        still = unfinished(runner, points, context=subject, journal=journal_path, seed=seed)
        plan = TimePlan(subject, [wanted_stages[index] for index in still], seconds, wanted, began=began)
        runner = replace(runner, plan=plan, started=_announcer(progress, wanted_stages, plan))
        result = sweep(runner, points, retry_failed=True, **options_of_sweep)
        if plan.another_round(len(result.errors)):
            result = sweep(runner, points, retry_failed=True, **options_of_sweep)
    outcomes = _outcomes(stages, list(wanted), result, plan)
    report = Report(target, journal_path, outcomes, _provenance(subject, seconds, int(threads), result))
    write_text(target, render(report, subject))
    return report


def _quickest_threads(point: Any, subject: Subject, seed: int) -> dict[str, int]:
    """The CPU threads per operation: measured once and journalled, since the last bits of all numbers depend on it."""
    return {"threads": subject.quickest_threads()}


def _read(
    model: nn.Module, data: ImageSource, training: ImageSource | None, metric: MetricName | Metric | None
) -> tuple[InMemory, InMemory | None, MetricName | Metric]:
    """Data and training data in memory, and the metric; by default, the usual one of the data."""
    if metric is None:
        data = as_examples(data, model)
        metric = "error" if "class" in target_kinds(data) else usual_metric(data)
    read = data_for(metric, data, model)
    if training is None:
        return read, None, metric
    other = data_for(metric, training, model)
    if isinstance(read, ImageData) and isinstance(other, ImageData):
        other, read = numbered_alike(other, read)
    elif isinstance(read, ImageData) or isinstance(other, ImageData):
        raise ValueError(f"expected training data of the same kind as {read!r}, got {other!r}")
    return read, other, metric


def _announcer(
    progress: bool | Callable[[str], None], stages: Sequence[Stage], plan: TimePlan
) -> Callable[[Stage], None] | None:
    """What is called with each stage that starts."""
    if progress is True:
        return StageProgress(stages, plan)
    return (lambda stage: progress(stage.name)) if progress else None


@dataclass(frozen=True)
class _Runner:
    """Run the stage named by a point."""

    stages: Mapping[str, Stage]
    plan: TimePlan | None = None
    started: Callable[[Stage], None] | None = None

    def __sweep_fingerprint__(self) -> Any:
        return deciding(self, aside={"started", "plan"})  # neither decides what a stage computes from its sizes

    def __call__(self, point: Any, subject: Subject, seed: int) -> dict[str, str]:
        stage, plan = self.stages[point["stage"]], self.plan
        if plan is None:
            raise RuntimeError("expected a plan of the time, got none")
        if self.started is not None:
            self.started(stage)
        try:
            section, spent = plan.run(stage)
        except NotApplicableError as reason:
            return {"not_applicable": str(reason)}
        return {"section": section.to_json(), "spent": spent.to_json()}


def _wanted(stages: Sequence[Stage], skip: Sequence[str], options: Mapping[str, Options]) -> dict[str, dict[str, Any]]:
    """The stages to run, with the options that are given for them."""
    names = [stage.name for stage in stages]
    for name in (*skip, *options):
        if name not in names:
            raise ValueError(f"expected stages among {', '.join(names)}, got {name!r}")
    for stage in stages:
        stage.options(changed=options.get(stage.name))  # refuses those that it does not have
    if set(names) <= set(skip):
        raise ValueError("expected a stage to run, got all of them skipped; skip fewer")
    return {stage.name: dict(options.get(stage.name, {})) for stage in stages if stage.name not in skip}


def _outcomes(
    stages: Sequence[Stage], wanted: Sequence[str], result: SweepResult, plan: TimePlan
) -> tuple[Outcome, ...]:
    rows = {name: row for row, name in enumerate(wanted)}
    return tuple(
        _outcome(stage, rows[stage.name], result, plan)
        if stage.name in rows
        else Outcome(stage, "skipped", reason="skipped on request")
        for stage in stages
    )


def _outcome(stage: Stage, row: int, result: SweepResult, plan: TimePlan) -> Outcome:
    seconds = float(result.seconds[row])
    if stage.name in plan.left_out:
        return Outcome(stage, "left out", reason=plan.left_out[stage.name], seconds=seconds)
    if row in result.errors:
        text = result.errors[row]
        return Outcome(stage, "failed", reason=last_line(text), details=text, seconds=seconds)
    if reason := _value(result, "not_applicable", row):
        return Outcome(stage, "not applicable", reason=reason, seconds=seconds)
    section = Section.from_json(_value(result, "section", row) or "")
    return Outcome(stage, "done", section, seconds=seconds, spent=Spent.from_json(_value(result, "spent", row) or "{}"))


def _value(result: SweepResult, name: str, row: int) -> str | None:
    """The text for one point; None (or NaN) if the point has no such value."""
    value = result.values[name][row] if name in result.values else None
    return value if isinstance(value, str) and value else None


def _allowed(subject: Subject) -> dict[str, str]:
    """The change for the worse that was allowed, as far as it was asked for."""
    if subject.metric == "error" and subject.rise is None:
        return {"accuracy_drop": str(subject.accuracy_drop)}
    return {} if subject.allowed is None else {"rise": str(subject.allowed)}


def _provenance(subject: Subject, budget: float, threads: int, result: SweepResult) -> dict[str, str]:
    facts = {key: str(value) for key, value in asdict(result.provenance).items() if key not in ("function", "context")}
    parameter = next(subject.model.parameters())
    return {
        "model": type(subject.model).__name__,
        "model_code": subject.expressions.model,
        "model_fingerprint": fingerprint(subject.model),
        "model_dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
        "data": subject.data.name,
        "data_images": str(len(subject.data)),
        "data_fingerprint": subject.data.fingerprint,
        "training": "none" if subject.training is None else subject.training.name,
        "training_fingerprint": "" if subject.training is None else subject.training.fingerprint,
        "budget": duration(budget),
        "threads": str(threads),
        "threads_of_process": str(subject.threads),
        "memory_bound_gb": f"{subject.memory / 1e9:g}",
        "metric": subject.measure.name,
        **_allowed(subject),
        **facts,
    }
