"""The parts of a comparison: each against the function for one model, and exactly zero between a model and itself."""

import base64
import copy
import html
import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from helpers import randomise_norms
from resnet_paths import cifar_resnet, compare, unroll
from resnet_paths.comparison import Comparison, PartSettings
from resnet_paths.comparison.paired import statistics
from resnet_paths.data import digits
from resnet_paths.landscape import (
    curvature_operator,
    extreme_eigenvalues,
    loss_surface,
    random_direction,
    roughness,
)
from resnet_paths.lesion import METRICS, block_values, evaluate_gates
from resnet_paths.network import plain_layers
from resnet_paths.paths import block_contributions, effective_paths, path_lengths, sample_path_gradients
from resnet_paths.report import write_comparison
from resnet_paths.report.side_by_side import finding, latency_sentences
from resnet_paths.statistics import mean_intervals

DATA = digits("test").subset(slice(0, 12))
PARTS = ("contributions", "effective", "recommended", "shapley", "surface", "curvature", "latency")
SETTINGS = PartSettings(images=8, path_draws=3, surface_points=3, reach=0.5, latency_batch=2, latency_seconds=0.0)


def small(seed: int = 0, **settings) -> torch.nn.Module:
    model = cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=seed, **settings)
    return randomise_norms(model.double(), seed=seed).eval()


@pytest.fixture(scope="module")
def models() -> dict[str, torch.nn.Module]:
    return {
        "one": small(),
        "same": small(),
        "other": small(1),
        "plain": plain_layers(small(residual=False), DATA.x[:2].double()),
    }


@pytest.fixture(scope="module")
def record(models) -> Comparison:
    return compare(
        models, DATA, metric="loss", parts=PARTS, settings=SETTINGS, draws=1, gradient_images=4, confidence=0.9999,
        progress=False,
    )  # fmt: skip


def test_a_model_equals_itself_exactly_in_every_part(record) -> None:
    differences = [name for name in Comparison.DIMENSIONS if name.endswith("difference")]
    assert len(differences) == 10
    for name in differences:
        assert not np.nan_to_num(getattr(record, name)[:2]).any(), name
        assert np.nan_to_num(getattr(record, name)[2]).any(), name
    for name in ("convex", "largest_eigenvalue", "smallest_eigenvalue", "path_share"):
        assert np.array_equal(getattr(record, name)[0], getattr(record, name)[1]), name
    assert record.latency_share_low[1] <= 1 <= record.latency_share_high[1]
    assert (record.latency > 0).all()
    assert record.latency_share[0] == record.latency_share_low[0] == record.latency_share_high[0] == 1


@pytest.mark.parametrize("place", [0, 2])
def test_the_numbers_are_those_of_the_functions_for_one_model(record, models, place) -> None:
    model = list(models.values())[place]
    net, few, part = unroll(model), DATA.subset(slice(0, 4)), DATA.subset(slice(0, 8))
    x, own = few.x.double(), record.block_indices[place] >= 0
    of_target = block_contributions(net, x, few.labels).of_target[-3:].numpy()
    np.testing.assert_allclose(record.contribution[place, own], of_target.mean(1), atol=1e-12)
    np.testing.assert_allclose(record.path_share[place, :4], path_lengths(net).probability)
    game = block_values(net, part, metric="loss", progress=False)
    np.testing.assert_allclose(record.shapley[place, own], game.values, atol=1e-12)
    np.testing.assert_allclose(record.shapley_low[place, own], game.intervals(0.9999)[0], atol=1e-9)

    alone = [sample_path_gradients(net, x, few.labels, draws=3).norms[..., [image]] for image in range(4)]
    counts = np.array([1, 3, 3, 1])[:, None]
    weights = np.concatenate([counts * norms.mean(1).numpy() for norms in alone], 1)
    np.testing.assert_allclose(record.effective_share[place, :4], (weights / weights.sum(0)).mean(1), atol=1e-12)

    plane = [random_direction(model, seed=seed) for seed in (1, 2)]
    steps = [-0.5, 0, 0.5]
    surface = loss_surface(model, part, directions=plane, x=steps, y=steps, progress=False)
    np.testing.assert_allclose(record.surface[place], surface.values["loss"], rtol=1e-9)
    np.testing.assert_array_equal(record.surfaces["one" if place == 0 else "other"].x, steps)
    assert record.convex[place] == roughness(surface, scale="log").convex
    extremes = extreme_eigenvalues(curvature_operator(model, part))
    assert record.largest_eigenvalue[place] == pytest.approx(extremes.largest)
    assert record.smallest_eigenvalue[place] == pytest.approx(extremes.smallest)


