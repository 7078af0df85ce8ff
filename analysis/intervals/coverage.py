"""Simulate the coverage of every interval of the library, and write docs/explanation/intervals.md.

    python analysis/intervals/coverage.py [--tries 2000] [--out docs/explanation/intervals.md]

Each row draws data with a known truth and computes the interval with the library's own function, `tries` times (fewer
where one costs a tenth of a second; the column says how many). Only the sampled path norms run a network.
"""

# ruff: noqa: E501, the prose of the page is one line a paragraph

import argparse
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binom, norm

from resnet_paths import __version__, unroll
from resnet_paths.comparison.paired import statistics
from resnet_paths.data import digits
from resnet_paths.lesion import METRICS
from resnet_paths.models import load_model
from resnet_paths.paths import sample_path_gradients
from resnet_paths.statistics import (
    bootstrap_means,
    combined_intervals,
    correlation_ranges,
    design_interval,
    difference_interval,
    fall_at_most,
    log_student_interval,
    mean_intervals,
    norm_intervals,
    pooled_norm_intervals,
    roc_area_difference_interval,
    roc_area_interval,
    share_interval,
    spearman,
    squared_calibration_interval,
    student_intervals,
)
from resnet_paths.tradeoff import cascade_threshold

ROOT = Path(__file__).resolve().parents[2]
Ends = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One regime: the coverage of the interval, and the number of tries (None: exact)."""

    regime: str
    coverage: float
    tries: int | None


def held(ends: Ends, truth: float | np.ndarray) -> float:
    return float(((ends[0] <= truth) & (truth <= ends[1])).mean())


# Shares


def shares(tries: int) -> Iterator[Row]:
    for n, p in ((50, 0.01), (50, 0.1), (50, 0.5), (200, 0.01), (200, 0.06), (200, 0.5), (1000, 0.002), (1000, 0.06)):
        seen = np.arange(n + 1)
        ends = np.array([share_interval(k / n, n) for k in seen]).T
        inside = (ends[0] <= p) & (p <= ends[1])
        yield Row(f"{n} images, share {100 * p:g} %", float(binom.pmf(seen, n, p)[inside].sum()), None)


@functools.cache
def _difference(n: int, lost: int, won: int) -> tuple[float, float]:
    first, second = np.zeros(n), np.zeros(n)
    second[:lost] = 1
    first[lost : lost + won] = 1
    return difference_interval(first, second)


def paired(n: int, lost: float, won: float) -> float:
    """Exact coverage of the difference, over all numbers of images lost and won."""
    total = 0.0
    for b in range(int(binom.ppf(1 - 1e-6, n, lost)) + 1):
        for c in range(int(binom.ppf(1 - 1e-6, n - b, won / (1 - lost))) + 1):
            low, high = _difference(n, b, c)
            weight = binom.pmf(b, n, lost) * binom.pmf(c, n - b, won / (1 - lost))
            total += weight * (low <= lost - won <= high)
    return float(total)


def differences(tries: int) -> Iterator[Row]:
    regimes = (
        (50, 0.02, 0.0), (200, 0.001, 0.0), (200, 0.005, 0.0), (200, 0.02, 0.01), (200, 0.1, 0.02), (500, 0.001, 0.0),
        (500, 0.02, 0.005), (1000, 0.01, 0.005),
    )  # fmt: skip
    for n, lost, won in regimes:
        yield Row(f"{n} images, {100 * lost:g} % lost, {100 * won:g} % won", paired(n, lost, won), None)


def falls(tries: int) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    for n, lost, won in ((200, 0.02, 0.0), (200, 0.05, 0.02), (1000, 0.02, 0.01)):
        inside = 0
        for _ in range(tries // 4):
            drawn = generator.random(n)
            inside += fall_at_most(drawn > won, (drawn <= won) | (drawn > won + lost)) >= lost - won
        yield Row(f"{n} images, {100 * lost:g} % lost, {100 * won:g} % won", inside / (tries // 4), tries // 4)


def promises(tries: int) -> Iterator[Row]:
    generator, tries = np.random.default_rng(0), tries // 4
    for n, share, rate in ((300, 0.03, 0.2), (1500, 0.01, 0.2), (1500, 0.05, 0.5)):
        margins = generator.random(50000)
        same = generator.random(50000) < 1 - rate * (1 - margins)
        kept = 0
        for _ in range(tries):
            drawn = generator.integers(0, len(margins), n)
            found = cascade_threshold(margins[drawn], same[drawn], disagreement=share)
            kept += (~same & (margins >= found.margin)).mean() <= share
        yield Row(f"{n:,} images, at most {100 * share:g} % promised", kept / tries, tries)


def medians(tries: int) -> Iterator[Row]:
    generator, tries = np.random.default_rng(0), tries // 8
    for n, truths, shared in ((200, np.linspace(0.005, 0.05, 10), 0.5), (200, np.linspace(0.05, 0.4, 20), 0.8)):
        inside = 0
        for _ in range(tries):
            alike = generator.random(n) < shared
            wrong = np.where(alike, generator.random(n), generator.random((len(truths), n))) < truths[:, None]
            drawn = np.median(bootstrap_means(wrong.astype(float), 200), axis=1)
            low, high = design_interval(float(np.median(wrong.mean(1))), drawn, n, share=True)
            inside += low <= np.median(truths) <= high
        errors = f"{100 * truths[0]:g} to {100 * truths[-1]:g} %"
        yield Row(f"{n} images, {len(truths)} sets with errors of {errors}", inside / tries, tries)


# Means


def _spiked(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return np.where(generator.random(shape) < 0.05, generator.normal(2, 1, shape), generator.normal(0, 0.01, shape))


# Calibration and detection


def calibrations(tries: int) -> Iterator[Row]:
    """The truth is the square of a gap that is the same at every certainty, so that it does not depend on the bins."""
    generator, tries = np.random.default_rng(0), tries // 8
    for n, shape, gap, other in (
        (200, (6, 2), 0.0, None), (200, (6, 2), 0.1, None), (800, (6, 2), 0.0, None), (800, (6, 2), 0.05, None),
        (500, (40, 1), 0.0, None), (800, (40, 1), 0.02, None), (500, (6, 2), 0.1, 0.05), (800, (40, 1), 0.04, 0.02),
    ):  # fmt: skip
        inside = 0
        for _ in range(tries):
            chance = generator.beta(*shape, n) * (1 - max(gap, other or 0))
            labels = (generator.random(n) >= chance).astype(int)
            first, second = (np.stack([chance + d, np.zeros(n)], 1) for d in (gap, other or 0.0))
            reference = None if other is None else second
            low, high = squared_calibration_interval(first, labels, reference=reference, draws=500)
            inside += low <= gap**2 - (other or 0.0) ** 2 <= high
        mean = shape[0] / sum(shape)
        gaps = f"gap {gap:g}" if other is None else f"difference of gaps {gap:g} and {other:g}"
        yield Row(f"{n} images, mean certainty {mean:.2f}, {gaps}", inside / tries, tries)


def areas(tries: int) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    for positive, negative, shift in ((20, 20, 1.0), (50, 50, 1.0), (50, 200, 0.0), (200, 200, 2.3), (200, 200, 4.0)):
        truth, inside = float(norm.cdf(shift / np.sqrt(2))), 0
        for _ in range(tries):
            low, high = roc_area_interval(generator.normal(shift, 1, positive), generator.normal(size=negative))
            inside += low <= truth <= high
        yield Row(f"{positive} and {negative} images, area {truth:.3f}", inside / tries, tries)


def area_differences(tries: int) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    for count, shifts, correlation in ((50, (1.0, 1.0), 0.7), (200, (1.0, 1.5), 0.7), (200, (2.3, 2.5), 0.95)):
        truth, inside = float(np.subtract(*norm.cdf(np.array(shifts) / np.sqrt(2)))), 0
        covariance = [[1, correlation], [correlation, 1]]
        for _ in range(tries):
            positive, negative = (generator.multivariate_normal([0, 0], covariance, count).T for _ in range(2))
            pairs = [(positive[row] + shifts[row], negative[row]) for row in range(2)]
            low, high = roc_area_difference_interval(pairs[0], pairs[1])
            inside += low <= truth <= high
        yield Row(
            f"{count} images of either kind, scores correlated {correlation:g}, difference {truth:+.3f}",
            inside / tries,
            tries,
        )


LAWS: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], np.ndarray], float]] = {
    "normal": (lambda g, s: g.normal(size=s), 0.0),
    "exponential": (lambda g, s: g.exponential(size=s), 1.0),
    "log-normal, sigma 1": (lambda g, s: g.lognormal(0, 1, s), np.exp(0.5)),
    "log-normal, sigma 2": (lambda g, s: g.lognormal(0, 2, s), np.exp(2.0)),
    "one image in twenty changes": (_spiked, 0.1),
}


def means(tries: int) -> Iterator[Row]:
    for law, (draw, truth) in LAWS.items():
        for n in (50, 200, 1000):
            values = draw(np.random.default_rng(0), (tries // 2, n))
            yield Row(f"{law}, {n} images", held(mean_intervals(values), truth), tries // 2)


def ratios(tries: int) -> Iterator[Row]:
    """Texts of log-normal length (sigma 0.8), whose mean loss varies by text (3 nats on average) and by token."""
    generator, metric, truth = np.random.default_rng(0), METRICS["perplexity"], np.exp(3.0)
    for n in (30, 100, 300):
        size = tries // 4, n
        tokens = np.maximum(2, np.round(generator.lognormal(3, 0.8, size)))
        losses = generator.gamma(4, 0.75, size) + 1.5 * generator.normal(size=size) / np.sqrt(tokens)
        parts = np.stack([losses * tokens, tokens], -1)
        yield Row(f"perplexity of {n} texts", held(mean_intervals(metric.values(parts)), truth), tries // 4)
        apart = mean_intervals(np.exp(losses))
        yield Row(f"{n} texts, for comparison: mean of each text's own perplexity", held(apart, truth), tries // 4)


def students(tries: int) -> Iterator[Row]:
    for law in ("normal", "exponential", "log-normal, sigma 2"):
        draw, truth = LAWS[law]
        for n in (50, 200):
            values = draw(np.random.default_rng(0), (tries, n))
            mean, error = values.mean(1), values.std(1, ddof=1) / np.sqrt(n)
            yield Row(f"{law}, {n} images", held((mean - 1.96 * error, mean + 1.96 * error), truth), tries)


def combined(tries: int) -> Iterator[Row]:
    generator, draws, images = np.random.default_rng(0), 10, 60
    for over_images, over_draws, both in ((1.0, 1.0, 3.0), (1.0, 0.1, 0.3), (0.1, 1.0, 0.3)):
        gains = both * generator.normal(size=(tries, draws, images))
        gains += over_images * generator.normal(size=(tries, 1, images))
        gains += over_draws * generator.normal(size=(tries, draws, 1))
        errors = gains.mean(2).std(1, ddof=1) / np.sqrt(draws)
        rest = gains - gains.mean(1, keepdims=True) - gains.mean(2, keepdims=True) + gains.mean((1, 2), keepdims=True)
        shared = (rest**2).sum((1, 2)) / (draws - 1) / (images - 1) / draws / images
        spreads = f"spread over images {over_images:g}, over orders {over_draws:g}, both {both:g}"
        yield Row(
            f"{draws} pairs of orders; {spreads}",
            held(combined_intervals(gains.mean(1), errors, shared, draws), 0.0),
            tries,
        )


def compared(tries: int) -> Iterator[Row]:
    """Differences of two models on 32 images (the default for gradients), through the statistics of `compare`."""
    generator, images = np.random.default_rng(0), 32
    image = generator.normal(size=(tries, 1, images))  # what makes an image hard is hard for both models
    apart = generator.normal(size=(tries, 2, images)) * [[0.3], [0.3]] + [[0.0], [0.2]]
    yield _compared("contribution", image + apart, 0.2, "contributions of a block; models apart by 0.3 per image")
    weights = generator.gamma(2.0, size=(tries, 1, images, 8)) + generator.gamma(0.5, size=(tries, 2, images, 8))
    weights[:, 1, :, 0] *= 1.5
    shares = weights / weights.sum(-1, keepdims=True)
    truth = float(np.diff(shares[..., 0].mean((0, 2)))[0])  # of many images; its own error is a hundredth of a width
    yield _compared("share", shares[..., 0], truth, "share of one of 8 path lengths, skewed")


def _compared(name: str, values: np.ndarray, truth: float, regime: str) -> Row:
    """Coverage of a paired difference; each try is a row of matched blocks, or a path length."""
    both = values.transpose(1, 0, 2)
    rows = np.arange(len(values))[None].repeat(2, 0)
    measured = {
        "full": both[:, 0],
        "deleted": both,
        "deletion": both[:, :1],
        "frontier": both[:, :1],
        "share": both[:, :1],
    }
    made = statistics(measured | {name: both}, rows, "loss", 0.95)
    named = {"share": "gradient"}.get(name, name)
    ends = made[f"{named}_difference_low"][1], made[f"{named}_difference_high"][1]
    return Row(f"{regime}, {values.shape[-1]} images", held(ends, truth), len(values))


def compared_orders(tries: int) -> Iterator[Row]:
    """Differences of Shapley values of two models that share their orders, to a greater or lesser extent."""
    generator, draws, images = np.random.default_rng(0), 10, 60
    for alike in (0.0, 0.5, 1.0):
        common = [generator.normal(size=(1, tries, *shape)) for shape in ((1, images), (draws, 1), (draws, images))]
        own = [generator.normal(size=(2, tries, *shape)) for shape in ((1, images), (draws, 1), (draws, images))]
        gains = sum(np.sqrt(alike) * both + np.sqrt(1 - alike) * each for both, each in zip(common, own, strict=True))
        gains = gains + 0.05 * generator.normal(size=(2, tries, 1, images))
        rest = gains - gains.mean(2, keepdims=True) - gains.mean(3, keepdims=True) + gains.mean((2, 3), keepdims=True)
        blank = np.zeros((2, 1, images))
        measured = {"full": blank[:, 0], "deleted": np.zeros((2, tries, images))}
        measured |= dict.fromkeys(("deletion", "frontier", "share"), blank)
        measured |= {
            "shapley": gains.mean(2),
            "shapley_error": gains.mean(3).std(2, ddof=1) / np.sqrt(draws),
            "shapley_shared": (rest**2).sum((2, 3)) / (draws - 1) / (images - 1) / draws / images,
            "orders": np.full(2, 2 * draws),
        }
        made = statistics(measured, np.arange(tries)[None].repeat(2, 0), "loss", 0.95)
        ends = made["shapley_difference_low"][1], made["shapley_difference_high"][1]
        yield Row(f"{draws} pairs of orders, correlation {alike:g} between the models", held(ends, 0.0), tries)


# Random paths, random vectors


@functools.cache
def path_norms() -> np.ndarray:
    """(lengths, examples, paths) norms of random paths of the embedded ResNet-56: their law, to draw few from."""
    data = digits("test").subset(slice(0, 6))
    drawn = sample_path_gradients(
        unroll(load_model("embedded")), data.x, data.labels, lengths=[1, 3, 6, 9, 13], draws=600
    )
    return drawn.norms.permute(0, 2, 1).double().numpy()


def norms(tries: int) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    for draws in (16, 64):
        for spread in (0.5, 1.0):
            values = generator.lognormal(0, spread, (tries // 2, draws))
            yield Row(
                f"log-normal, sigma {spread:g}, {draws} draws",
                held(norm_intervals(values), np.exp(spread**2 / 2)),
                tries // 2,
            )
        known = path_norms().reshape(-1, 600)
        coverages = []
        for norms_of_one in known:
            values = norms_of_one[generator.integers(600, size=(tries // 10, draws))]
            coverages.append(held(norm_intervals(values), norms_of_one.mean()))
        label = f"embedded ResNet-56, {draws} draws: mean of {len(known)} lengths and examples"
        yield Row(label, float(np.mean(coverages)), tries // 10 * len(known))
        yield Row("the same: the worst of them", float(np.min(coverages)), tries // 10)


def pooled(tries: int) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    for draws in (16, 64):
        coverages = []
        for known in path_norms():
            picked = generator.integers(600, size=(tries // 10, draws, len(known)))
            values = np.take_along_axis(np.broadcast_to(known.T, (tries // 10, 600, len(known))), picked, 1)
            coverages.append(held(pooled_norm_intervals(values), known.mean()))
        yield Row(
            f"embedded ResNet-56, 6 images, {draws} draws: mean of 5 lengths",
            float(np.mean(coverages)),
            5 * (tries // 10),
        )


def energies(tries: int) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    for draws in (4, 16):
        values = generator.gamma(4, size=(tries, draws)) / 4
        mean, error = values.mean(1), values.std(1, ddof=1) / np.sqrt(draws)
        yield Row(
            f"{draws} draws with a spread of half of the energy",
            held(log_student_interval(mean, error, draws - 1), 1.0),
            tries,
        )


def traces(tries: int) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(60, 60))
    matrix = (matrix + matrix.T) / 2
    for draws in (8, 32):
        signs = generator.choice([-1.0, 1.0], size=(tries, draws, 60))
        values = np.einsum("tdi,ij,tdj->td", signs, matrix, signs)
        yield Row(
            f"random symmetric 60 x 60 matrix, {draws} vectors",
            held(student_intervals(values), float(np.trace(matrix))),
            tries,
        )


def rough(tries: int) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    for planes in (5, 10, 20):
        values = generator.beta(6, 1.5, (tries // 2, planes))
        low, high = mean_intervals(values, bound=1.0)
        yield Row(f"{planes} planes or models, skewed shares with mean 0.8", held((low, high), 0.8), tries // 2)


def rough_differences(tries: int) -> Iterator[Row]:
    generator = np.random.default_rng(0)
    for planes in (5, 10):
        values = generator.beta(6, 1.5, (tries, planes)) - generator.beta(6, 1.5, (tries, planes))
        yield Row(f"{planes} pairs of skewed shares", held(student_intervals(values), 0.0), tries)


def ranks(tries: int) -> Iterator[Row]:
    generator, tries = np.random.default_rng(0), max(tries // 50, 10)
    for n in (9, 27):
        for spread in (0.5, 1.0, 5.0, 20.0):
            inside = bootstrap = 0
            for _ in range(tries):
                true = generator.normal(size=(n, 2))
                true[:, 1] = 0.9 * true[:, 0] + np.sqrt(0.19) * true[:, 1]
                true = np.exp(0.7 * true)
                first, second = (true[:, [k]] + spread * generator.normal(size=(n, 200)) for k in (0, 1))
                truth = spearman(true[None, :, 0], true[None, :, 1])[0]
                low, high = correlation_ranges(first, second, draws=200)[0]
                inside += low <= truth <= high
                drawn = spearman(bootstrap_means(first, 200), bootstrap_means(second, 200))
                bootstrap += np.quantile(drawn, 0.025) <= truth <= np.quantile(drawn, 0.975)
            yield Row(
                f"{n} blocks, noise {spread:g} per image (bootstrap alone: {100 * bootstrap / tries:.0f} %)",
                inside / tries,
                tries,
            )


@dataclass(frozen=True)
class Kind:
    """An interval of the library."""

    title: str
    where: str
    method: str
    rows: Callable[[int], Iterator[Row]]
    verdict: str


KINDS = (
    Kind(
        "Shares",
        "`lesion.interval` of zeros and ones; `SingleDeletions.low`, `high`, `full_interval`; `low` and `high` of `Comparison`; `SetAnswer.interval`; "
        "`Reorderings.intervals`; the planner's "
        "`accuracy_interval`; accuracies of the report and of `resnet-paths lesion`",
        "Wilson's score interval",
        shares,
        "A valid interval if at least two images of either kind are expected. With fewer, coverage jumps between 91 and 99 %, because counts are integers.",
    ),
    Kind(
        "Differences of shares on the same images",
        "`SingleDeletions.damage_interval` and its columns, `difference` and `damage` of `Comparison`, `Arrangements.damage_interval`, `PathEnsemble.difference`, of error, top-5 error and disagreement",
        "both ends of Tango's (1998) score test",
        differences,
        "A valid interval if about five images or more change. If fewer do, it is conservative, and it never has zero width.",
    ),
    Kind(
        "The largest fall in accuracy",
        "`lesion.fall_at_most`, `PlanPoint.fall_at_most`, the report's recommendation",
        "one-sided score test of Tango (1998)",
        falls,
        "A valid bound: it holds in 95 % of cases or more. The points of a plan are tested in an order that does "
        "not depend on these images, up to the first that fails, so the chosen one needs no correction. Its "
        "*estimate* does: see below.",
    ),
    Kind(
        "The disagreement of a cascade",
        "`cascade_threshold`, `Cascade.threshold.at_most`",
        "Clopper and Pearson's bound along a fixed sequence of thresholds, up to the first that fails",
        promises,
        "The promise holds in 95 % of cases or more. How much more depends on the step size of the sequence.",
    ),
    Kind(
        "Medians over sets of deleted blocks",
        "`RandomDeletions.median_interval`, `Reorderings.by_swaps`",
        "Wilson's interval at the effective number of images, at most all of them (design effect, from the bootstrap); Student's t for other metrics",
        medians,
        "Conservative: sets damaged on the same images have correlated errors, and the median is taken to be no more precise than one of them.",
    ),
    Kind(
        "Means of real values over images",
        "`lesion.interval`, `SingleDeletions.low`, `high` and `damage_interval` of losses and other metrics; `BlockValues.intervals` and "
        "`interaction_intervals` of exhaustive games; `RoughnessStudy.interval`; `ResidualAlignment.intervals`; the other intervals of `Comparison`, `Arrangements` and `PathEnsemble`",
        "on each side, the wider of Student's t and the bootstrap-t",
        means,
        "A valid interval for values no more skewed than a log-normal of sigma 1, from 50 images on. **Not valid** "
        "if a few images in a thousand dominate the mean: a log-normal of sigma 2, or changes of one image in "
        "twenty among 50. Use more images, or `soft_error`, which is bounded. Values without spread have an "
        "infinite interval (bounded metrics: a wide one), not a point.",
    ),
    Kind(
        "Ratios of sums over examples",
        "The same intervals, and `value_interval`, `plain_interval` and `rise_at_most` of `PlanPoint`, of perplexity, "
        "losses and errors of tokens and pixels, and mean IoU",
        "the same interval of the values `f(m) + f'(m) · (p_i - m)` of the examples, with m the means of the parts p_i of which the metric is a function f (the delta method)",
        ratios,
        "A valid interval from about 100 examples on; with 30 texts of such different lengths it is too short. Tokens "
        "of one text are never counted as independent.",
    ),
    Kind(
        "Calibration errors",
        "`statistics.squared_calibration_interval`",
        "the basic bootstrap of the unbiased estimate of the mean squared gap, in 15 bins of equal mass",
        calibrations,
        "A valid interval. If the network is nearly calibrated it is conservative: the bootstrap adds noise a second time.",
    ),
    Kind(
        "Areas under the ROC curve",
        "`statistics.roc_area_interval`",
        "Wilson's interval at the effective number of images by DeLong's variance",
        areas,
        "A valid interval, also for few images, up to an area of 0.95. **Not valid** above 0.99, where a few images decide: too short.",
    ),
    Kind(
        "Differences of areas under the ROC curve",
        "`statistics.roc_area_difference_interval`",
        "Student's t with DeLong's variance of the difference on the same images",
        area_differences,
        "A valid interval.",
    ),
    Kind(
        "Bars of 1.96 standard errors",
        "`Surface.errors` and `TrajectoryLosses.errors` as drawn in plots, `BlockValues.standard_errors`",
        "mean ± 1.96 standard errors",
        students,
        "Not a confidence interval: the plots say 1.96 standard errors.",
    ),
    Kind(
        "Shapley values from sampled orders",
        "`BlockValues.intervals` with more than 16 blocks",
        "Student's t with the two crossed variances, over images and over pairs of orders; degrees of freedom by Welch and Satterthwaite",
        combined,
        "A valid interval for approximately normal values.",
    ),
    Kind(
        "Differences between models, paired by image",
        "`contribution_difference`, `gradient_difference`, `effective_share_difference` and `surface_difference` of `Comparison`, and "
        "`shapley_difference` of up to 16 blocks",
        "as for means of real values, of the differences of images",
        compared,
        "A valid interval, also with the 32 images of which gradients are taken by default.",
    ),
    Kind(
        "Differences of Shapley values from sampled orders",
        "`shapley_difference` of `Comparison`, with more than 16 blocks",
        "as for Shapley values from sampled orders, with the variances over orders of both models added",
        compared_orders,
        "A valid interval if the models' orders have nothing in common. Models with as many blocks share their orders; the more alike the models, the more conservative it is.",
    ),
    Kind(
        "Norms of random paths",
        "`SampledPathGradients.interval`",
        "on each side, the wider of the bootstrap-t and the interval of a log-normal mean (Olsson 2005)",
        norms,
        "A valid interval on average over lengths and examples. For single lengths of a trained network, where the largest norms are rare, it covers less.",
    ),
    Kind(
        "Norms of random paths, mean over a batch",
        "`SampledPathGradients.over_examples_interval`",
        "on each side, the wider of the bootstrap-t within examples and Student's t of the logarithm",
        pooled,
        "A valid interval from 64 draws on. With 16, the default, it is **not valid** for the norms of a trained network.",
    ),
    Kind(
        "Energies of paths",
        "`PathEnergy.low`, `high`",
        "Student's t of the logarithm",
        energies,
        "A valid interval. Exact lengths have none.",
    ),
    Kind(
        "Traces",
        "`TraceEstimate.low`, `high` (`hutchinson`, `hutch_plus_plus`), `of_blocks`",
        "Student's t over random vectors",
        traces,
        "A valid interval, for the given data.",
    ),
    Kind(
        "Roughness over planes or models",
        "`RoughnessStudy.interval`",
        "as for means of real values, with ends in [0, 1]",
        rough,
        "A valid interval, from five planes or models on.",
    ),
    Kind(
        "Differences of roughness",
        "`RoughnessDifference.low`, `high` (`compare_roughness`)",
        "Student's t, paired",
        rough_differences,
        "A valid interval. If all differences are equal, it is infinite and there is no p-value.",
    ),
    Kind(
        "Rank correlations",
        "`PredictorRanking.spearman_range`, `kendall_range`, `Reorderings.rank_correlation`",
        "the middle 95 % of the bootstrap, joined with that of the noiseless values under a normal law",
        ranks,
        "**Not a confidence interval**: a range, with no stated confidence. We found no method that covers 95 % at "
        "all levels of noise. The bootstrap alone adds noise a second time and can miss the truth every time.",
    ),
)

REST = """## Other quantities with a range

