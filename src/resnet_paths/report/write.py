"""One command, one report: every analysis on one model, as one HTML file.

The stages run as points of a sweep, for its journal: a report takes minutes to hours, and after a kill or a failed
stage the same call computes only what is missing. They run one after the other in this process, since each uses all
cores and all share the unrolled network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ..arguments import Range, checked
from ..choices import Budget
from ..data import ImageSource, as_data
from ..data.classes import numbered_alike
from ..files import write_text
from ..graph.eval_mode import check_eval
from ..graph.model_fingerprint import fingerprint
from ..records import Shown
from ..sweep import SweepResult, sweep
from ..sweep.fingerprints import deciding
from ..sweep.result import last_line
from .page import render
from .progress import StageProgress
from .section import Section
from .stage import BUDGETS, NotApplicableError, Options, Stage
from .stages import STAGES
from .subject import Expressions, Subject


@dataclass(frozen=True, eq=False)
class Outcome:
    """The outcome of a stage.

    Attributes:
        stage: the stage.
        status: ``done``, ``skipped``, ``not applicable`` or ``failed``.
        section: its results, if it is done.
        reason: why not, if it is not done.
        details: the traceback, if it failed.
        seconds: its running time.
        options: the options used.
    """

    stage: Stage
    status: str
    section: Section | None = None
    reason: str = ""
    details: str = ""
    seconds: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)


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
        """One row per stage: its outcome."""
        return pd.DataFrame(
            [
                {"stage": o.stage.name, "status": o.status, "reason": o.reason, "seconds": o.seconds}
                for o in self.outcomes
            ]
        )


# Fifteen parameters: what the report is about (four), what is measured and how (seven), and what is written (four).
# Nearly all are options of the command line; a script that calls this sets two or three of them.
@checked(accuracy_drop=Range(0, 1))
def write_report(
    model: nn.Module,
    data: ImageSource,
    out: str | Path = "report.html",
    *,
    training: ImageSource | None = None,
    twin: nn.Module | None = None,
    budget: Budget = "quick",
    skip: Sequence[str] = (),
    accuracy_drop: float = 0.02,
    seed: int = 0,
    batch_size: int = 100,
    expressions: Expressions | None = None,
    options: Mapping[str, Options] | None = None,
    journal: str | Path | None = None,
    progress: bool | Callable[[str], None] = True,
    stages: Sequence[Stage] = STAGES,
) -> Report:
    """Run every analysis on a model and write one self-contained HTML file.

    Each finished stage is stored in a journal under a fingerprint of everything that determines it: the model, the
    images, the options, the seed and the code. A second call computes only what is missing or has failed. A kill
    loses at most the running stage and what finished less than a fifth of a second before it. A failed stage does not
    stop the others: the page shows its error.

    Args:
        model: a residual model in eval mode; it is not changed.
        data: the images on which numbers are reported.
        out: the file to write.
        training: images for choosing blocks and estimating batch-norm statistics; None: one half of `data`.
        twin: a second model for the same images, to compare with (such as the same layers without shortcuts).
        budget: ``quick`` (minutes on a CPU) or ``full``.
        skip: names of stages to skip.
        accuracy_drop: fall of accuracy allowed for the blocks that are recommended for dropping, shown with 95 %
            confidence on held-out images.
        seed: of all random draws.
        batch_size: images per batch.
        expressions: Python expressions that make the model and the images, for the code shown on the page.
        options: options to change, by stage.
        journal: the file that stores finished stages (default: beside `out`, with the suffix ``.journal``).
        progress: print a line to stderr for each stage that starts, or a function to be called with its name.
        stages: the stages to run.

    Returns:
        The outcome of each stage, with all tables.

    Raises:
        ValueError: an unknown budget, stage or option; a model in training mode, without blocks, that does not take
            the images or gives NaN for them.

    Cost: about a minute under the quick budget for the embedded network; see each stage's options.

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
    data = as_data(data)
    training = None if training is None else as_data(training)
    if training is not None:
        training, data = numbered_alike(training, data)
    wanted = _wanted(stages, skip, budget, options or {})
    check_eval(model)
    target = Path(out)
    if target.is_dir():
        raise ValueError(
            f"expected a file to write, got the folder {out}; pass a name such as {target / 'report.html'}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    place = Path(journal) if journal is not None else target.with_name(target.name + ".journal")
    written = expressions or Expressions()
    subject = Subject(model, data, training, twin, written, accuracy_drop, seed, batch_size)
    subject.check()
    points = [{"stage": name, "options": given} for name, given in wanted.items()]
    if progress is True:
        progress = StageProgress([stage for stage in stages if stage.name in wanted])
    runner = _Runner({stage.name: stage for stage in stages}, progress or None)
    result = sweep(
        runner, points, context=subject, journal=place, seed=seed, retry_failed=True, progress=lambda state: None
    )
    outcomes = _outcomes(stages, wanted, result)
    report = Report(target, place, outcomes, _provenance(subject, budget, result))
    write_text(target, render(report, subject))
    return report


@dataclass(frozen=True)
class _Runner:
    """Run the stage named by a point."""

    stages: Mapping[str, Stage]
    started: Callable[[str], None] | None

    def __sweep_fingerprint__(self) -> Any:
        return deciding(self, aside={"started"})  # who is told of a stage

    def __call__(self, point: Any, subject: Subject, seed: int) -> dict[str, str]:
        stage = self.stages[point["stage"]]
        if self.started is not None:
            self.started(stage.name)
        try:
            return {"section": stage.run(subject, point["options"]).to_json()}
        except NotApplicableError as reason:
            return {"not_applicable": str(reason)}


def _wanted(
    stages: Sequence[Stage], skip: Sequence[str], budget: str, options: Mapping[str, Options]
) -> dict[str, dict[str, Any]]:
    """The options of each stage to run."""
    names = [stage.name for stage in stages]
    if budget not in BUDGETS:
        raise ValueError(f"expected budget {' or '.join(map(repr, BUDGETS))}, got {budget!r}")
    for name in (*skip, *options):
        if name not in names:
            raise ValueError(f"expected stages among {', '.join(names)}, got {name!r}")
    return {stage.name: stage.options(budget, options.get(stage.name)) for stage in stages if stage.name not in skip}


def _outcomes(
    stages: Sequence[Stage], wanted: Mapping[str, Mapping[str, Any]], result: SweepResult
) -> tuple[Outcome, ...]:
    rows = {name: row for row, name in enumerate(wanted)}
    found = []
    for stage in stages:
        row = rows.get(stage.name)
        if row is None:
            found.append(Outcome(stage, "skipped", reason="skipped on request"))
            continue
        common: dict[str, Any] = {"seconds": float(result.seconds[row]), "options": wanted[stage.name]}
        if row in result.errors:
            text = result.errors[row]
            found.append(Outcome(stage, "failed", reason=last_line(text), details=text, **common))
        elif reason := _value(result, "not_applicable", row):
            found.append(Outcome(stage, "not applicable", reason=reason, **common))
        else:
            section = Section.from_json(_value(result, "section", row) or "")
            found.append(Outcome(stage, "done", section, **common))
    return tuple(found)


def _value(result: SweepResult, name: str, row: int) -> str | None:
    """A text of one point; None (or NaN) if the point has no such value."""
    value = result.values[name][row] if name in result.values else None
    return value if isinstance(value, str) and value else None


def _provenance(subject: Subject, budget: str, result: SweepResult) -> dict[str, str]:
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
        "budget": budget,
        "accuracy_drop": str(subject.accuracy_drop),
        **facts,
    }