def test_the_recommended_order_is_that_of_a_greedy_search(record, models) -> None:
    """The literal search, on one half of the images; the record's numbers are of the other half."""
    net = unroll(models["other"])
    order = torch.randperm(len(DATA), generator=torch.Generator().manual_seed(0))
    first, rest = (DATA.subset(half.sort().values) for half in (order[:6], order[6:]))

    def mean(dropped: list[int], part, metric: str) -> float:
        gates = torch.ones(1, 3, dtype=torch.float64)
        gates[0, dropped] = 0
        return float(evaluate_gates(net, part, gates, METRICS[metric], progress=False).mean())

    dropped: list[int] = []
    for _ in range(3):
        dropped.append(min(set(range(3)) - set(dropped), key=lambda one: mean([*dropped, one], first, "soft_error")))
    assert record.recommended_order[2, :3].tolist() == dropped
    expected = [mean(dropped[:size], rest, "loss") for size in range(4)]
    np.testing.assert_allclose(record.recommended[2, :4], expected, atol=1e-12)


def test_one_effective_share_agrees_with_the_record_for_one_image(record) -> None:
    net, one = unroll(small()), DATA.subset(slice(0, 1))
    alone = compare([net, net], one, parts=["effective"], settings=SETTINGS, draws=1, progress=False)
    drawn = sample_path_gradients(net, one.x.double(), one.labels, draws=3)
    np.testing.assert_allclose(alone.effective_share[0], effective_paths(drawn).share, atol=1e-12)
    assert alone.contribution is None
    assert alone.surfaces == {}


def test_differences_of_parts_are_paired_by_image(record) -> None:
    """An interval of a difference is that of the differences of images, so one that all share is narrow."""
    noise = np.random.default_rng(0).normal(size=(1, 2, 50))
    both = np.concatenate([noise, noise + 1 + noise[:, ::-1] / 100])
    measured = {
        "full": np.zeros((2, 50)),
        "deleted": np.zeros((2, 2, 50)),
        **dict.fromkeys(("deletion", "frontier", "share"), np.zeros((2, 1, 50))),
        "contribution": both,
    }
    made = statistics(measured, np.array([[0, 1], [0, 1]]), "loss", 0.95)
    width = made["contribution_difference_high"][1] - made["contribution_difference_low"][1]
    assert (width < 0.02).all()
    assert (made["contribution_high"][1] - made["contribution_low"][1] > 0.3).all()
    np.testing.assert_allclose(made["contribution_difference"][1], 1, atol=0.01)


def test_a_plain_network_has_contributions_and_paths_of_none(record) -> None:
    plain = record.models.index("plain")
    for name in ("contribution", "effective_share", "path_share"):
        assert np.isnan(getattr(record, name)[plain]).all(), name
    own = record.block_indices[plain] >= 0
    assert np.isfinite(record.shapley[plain, own]).all()
    assert np.isfinite(record.surface[plain]).all()
    assert record.latency_share_low[plain] > 0


def test_a_branch_that_adds_nothing_is_found() -> None:
    model = small()
    silent = copy.deepcopy(model)
    with torch.no_grad():
        silent.layer2[0].bn2.weight.zero_()
        silent.layer2[0].bn2.bias.zero_()
    record = compare([model, silent], DATA, draws=1, gradient_images=12, progress=False)
    assert record.contribution[1, 1] == 0
    assert record.contribution_difference[1, 1] == pytest.approx(-record.contribution[0, 1])
    of_target = block_contributions(unroll(model), DATA.x.double(), DATA.labels).of_target[-2].numpy()
    low, high = mean_intervals(-of_target[None])
    assert record.contribution_difference_low[1, 1] == pytest.approx(low[0])
    assert record.contribution_difference_high[1, 1] == pytest.approx(high[0])


