"""The 2^k networks of the last k blocks as an ensemble, beside one network, Monte Carlo dropout and a real ensemble.

    python analysis/ensembles/path_ensemble.py [--seeds 0,1,2] [--epochs 40] [--runs FOLDER] [--reference FOLDER]

Networks are trained on three in ten of the training digits 0 to 7 and tested on all others; 8 and 9 are never seen in
training and represent an unknown class. Each network has its own folder under --runs, so that the study resumes after
a kill. --reference holds cifar10_sample.npz and the weights of ResNet-20 and ResNet-56 for CIFAR-10. Writes
path_ensemble.md beside this file.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import log_softmax
from torch import nn

from resnet_paths import __version__, unroll
from resnet_paths.data import ImageData, digits, load_data
from resnet_paths.lesion import path_ensemble
from resnet_paths.lesion.ensembles import entropies
from resnet_paths.models import cifar_resnet, linear_decay, load_model
from resnet_paths.statistics import (
    expected_calibration_error,
    mean_intervals,
    roc_area,
    roc_area_difference_interval,
    squared_calibration_error,
    squared_calibration_interval,
)
from resnet_paths.training import Recipe, train

HERE = Path(__file__).resolve().parent
DEPTH, MEMBERS, LAST_KEEP, DROPOUT = 20, 4, 0.5, 0.3
LASTS = (1, 2, 4, 6)
SAMPLED = (2, 4, 7)
GENTLE = 0.9


@dataclass(frozen=True)
class Sets:
    """Images that the networks know, half of them also to compare shifted ones with, and shifted ones."""

    known: ImageData
    shifted: dict[str, ImageData]

    @property
    def ordinary(self) -> slice:
        """Every other known image: the shifted sets are made of those in between."""
        return slice(0, None, 2)


@dataclass(frozen=True)
class Votes:
    """What a method predicts: probabilities and the members' disagreement on each set."""

    name: str
    cost: float
    known: np.ndarray
    known_disagreement: np.ndarray
    shifted: dict[str, np.ndarray]
    shifted_disagreement: dict[str, np.ndarray]

    def scores(self, shift: str, sets: Sets, disagreement: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """What should be larger for shifted images: the entropy of the prediction, or the disagreement."""
        if disagreement:
            return self.shifted_disagreement[shift], self.known_disagreement[sets.ordinary]
        return entropies(self.shifted[shift]), entropies(self.known[sets.ordinary])


Predictor = Callable[[ImageData], tuple[np.ndarray, np.ndarray]]


def votes(name: str, cost: float, predict: Predictor, sets: Sets) -> Votes:
    known, disagreement = predict(sets.known)
    shifted = {shift: predict(data) for shift, data in sets.shifted.items()}
    return Votes(
        name,
        cost,
        known,
        disagreement,
        {s: p for s, (p, _) in shifted.items()},
        {s: d for s, (_, d) in shifted.items()},
    )


# Data


def rotated(images: torch.Tensor, degrees: float) -> torch.Tensor:
    angle = torch.tensor(degrees).deg2rad()
    turn = torch.tensor([[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]])
    grid = F.affine_grid(turn.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def noisy(images: torch.Tensor, size: float) -> torch.Tensor:
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + size * drawn).clamp(0, 1)


def shifts(known: ImageData) -> dict[str, ImageData]:
    rest = known.subset(slice(1, None, 2))
    images = rest.images.float() / (255 if rest.images.dtype == torch.uint8 else 1)
    return {
        "noise": replace(rest, images=noisy(images, 0.2)),
        "rotation": replace(rest, images=rotated(images, 45.0)),
    }


def digit_sets() -> tuple[ImageData, Sets]:
    some, rest = digits("train").split(0.3)
    test = digits("test")
    images, labels = torch.cat([rest.images, test.images]), torch.cat([rest.labels, test.labels])
    seen = labels < 8
    known = replace(test, images=images[seen], labels=labels[seen])
    unknown = replace(test, images=images[~seen], labels=labels[~seen])
    training = replace(some, images=some.images[some.labels < 8], labels=some.labels[some.labels < 8])
    return training, Sets(known, {**shifts(known), "unknown class": unknown})


# Networks


def trained(name: str, model: nn.Module, seed: int, epochs: int, data: ImageData, folder: Path) -> nn.Module:
    recipe = Recipe(epochs=epochs, batch_size=32, learning_rate=0.05, weight_decay=5e-4, shift=1, flip=False, seed=seed)
    rows = train(model, data, recipe, folder=folder / f"{name}-seed{seed}", progress=False)
    print(f"{name} seed {seed}: training error {rows[-1]['train_error']:.2%}", flush=True)
    return model.eval()


def small(seed: int, keep_last: float = 1.0) -> nn.Module:
    return cifar_resnet(DEPTH, in_channels=1, widths=(8, 16, 32), keep_last=keep_last, seed=seed)


def with_dropout(seed: int) -> nn.Module:
    """A norm-free place: before the last layer, and after the first convolution of each block of the last stage."""
    model = small(seed)
    model.linear = nn.Sequential(nn.Dropout(DROPOUT), model.linear)
    for block in model.layer3:
        block.bn1 = nn.Sequential(block.bn1, nn.Dropout(DROPOUT))
    return model


# Predictors


def softmax(model: nn.Module, data: ImageData) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([model(x).double().softmax(1).numpy() for x, _ in data.batches(250)])


def mixed(members: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    each = np.stack(list(members))
    mean = each.mean(0)
    return mean, entropies(mean) - entropies(each).mean(0)


def one(model: nn.Module) -> Predictor:
    return lambda data: mixed([softmax(model, data)])


def several(models: list[nn.Module]) -> Predictor:
    return lambda data: mixed(softmax(model, data) for model in models)


def dropped_out(model: nn.Module, samples: int) -> Predictor:
    """Monte Carlo dropout (Gal and Ghahramani 2016): dropout stays on, norms do not."""

    def predict(data: ImageData) -> tuple[np.ndarray, np.ndarray]:
        for module in model.modules():
            module.train(False) if not isinstance(module, nn.Dropout) else module.train()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            result = mixed(softmax(model, data) for _ in range(samples))
        model.eval()
        return result

    return predict


def depth_drawn(model: nn.Module, samples: int) -> Predictor:
    """Stochastic depth at inference: all blocks drawn for each pass; gates multiply the expected ones."""
    net = unroll(model)
    keeps = torch.tensor(linear_decay(len(net), LAST_KEEP))
    drawn = (torch.rand(samples, len(net), generator=torch.Generator().manual_seed(0)) < keeps) / keeps

    def predict(data: ImageData) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            return mixed(net(data.x, drawn).double().softmax(-1).numpy())

    return predict


def paths(model: nn.Module, last: int, keep: float | list[float], scaled: bool = False) -> Predictor:
    net = unroll(model)

    def predict(data: ImageData) -> tuple[np.ndarray, np.ndarray]:
        record = path_ensemble(net, data, last, keep=keep, scaled=scaled, progress=False)
        return record.probabilities, record.disagreement

    return predict


def path_cost(blocks: int, last: int) -> float:
    return (blocks - last + 2**last - 1) / blocks


def of_digits(seed: int, epochs: int, training: ImageData, sets: Sets, folder: Path) -> list[Votes]:
    """All methods of one seed; the first is one usual network, `one of SD` is one trained with stochastic depth."""
    usual = [trained("usual", small(own), own, epochs, training, folder) for own in range(seed, seed + MEMBERS)]
    dropout = trained("dropout", with_dropout(seed), seed, epochs, training, folder)
    stochastic = trained("stochastic", small(seed, LAST_KEEP), seed, epochs, training, folder)
    blocks = len(unroll(stochastic))
    keeps = list(linear_decay(blocks, LAST_KEEP))
    found = [votes("one network", 1, one(usual[0]), sets)]
    for keep in (0.5, GENTLE):
        found += [
            votes(f"paths, k={k}, q={keep:g}", path_cost(blocks, k), paths(usual[0], k, keep), sets) for k in LASTS
        ]
    found += [votes(f"real ensemble of {m}", m, several(usual[:m]), sets) for m in (2, MEMBERS)]
    found += [votes("dropout: one pass", 1, one(dropout), sets)]
    found += [votes(f"dropout: {m} drawn", m, dropped_out(dropout, m), sets) for m in SAMPLED]
    found += [votes("stochastic depth: one network", 1, one(stochastic), sets)]
    found += [
        votes(
            f"stochastic depth: paths, k={k}, q as trained",
            path_cost(blocks, k),
            paths(stochastic, k, keeps[blocks - k :], True),
            sets,
        )
        for k in LASTS
    ]
    found += [votes(f"stochastic depth: {m} drawn", m, depth_drawn(stochastic, m), sets) for m in SAMPLED]
    return found


def of_cifar(folder: Path) -> tuple[Sets, dict[int, list[Votes]]]:
    known = load_data(str(folder / "cifar10_sample.npz"), split="test")
    sets = Sets(known, shifts(known))
    models = {depth: load_model(str(folder / f"resnet{depth}_cifar10_option_a.safetensors")) for depth in (20, 56)}
    found = {}
    for depth, model in models.items():
        blocks = len(unroll(model))
        found[depth] = [votes("one network", 1, one(model), sets)]
        for keep in (0.5, GENTLE):
            found[depth] += [
                votes(f"paths, k={k}, q={keep:g}", path_cost(blocks, k), paths(model, k, keep), sets) for k in LASTS
            ]
    found[56].append(votes("real ensemble of ResNet-20 and 56", 1.33, several(list(models.values())), sets))
    return sets, found


# Numbers


def nll(one: Votes, sets: Sets) -> np.ndarray:
    rows = np.arange(len(sets.known))
    return -np.log(one.known[rows, sets.known.labels.numpy()])


def right(one: Votes, sets: Sets) -> np.ndarray:
    return (one.known.argmax(1) == sets.known.labels.numpy()).astype(float)


def tempered(one: Votes, sets: Sets) -> np.ndarray:
    """The probabilities at the temperature that fits the other half of the images best (Guo et al. 2017)."""
    labels, result = sets.known.labels.numpy(), np.empty_like(one.known)
    logs, temperatures = np.log(np.maximum(one.known, 1e-300)), np.geomspace(0.25, 4, 161)
    for fold in (0, 1):
        fit, rest = slice(fold, None, 2), slice(1 - fold, None, 2)
        losses = [
            -np.mean(log_softmax(logs[fit] / t, 1)[np.arange(len(labels[fit])), labels[fit]]) for t in temperatures
        ]
        result[rest] = np.exp(log_softmax(logs[rest] / temperatures[int(np.argmin(losses))], 1))
    return result


def named(found: list[Votes], name: str) -> Votes:
    return next(one for one in found if one.name == name)


@dataclass(frozen=True)
class Difference:
    """A difference between two methods, and its interval over images."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def loss_difference(
    runs: list[list[Votes]], first: str, second: str, sets: Sets, confidence: float = 0.95
) -> Difference:
    """NLL of the first method minus that of the second, mean over seeds; the interval is over images, paired."""
    each = [nll(named(found, first), sets) - nll(named(found, second), sets) for found in runs]
    differences = np.mean(each, 0)
    low, high = mean_intervals(differences[None], confidence)
    return Difference(float(differences.mean()), float(low[0]), float(high[0]))


def beyond_temperature(found: list[Votes], name: str, sets: Sets) -> Difference:
    """NLL of a method minus that of the one network at a fitted temperature, paired by image."""
    one = named(found, "one network")
    differences = nll(named(found, name), sets) - nll(replace(one, known=tempered(one, sets)), sets)
    low, high = mean_intervals(differences[None])
    return Difference(float(differences.mean()), float(low[0]), float(high[0]))


def calibration_differences(runs: list[list[Votes]], first: str, second: str, sets: Sets) -> list[Difference]:
    """Squared calibration error of the first minus that of the second, one a seed."""
    labels, result = sets.known.labels.numpy(), []
    for found in runs:
        new, old = named(found, first).known, named(found, second).known
        value = squared_calibration_error(new, labels) - squared_calibration_error(old, labels)
        result.append(Difference(value, *squared_calibration_interval(new, labels, reference=old)))
    return result


def area_differences(runs: list[list[Votes]], first: str, second: str, sets: Sets, shift: str) -> list[Difference]:
    """Area of the first method's entropy minus that of the second's, one a seed."""
    result = []
    for found in runs:
        new, old = (named(found, name).scores(shift, sets) for name in (first, second))
        result.append(Difference(roc_area(*new) - roc_area(*old), *roc_area_difference_interval(new, old)))
    return result


def table(runs: list[list[Votes]], sets: Sets) -> list[str]:
    labels, shifted = sets.known.labels.numpy(), list(sets.shifted)
    lines = [
        f"| method | passes | accuracy | NLL | ECE | {' | '.join(shifted)} |",
        f"|---|---:|---:|---:|---:|{'---:|' * len(shifted)}",
    ]
    for index, first in enumerate(runs[0]):
        each = [found[index] for found in runs]
        areas = []
        for shift in shifted:
            area = statistics.fmean(roc_area(*one.scores(shift, sets)) for one in each)
            text = f"{area:.3f}"
            if first.known_disagreement.max() > 1e-9:
                text += f" / {statistics.fmean(roc_area(*one.scores(shift, sets, True)) for one in each):.3f}"
            areas.append(text)
        lines.append(
            f"| {first.name} | {first.cost:.1f} | {np.mean([right(one, sets).mean() for one in each]):.2%} "
            f"| {np.mean([nll(one, sets).mean() for one in each]):.3f} "
            f"| {statistics.fmean(expected_calibration_error(one.known, labels) for one in each):.3f} "
            f"| {' | '.join(areas)} |"
        )
    return lines


# Verdicts


def lowers(differences: list[Difference]) -> str:
    """Whether a quantity that is better when lower falls in one of several choices, whose intervals hold jointly."""
    if any(one.high < 0 for one in differences):
        return "holds"
    return "does not hold" if all(one.value >= 0 or one.low > -0.01 for one in differences) else "inconclusive"


def counted(differences: list[Difference], rises: bool) -> str:
    """In how many seeds the interval lies on the expected side of zero, and in how many on the other."""
    better = sum(one.low > 0 if rises else one.high < 0 for one in differences)
    worse = sum(one.high < 0 if rises else one.low > 0 for one in differences)
    of = len(differences)
    if better == of:
        return "holds"
    if of == 1 and not worse:
        return "inconclusive"
    return "does not hold" if worse == of else f"holds in {better} of {of} seeds, the opposite in {worse}"


def side(difference: Difference) -> str:
    return "holds" if difference.high < 0 else "does not hold" if difference.low > 0 else "inconclusive"


def listed(differences: list[Difference]) -> str:
    return ", ".join(map(str, differences))


def path_claim(runs: list[list[Votes]], what: str, names: list[str], single: str, sets: Sets) -> tuple[str, ...]:
    confidence = 1 - 0.05 / len(names)
    found = [loss_difference(runs, name, single, sets, confidence) for name in names]
    best = min(range(len(found)), key=lambda index: found[index].value)
    return (
        what,
        f"NLL below that of the network for some k (the {len(names)} intervals hold jointly at 95 %)",
        f"largest gain, {names[best]}: {found[best]}; k={LASTS[-1]}: {found[-1]}",
        lowers(found),
    )


def claims(runs: list[list[Votes]], sets: Sets) -> list[tuple[str, ...]]:
    usual, deep = "one network", "stochastic depth: one network"
    trained_names = [f"stochastic depth: paths, k={k}, q as trained" for k in LASTS]
    rows = [
        path_claim(
            runs,
            f"a network trained as usual predicts better as the ensemble of its last blocks, q = {keep:g} (what the "
            "ensemble view of Veit et al. 2016 suggests)",
            [f"paths, k={k}, q={keep:g}" for k in LASTS],
            usual,
            sets,
        )
        for keep in (0.5, GENTLE)
    ]
    rows.append(
        path_claim(
            runs,
            "a network trained with stochastic depth predicts better as the ensemble that it was trained as (Huang "
            "et al. 2016, section 3, take its mean for approximated by the expected gates)",
            trained_names,
            deep,
            sets,
        )
    )
    for what, first, second in (
        ("usual training, q = 0.9", f"paths, k=6, q={GENTLE:g}", usual),
        ("stochastic depth", trained_names[-1], deep),
    ):
        calibration = calibration_differences(runs, first, second, sets)
        rows.append(
            (
                f"it is better calibrated ({what}, k = 6)",
                "squared calibration error falls",
                listed(calibration),
                counted(calibration, rises=False),
            )
        )
        for shift in sets.shifted:
            areas = area_differences(runs, first, second, sets, shift)
            rows.append(
                (
                    f"its entropy detects {shift} better ({what}, k = 6)",
                    "ROC area rises",
                    listed(areas),
                    counted(areas, rises=True),
                )
            )
    for k, members in ((4, 2), (6, MEMBERS)):
        real = loss_difference(runs, f"real ensemble of {members}", f"paths, k={k}, q={GENTLE:g}", sets)
        rows.append(
            (
                f"a real ensemble of {members} beats the paths, at no higher cost (k = {k}, q = {GENTLE:g})",
                "NLL below",
                str(real),
                side(real),
            )
        )
        real = loss_difference(runs, f"real ensemble of {members}", trained_names[LASTS.index(k)], sets)
        rows.append(
            (
                f"and the paths of a network trained with stochastic depth (k = {k})",
                "NLL below",
                str(real),
                side(real),
            )
        )
    drawn = loss_difference(runs, trained_names[-1], "stochastic depth: 7 drawn", sets)
    rows.append(
        (
            "all subsets of the last 6 blocks beat 7 draws of all blocks (stochastic depth at inference) at equal cost",
            "NLL below",
            str(drawn),
            side(drawn),
        )
    )
    dropped = loss_difference(runs, "dropout: 4 drawn", "dropout: one pass", sets)
    rows.append(
        (
            "Monte Carlo dropout beats the mean network (Gal and Ghahramani 2016)",
            "NLL of 4 passes below that of one without dropout",
            str(dropped),
            side(dropped),
        )
    )
    return rows


def cifar_claims(found: dict[int, list[Votes]], sets: Sets) -> list[tuple[str, ...]]:
    rows = [
        path_claim(
            [found[depth]],
            f"ResNet-{depth}, trained as usual, predicts better as the ensemble of its last blocks, q = {keep:g}",
            [f"paths, k={k}, q={keep:g}" for k in LASTS],
            "one network",
            sets,
        )
        for depth in found
        for keep in (0.5, GENTLE)
    ]
    for depth, votes_of in found.items():
        for shift in sets.shifted:
            areas = area_differences([votes_of], f"paths, k=6, q={GENTLE:g}", "one network", sets, shift)
            rows.append(
                (
                    f"its entropy detects {shift} better (ResNet-{depth}, k = 6, q = {GENTLE:g})",
                    "ROC area rises",
                    listed(areas),
                    counted(areas, rises=True),
                )
            )
    beyond = beyond_temperature(found[56], f"paths, k=4, q={GENTLE:g}", sets)
    rows.append(
        (
            "the ensemble of ResNet-56 does more than a temperature, fitted to the other half of the images (Guo et "
            "al. 2017), which needs no second pass",
            f"NLL of k = 4, q = {GENTLE:g} below that of the network at that temperature",
            str(beyond),
            side(beyond),
        )
    )
    real = loss_difference([found[56]], "real ensemble of ResNet-20 and 56", "one network", sets)
    rows.append(("a real ensemble of ResNet-20 and 56 beats ResNet-56", "NLL below", str(real), side(real)))
    return rows


def claim_table(rows: list[tuple[str, ...]]) -> list[str]:
    header = ["| claim | expected | measured | verdict |", "|---|---|---|---|"]
    return [*header, *(f"| {' | '.join(row)} |" for row in rows)]


def conclusion(rows: list[tuple[str, ...]], cifar: list[tuple[str, ...]]) -> str:
    """In plain words, from the verdicts: does it help, and whom."""
    helped = [row[-1] == "holds" for row in rows[:3]]
    text = (
        "**In short:** on the digits, switching the last blocks on and off "
        f"{'lowers' if any(helped[:2]) else 'does not lower'} the loss of networks trained without stochastic depth, "
        f"and {'lowers' if helped[2] else 'does not lower'} that of networks trained with it; compare what a real "
        "ensemble of two gains."
    )
    if not cifar:
        return text
    gains = [row[0].partition(",")[0] for row in cifar if "last blocks" in row[0] and row[-1] == "holds"]
    more = next(row[-1] for row in cifar if "temperature" in row[0]) == "holds"
    worse = sum(row[-1] == "does not hold" for row in cifar if "detects" in row[0])
    found = f"Of the reference networks it lowers the loss of {' and '.join(sorted(set(gains))) or 'none'}"
    return (
        f"{text} {found}{', by more than' if more else ', but not by more than'} one fitted temperature does, and "
        f"shifted images are found worse in {worse} of {sum('detects' in row[0] for row in cifar)} cases."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--runs", type=Path, default=Path("results/path_ensemble"))
    parser.add_argument("--reference", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    training, sets = digit_sets()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    runs = [of_digits(seed, options.epochs, training, sets, options.runs) for seed in seeds]
    rows = claims(runs, sets)
    cifar, found = of_cifar(options.reference) if options.reference is not None else (None, {})
    cifar_rows = [] if cifar is None else cifar_claims(found, cifar)
    counts = ", ".join(f"{len(data)} with {shift}" for shift, data in sets.shifted.items())
    lines = [
        "# The ensemble of a network's last blocks",
        "",
        f"Made by `analysis/ensembles/path_ensemble.py` with resnet_paths {__version__}, torch {torch.__version__}, on "
        "one CPU thread. `path_ensemble` averages the predictions of the 2^k networks with the last k blocks on or "
        "off, each on with probability q.",
        "",
        conclusion(rows, cifar_rows),
        "",
        f"## Digits: ResNet-{DEPTH}, trained here",
        "",
        f"8/16/32 channels, {len(training)} training images of the digits 0 to 7, {options.epochs} epochs, "
        f"{len(sets.known)} test images; {len(seeds)} seeds, where the real ensemble of one seed shares members with "
        "the next. Intervals are over images, paired; those of NLL are for "
        "the mean over seeds, the others are given for each seed. Shifted images (of other test images than those they "
        f"are compared with): {counts}. Passes are branches run, in those of one network.",
        "",
        *claim_table(rows),
        "",
        "Means over seeds. The last columns are ROC areas for shifted images: by the entropy of the prediction / by "
        "the members' disagreement.",
        "",
        *table(runs, sets),
        "",
    ]
    if cifar is not None:
        lines += [
            "## CIFAR-10: reference ResNet-20 and ResNet-56, trained without stochastic depth",
            "",
            f"{len(cifar.known)} test images; {', '.join(f'{len(d)} with {s}' for s, d in cifar.shifted.items())}.",
            "",
            *claim_table(cifar_rows),
            "",
        ]
        for depth, each in found.items():
            lines += [f"ResNet-{depth}:", "", *table([each], cifar), ""]
    (HERE / "path_ensemble.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
