"""The page: sections, figures and tables in one HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from ..data.metrics import METRICS
from ..nouns import counted
from ..tables import json_rows
from .columns import meaning
from .measure import Measure
from .pictures import distinct
from .section import Headline, Picture, Table
from .subject import Subject
from .words import number, percent

if TYPE_CHECKING:
    from .write import Report

JSON_VERSION = 1
"""Of the form of the numbers as JSON; it changes if a reader of the former form would misread them."""
_SHOWN = 60


def render(report: Report, subject: Subject) -> str:
    """The page as text: one script, which the page's policy knows by its hash, and nothing loaded from anywhere.

    Args:
        report: the outcomes of the stages.
        subject: the model and the images.
    """
    name = f"{type(subject.model).__name__} on {subject.data.name}"
    latencies = [latency for section in report.sections for latency in section.latencies]
    return rendered(
        "report.html",
        name=name,
        headline=next((s.headline for s in report.sections if s.headline is not None), Headline(name)),
        latencies=json.dumps([[one.dropped, one.share, percent(one.share), one.below] for one in latencies]),
        report=report,
        provenance=report.provenance,
        nouns=subject.data.nouns,
        glossary=_glossary(subject),
        meaning=partial(meaning, measure=subject.measure, noun=subject.data.noun),
        stages=report.to_pandas(),
        everything=data_uri("application/json", json.dumps(everything(report), indent=1)),
    )


def _glossary(subject: Subject) -> list[tuple[str, str]]:
    """The words of a page about a metric, with their meanings."""
    measure, nouns = subject.measure, subject.data.nouns
    logits = "Logits are the model's outputs for the classes."
    loss = f"{logits} The loss is the cross-entropy of their softmax with the true class, in nats."
    interval = (
        f"How much the number would vary with other {nouns} of the same kind: in 95 of 100 such samples, the interval "
        "contains the true value."
    )
    point = "A difference of 1 % is one (percentage) point."
    if subject.has_classes:
        shares = f"Share of {nouns} that are classified wrongly, or correctly. {point}"
        words = [("error, accuracy, point", shares), ("loss, logit", loss)]
    else:
        words = (
            []
            if subject.loss is None
            else [("loss", f"What gradients, the loss surface and curvature are of. {_meaning(subject)}")]
        )
    if measure.name not in ("error", "loss") or not subject.has_classes:
        words.insert(0, (measure.words, f"{measure.meaning}{f' {point}' if measure.share else ''}"))
    return [*words, ("95 % interval", interval)]


def _meaning(subject: Subject) -> str:
    """What the loss is of which gradients are taken."""
    name = "" if subject.loss is None else subject.loss.name
    if name in METRICS:
        return Measure.of(METRICS[name], subject.noun).meaning
    return "The metric itself." if subject.measure.is_own else "The binary cross-entropy of the labels, in nats."


def rendered(template: str, **values: Any) -> str:
    """A page as text: our style, one script, and the values of its template.

    Args:
        template: its name.
        **values: what the template names.
    """
    script = explorer_module() + own_file("page.js")
    page = _templates().get_template(template)
    return page.render(
        style=_Plain(own_file("style.css") + own_file("explorer.css")),
        script=_Plain(script),
        script_hash=_Plain(script_hash(script)),
        rows=_rows,
        **{"meaning": None} | values,  # the tables of a comparison have names that explain themselves
    )


@cache
def _templates() -> Environment:
    """The templates, each compiled once: that takes longer than to fill one in."""
    environment = Environment(
        loader=PackageLoader("resnet_paths.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = prose
    environment.filters["counted"] = counted
    environment.filters["data_text"] = data_text
    environment.filters["inline"] = inline
    environment.filters["csv"] = lambda text: data_uri("text/csv;charset=utf-8", text)
    return environment


def json_schema() -> dict[str, Any]:
    """The JSON Schema of what `resnet-paths report --json` prints and the page's ``report.json`` holds.

    Example:
        >>> json_schema()["properties"]["version"]
        {'const': 1}
    """
    schema: dict[str, Any] = json.loads((resources.files("resnet_paths.report") / "report.schema.json").read_text())
    return schema


def own_file(name: str) -> str:
    """One of the files beside the template."""
    return (resources.files("resnet_paths.report") / "templates" / name).read_text(encoding="utf-8")


def explorer_module() -> str:
    """The explorer with its evaluator, as one module for the page and for notebooks; it imports nothing."""
    return own_file("evaluator.js") + own_file("explorer.js")


def script_hash(script: str) -> str:
    """What the page's policy allows to run, and nothing else: the hash of the text between the script's tags.

    Example:
        >>> script_hash("alert(1)")
        'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def data_text(text: str) -> Markup:
    r"""JSON as it can stand in a script element: nothing in it ends the element or begins a comment.

    Example:
        >>> str(data_text('{"name": "</script><!--"}'))
        '{"name": "\\u003c/script>\\u003c!--"}'
    """
    return Markup(text.replace("<", "\\u003c"))