def test_sampled_orders_widen_the_intervals_of_shapley_values() -> None:
    rng = np.random.default_rng(1)
    measured = {
        "full": np.zeros((2, 40)),
        "deleted": np.zeros((2, 3, 40)),
        **dict.fromkeys(("deletion", "frontier", "share"), np.zeros((2, 1, 40))),
        "shapley": rng.normal(size=(2, 3, 40)),
        "shapley_error": np.full((2, 3), 0.0),
        "shapley_shared": np.zeros((2, 3)),
        "orders": np.array([0, 0]),
    }
    same = np.arange(3)[None].repeat(2, 0)
    exact = statistics(measured, same, "loss", 0.95)
    sampled = statistics(
        measured | {"shapley_error": np.full((2, 3), 0.5), "orders": np.array([16, 16])}, same, "loss", 0.95
    )
    for name in ("shapley", "shapley_difference"):
        widths = [made[f"{name}_high"][1] - made[f"{name}_low"][1] for made in (exact, sampled)]
        assert (widths[1] > 1.5 * widths[0]).all(), name
    assert not sampled["shapley_difference_high"][0].any()


def test_parts_are_declared_kept_and_tabled(record, tmp_path) -> None:
    again = Comparison.load(record.save(tmp_path / "parts.npz"))
    dataset = again.to_xarray()
    assert dataset["surface_difference"].dims == ("model", "y", "x")
    assert dataset["contribution"].dims == ("model", "block")
    assert dataset["effective_share"].dims == ("model", "length")
    assert dataset["latency_share"].dims == ("model",)
    np.testing.assert_array_equal(dataset["surface"].x, [-0.5, 0, 0.5])
    assert {"latency_share_high", "convex"} <= set(record.to_pandas())
    assert {"contribution_difference_low", "shapley"} <= set(record.by_block())
    lengths = record.by_length()
    assert len(lengths) == 3 * len(record.lengths)
    assert lengths.loc[lengths.model == "one", "effective_share"].sum() == pytest.approx(1)


@pytest.mark.slow
def test_the_page_says_what_was_found_and_holds_every_number(record, tmp_path) -> None:
    page = write_comparison(record, tmp_path / "page.html").read_text()
    assert f"<h1>{finding(record)}" in html.unescape(page)
    assert "http:" not in page.replace("http://www.w3.org", "")
    assert page.count("<svg ") == 3 + 3 + 3 + 4  # by block, by number of deleted blocks, by length, and surfaces
    tables = re.findall(r'download="(\w+)\.csv" href="data:text/csv;charset=utf-8;base64,([^"]+)"', page)
    frames = {name: pd.read_csv(io.BytesIO(base64.b64decode(text))) for name, text in tables}
    assert set(frames) == {"models", "blocks", "deletions", "lengths", *(f"surface_{n}" for n in range(1, 5))}
    np.testing.assert_allclose(frames["blocks"]["shapley"], record.by_block()["shapley"])
    deleted = frames["deletions"].query("model == 'other'")
    np.testing.assert_allclose(deleted["recommended"], record.recommended[2, :4])
    np.testing.assert_allclose(deleted["deletion"].dropna(), [record.values[2], *record.deletion[2]])
    np.testing.assert_allclose(deleted["deletion_high"].iloc[0], record.high[2])
    assert latency_sentences(record)[1].startswith("same takes ")


def test_the_finding_names_the_model_that_differs_most(record) -> None:
    columns = {"difference": [0, 0.1, -0.3, 0.02], "difference_low": [0, 0.05, -0.4, -0.1]}
    columns |= {"difference_high": [0, 0.2, -0.2, 0.1]}
    apart = replace(record, metric="error", **{name: np.array(values) for name, values in columns.items()})
    assert finding(apart) == "other against one: error -30.0 points (-40.0 to -20.0)"
    alike = replace(apart, difference_low=np.full(4, -1.0), difference_high=np.full(4, 1.0))
    assert finding(alike) == "No model's error differs from that of one by more than its interval"


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected parts to be .*latency"):
        compare([small(), small()], DATA, parts=["speed"])