- `LengthDistribution.interval` (`path_lengths`), `EffectivePaths.low`, `high`: the central part of a distribution over lengths. It is exact; nothing is estimated.
- `Timing.low`, `high` (`measure_latency`, `latencies_in_turn`): median and **quartiles** of the rounds. They contain
  half of the rounds and say nothing about the precision of the median. On a busy machine both move.
- `Timing.share_of`, `PlanPoint.share_interval`, `latency_share` of `Comparison`: an interval for the median of the rounds' shares, between two order
  statistics. It assumes that rounds are independent, and nothing about the distribution of times. With the 15
  rounds of a Clock or a comparison the coverage is 96.5 %, with the 30 rounds of a repeated timing 95.7 % (`median_interval`; exact).
- `fall_at_most` (Tango) and `share_at_most` (Clopper and Pearson, exact): one-sided bounds, `PlanPoint.fall_at_most` and `disagreement_at_most`.
- `Surface.errors`, `TrajectoryLosses.errors`, `SampledPathGradients.standard_error`, `PathEnergy.standard_error`, `BlockValues.standard_errors`, the
  errors of a spectral density: standard errors.
- The errors of `eigenvalue_ratio` are bounds from residuals, not statistics.

## Chosen and measured on the same images

The points of a plan are measured on images that the search did not see. If the plan *chooses* by these held-out
images (`AccuracyDrop`, `Disagreement`), the chosen point's accuracy and fall are slightly optimistic: among eight
points with true falls of 0 to 3.5 % and 2 % allowed, by 0.8 points with 250 images, 0.3 with 1000, 0.1 with 5000.
`fall_at_most` remains valid, and the intervals of the accuracies of all points hold jointly (Bonferroni). With
`Latency` or `Count`, the choice uses none of these images. The images that certify must differ from those that
search, repair or judge; shared images are refused. For a published figure, measure the chosen model once on images
that neither the search nor the choice saw.
"""


def page(tries: int) -> str:
    lines = [
        "# Confidence intervals and their coverage",
        "",
        f"Made by `python analysis/intervals/coverage.py --tries {tries}` with resnet_paths {__version__}. Every "
        "interval of the library is listed: where it appears, how it is computed, and how often it contained the "
        "truth in simulations with a known truth. All are nominal 95 % intervals. Coverage between 93 and 97 % "
        "counts as correct; higher coverage is safe but wide; lower coverage is stated below each table. The "
        "docstring of an interval says what it is *over*: images, draws, planes or trainings. None covers another "
        "training of the network, or images of another kind.",
        "",
    ]
    for kind in KINDS:
        print(kind.title, flush=True)
        lines += [
            f"## {kind.title}",
            "",
            f"{kind.where}: {kind.method}.",
            "",
            "| regime | coverage | tries |",
            "|---|---:|---:|",
        ]
        lines += [f"| {row.regime} | {100 * row.coverage:.1f} % | {row.tries or 'exact'} |" for row in kind.rows(tries)]
        lines += ["", kind.verdict, ""]
    return "\n".join([*lines, REST])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "explanation" / "intervals.md")
    options = parser.parse_args()
    options.out.write_text(page(options.tries))


if __name__ == "__main__":
    main()
