"""Test papers' claims: expected, measured, verdict."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import nn

from ...data import ImageData, ImageSource, as_data, digits
from ...data.classes import numbered_alike
from ...graph.eval_mode import check_eval
from ...models import load_model
from ...records import Shown
from ..subject import Subject
from . import he2015, he2016, li2018, veit2016
from .claim import Claim, Measured, Paper
from .evidence import Evidence

PAPERS: dict[str, Paper] = {paper.PAPER.name: paper.PAPER for paper in (veit2016, li2018, he2015, he2016)}


@dataclass(frozen=True)
class Verdict:
    """A claim and its outcome.

    Attributes:
        claim: the claim.
        measured: the measurement; None if it failed.
        error: why it failed, or "".
        seconds: its running time.
    """

    claim: Claim
    measured: Measured | None
    error: str
    seconds: float

    @property
    def verdict(self) -> str:
        """``holds``, ``does not hold``, ``agrees``, ``disagrees``, ``inconclusive``, or ``failed``."""
        return "failed" if self.measured is None else self.claim.verdict(self.measured)


@dataclass(frozen=True, eq=False)
class Reproduction(Shown):
    """The claims of one paper, measured on one network.

    Attributes:
        paper: the paper.
        verdicts: in the order of the paper.
        model: the network's class.
        data: name of the images.
        images: their number.
        seed: of all random draws.
    """

    paper: Paper
    verdicts: tuple[Verdict, ...]
    model: str
    data: str
    images: int
    seed: int

    @property
    def failed(self) -> list[str]:
        """Names of the claims whose measurement failed."""
        return [verdict.claim.name for verdict in self.verdicts if verdict.measured is None]

    def to_pandas(self) -> pd.DataFrame:
        """One row per claim: what the paper says, what is expected, what was measured, the verdict."""
        return pd.DataFrame(
            [
                {
                    "claim": verdict.claim.name,
                    "kind": verdict.claim.kind,
                    "where": verdict.claim.where,
                    "statement": verdict.claim.statement,
                    "expected": verdict.claim.expected,
                    "measured": verdict.error if verdict.measured is None else verdict.measured.text,
                    "verdict": verdict.verdict,
                    "seconds": verdict.seconds,
                }
                for verdict in self.verdicts
            ]
        )


def reproduce(
    paper: str,
    claims: Sequence[str] | None = None,
    *,
    model: nn.Module | None = None,
    data: ImageSource | None = None,
    training: ImageSource | None = None,
    seed: int = 0,
    seeds: int = 3,
    progress: Callable[[Claim], None] | None = None,
) -> Reproduction:
    """Test the claims of a paper, in quick versions, on your network or the embedded one.

    Claims about training are measured on small twins, trained on the spot for a few epochs from several seeds each. A
    difference counts if its 95 % interval (Student's t) excludes zero. Otherwise it is inconclusive, as with fewer
    than three seeds or with a network that has not learnt enough. So if there is no difference, at most one in twenty
    such claims is reported to hold. Statements that follow from definitions are checks of this library, and are named
    so.

    Args:
        paper: ``veit2016``, ``li2018``, ``he2015`` or ``he2016``.
        claims: names of some of its claims; None: all.
        model: the network, in eval mode (default: the embedded ResNet-56).
        data: images for it (default: the embedded test digits).
        training: images for training small twins (default: the embedded training digits; all of your own data).
        seed: of all random draws.
        seeds: number of training runs of each small twin, with seeds starting at `seed`.
        progress: called with each claim before it is measured.

    Returns:
        A verdict for each claim.

    Raises:
        ValueError: an unknown paper or claim, no seeds, a model in training mode or without blocks.

    Cost: seconds for a claim of the network; one of trainings, `seeds` times two trainings of 10 to 20 s on one core.

    Example:
        >>> result = reproduce("veit2016", ["path-count"])
        >>> result.to_pandas()[["measured", "verdict"]].values.tolist()
        [['0.4537% of the 2^54 paths', 'agrees']]
    """
    data = None if data is None else as_data(data)
    training = None if training is None else as_data(training)
    source = PAPERS.get(paper)
    if source is None:
        raise ValueError(f"expected a paper among {', '.join(PAPERS)}, got {paper!r}{_near(paper, list(PAPERS))}")
    known = {claim.name: claim for claim in source.claims}
    for name in claims or ():
        if name not in known:
            raise ValueError(f"expected claims among {', '.join(known)}, got {name!r}{_near(name, list(known))}")
    if seeds < 1:
        raise ValueError(f"expected at least 1 seed, got {seeds}")
    if data is not None and training is not None:
        training, data = numbered_alike(training, data)
    evidence = _evidence(model, data, training, seed, seeds)
    wanted = [claim for claim in source.claims if claims is None or claim.name in claims]
    verdicts = tuple(_measured(claim, evidence, progress) for claim in wanted)
    subject = evidence.subject
    return Reproduction(source, verdicts, type(subject.model).__name__, subject.data.name, len(subject.data), seed)


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _evidence(
    model: nn.Module | None, data: ImageData | None, training: ImageData | None, seed: int, seeds: int
) -> Evidence:
    if model is not None:
        check_eval(model)
    images = digits("test") if data is None else data
    others = training if training is not None else digits("train") if data is None else data
    subject = Subject(load_model("embedded") if model is None else model, images, others, seed=seed)
    len(subject.net)
    return Evidence(subject, others, seeds=seeds)


def _measured(claim: Claim, evidence: Evidence, progress: Callable[[Claim], None] | None) -> Verdict:
    if progress is not None:
        progress(claim)
    start = time.perf_counter()
    try:
        found, error = claim.measure(evidence), ""
    except Exception as problem:  # one claim that fails must not cost the others
        found, error = None, f"{type(problem).__name__}: {problem}"
    return Verdict(claim, found, error, time.perf_counter() - start)