class _Plain(str):
    """Our own text, which is not escaped: the style sheet and the script."""

    def __html__(self) -> str:
        return str(self)


def prose(text: str) -> Markup:
    r"""A sentence for the page: escaped, unbreakable percentages, options as code, powers of ten as superscripts.

    Example:
        >>> str(prose("<5 % more with --budget full."))
        '&lt;5\xa0% more with <code>--budget full</code>.'
        >>> str(prose("a difference of 1.9e-07"))
        'a difference of <span class="power">1.9 × 10<sup>-7</sup></span>'
    """
    escaped = str(escape(text)).replace(" %", "\N{NO-BREAK SPACE}%")
    escaped = re.sub(r"(?<![\w.])(\d[\d.]*)e([-+]\d+)\b", _power, escaped)
    return Markup(re.sub(r"--[a-z][a-z-]*(?: full\b)?", r"<code>\g<0></code>", escaped))


def _power(found: re.Match[str]) -> str:
    return f'<span class="power">{found[1]} × 10<sup>{int(found[2])}</sup></span>'


def inline(picture: Picture, prefix: str) -> Markup:
    """A figure as part of the page, with the alternative text as its name.

    Args:
        picture: the figure.
        prefix: what sets its identifiers apart from those of other figures.
    """
    named = f'<svg role="img" aria-label="{escape(picture.alt)}" '
    return Markup(distinct(picture.svg, prefix).replace("<svg ", named, 1))


def data_uri(kind: str, text: str) -> str:
    """A text as a data URI.

    Example:
        >>> data_uri("text/plain", "hi")
        'data:text/plain;base64,aGk='
    """
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def everything(report: Report) -> dict[str, Any]:
    """All tables, findings, warnings and the provenance, as JSON has them; ``report.schema.json`` describes it."""
    return {
        "version": JSON_VERSION,
        "provenance": dict(report.provenance),
        "stages": [
            {
                "stage": outcome.stage.name,
                "status": outcome.status,
                "reason": outcome.reason,
                "seconds": None if math.isnan(outcome.seconds) else outcome.seconds,
                "given": outcome.spent.given,
                "options": dict(outcome.spent.options),
                "shrunk": {name: [used, wanted] for name, used, wanted in outcome.spent.shrunk},
            }
            for outcome in report.outcomes
        ],
        "findings": report.findings,
        "warnings": report.warnings,
        "tables": {name: json_rows(frame) for name, frame in report.tables.items()},
    }


def _rows(table: Table) -> dict[str, Any]:
    """A table for reading: its first rows, rounded."""
    frame = table.frame()
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) and frame[name].dtype != bool for name in frame]
    body = [[_cell(value) for value in row] for row in frame.head(_SHOWN).itertuples(index=False)]
    heads = [(str(name).replace("_", " "), str(name)) for name in frame]
    return {"heads": list(zip(heads, numeric, strict=True)), "body": body, "total": len(frame), "numeric": numeric}


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or hasattr(value, "__index__"):
        return f"{value:,}" if abs(int(value)) < 10**15 else f"{float(value):.3e}"
    if isinstance(value, float):
        return "" if value != value else number(value, 4)
    return str(value)
