"""Surfaces of networks on data other than images: tokens, series, numbers, masks, flags, several inputs."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from references.other_data import Case, case
from resnet_paths import recalibrate_batchnorm, unroll
from resnet_paths.data import Examples, ImageSource
from resnet_paths.data.metrics import metric_named
from resnet_paths.graph.inputs import call_model, main_output
from resnet_paths.landscape import (
    CellSettings,
    Direction,
    cells,
    curvature_operator,
    eigenvalue_surface,
    gate_surface,
    loss_surface,
    project_trajectory,
    random_direction,
    roughness_study,
    trajectory_losses,
)
from resnet_paths.landscape.cell_metrics import named_metrics
from resnet_paths.landscape.working_copy import WeightSpace

X, Y = [-0.5, 0.0, 0.7], [0.0, 0.4]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def next_tokens(output: torch.Tensor, data: Examples) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss of each text, and its number of tokens that have one before them."""
    assert data.targets is not None
    assert data.mask is not None
    sums, counts = torch.zeros(len(data)).double(), torch.zeros(len(data)).double()
    for row in range(len(data)):
        for step in range(1, data.targets.shape[1]):
            if data.mask[row, step]:
                sums[row] -= output[row, step - 1].log_softmax(0)[data.targets[row, step]]
                counts[row] += 1
    return sums, counts


def squared(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (output.flatten() - targets) ** 2


def pixels(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, targets, reduction="none").flatten(1).mean(1)


def flags(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(output, targets.to(output), reduction="none").mean(1)


def classes(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, targets, reduction="none")


LOSSES: dict[str, Loss] = {"numbers": squared, "masks": pixels, "flags": flags, "series": classes}


def moved(model: nn.Module, steps: list[tuple[float, Direction]]) -> nn.Module:
    """A copy with other weights."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            for step, direction in steps:
                if name in direction.tensors:
                    parameter += step * direction.tensors[name]
    return other


def plane(model: nn.Module) -> list[Direction]:
    return [random_direction(model, seed=seed) for seed in (1, 2)]


@pytest.mark.parametrize("kind", [*LOSSES, "tokens"])
def test_cells_are_the_losses_of_models_with_other_weights(kind: str) -> None:
    one = case(kind)
    directions = plane(one.model)
    surface = loss_surface(one.model, one.data, directions=directions, x=X, y=Y, progress=False)
    for row, y in enumerate(Y):
        for column, x in enumerate(X):
            with torch.no_grad():
                output = call_model(moved(one.model, [(x, directions[0]), (y, directions[1])]), one.data.x)
            if kind == "tokens":
                sums, counts = next_tokens(output, one.data)
                mean = float(sums.sum() / counts.sum())
                values = mean + (sums - mean * counts) / counts.mean()  # the delta method of a ratio of two means
            else:
                values = LOSSES[kind](output, one.data.targets).double()
                mean = float(values.mean())
            assert surface.values["loss"][row, column] == pytest.approx(mean, rel=1e-10)
            error = float(values.std()) / math.sqrt(len(one.data))
            assert surface.errors["loss"][row, column] == pytest.approx(error, rel=1e-9)
    assert set(surface.values) == ({"loss", "error"} if kind == "series" else {"loss"})
    assert surface.images == len(one.data)


@pytest.mark.parametrize("kind", ["tokens", "masks"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_outputs_that_do_not_fit_are_held_group_by_group(
    kind: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = case(kind)
    metrics = ["loss", one.metric, "divergence"]
    options: dict[str, Any] = {
        "directions": plane(one.model), "x": X, "y": Y, "metrics": metrics, "progress": False,
        "settings": CellSettings(batch_size=batch_size),
    }  # fmt: skip
    expected = loss_surface(one.model, one.data, **options)
    space, settings = WeightSpace(one.model, options["directions"]), options["settings"]
    groups = []
    for most in (1, cells.HELD_BYTES):
        monkeypatch.setattr(cells, "HELD_BYTES", most)
        cell = cells.CellEvaluator(space, one.data, named_metrics(metrics, one.data), settings)
        groups.append(len(list(cell.outputs([0.1, 0.2]))))
        again = loss_surface(one.model, one.data, **options)
        for name in expected.values:
            np.testing.assert_allclose(again.values[name], expected.values[name], rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(again.errors[name], expected.errors[name], rtol=1e-11, atol=1e-14)
    assert groups == [math.ceil(len(one.data) / batch_size), 1]
    assert expected.values["divergence"][0, 1] == pytest.approx(0, abs=1e-12)  # the model at the origin
    assert expected.values["divergence"][1, 2] > 1e-4


@pytest.mark.parametrize("kind", ["tokens", "series", "masks", "numbers"])
def test_gates_between_the_network_and_a_lesioned_one(kind: str) -> None:
    one = case(kind)
    net = unroll(one.model, one.data.subset(slice(0, 2)).x)
    surface = gate_surface(net, one.data, x_blocks=0, x=[0.0, 0.3, 1.0], metrics=[one.metric], progress=False)
    _, metric = metric_named(one.metric)
    for column, gate in enumerate([0.0, 0.3, 1.0]):
        with torch.no_grad():
            output = net(one.data.x, [gate] + [1.0] * (len(net) - 1))
        expected = metric(output, one.data.targets, output, one.data.mask).mean()  # type: ignore[call-arg]
        assert surface.values[one.metric][column] == pytest.approx(float(expected), rel=1e-10)


def normed() -> Case:
    """A network of series with batch norms whose statistics are not those of the data."""
    one = case("series", 12)
    one.model[1] = nn.Sequential(nn.BatchNorm1d(4).double(), one.model[1]).eval()
    return one


def test_batch_norms_of_series_are_frozen_recalibrated_or_of_the_batch() -> None:
    one, direction = normed(), random_direction(normed().model, seed=1)
    others = case("series", 20).data.subset(slice(6, 20))
    values = {}
    for batchnorm in ("frozen", "recalibrated", "batch"):
        settings = CellSettings(batchnorm, others if batchnorm == "recalibrated" else None, batch_size=12)
        line = loss_surface(
            one.model, one.data, directions=direction, x=[0.5], metrics=["loss"], settings=settings, progress=False
        )
        model = moved(one.model, [(0.5, direction)])
        if batchnorm == "recalibrated":
            recalibrate_batchnorm(model, others)
        model[1][0].train(batchnorm == "batch")
        with torch.no_grad():
            expected = classes(model(one.data.x), one.data.targets).mean()
        values[batchnorm] = float(line.values["loss"][0])
        assert values[batchnorm] == pytest.approx(float(expected), rel=1e-9)
    assert len({round(value, 6) for value in values.values()}) == 3


def test_values_of_batch_statistics_are_in_the_order_of_the_data() -> None:
    one = normed()
    cell = cells.CellEvaluator(
        WeightSpace(one.model, []), one.data, named_metrics(["loss"], one.data), CellSettings("batch", batch_size=12)
    )
    model = copy.deepcopy(one.model)
    model[1][0].train()
    with torch.no_grad():
        expected = classes(model(one.data.x), one.data.targets)
    np.testing.assert_allclose(cell([])["loss"], expected, rtol=1e-10)


class Pair(nn.Module):
    """A network of two inputs and a number that is the same for all examples."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh())
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, weight: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
        x = x * weight[:, None]
        return {"unused": x[:1], "logits": self.head(x + scale * self.layers(x))}


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_several_inputs_and_outputs(form: str) -> None:
    torch.manual_seed(0)
    model = Pair().double().eval()
    x, weight, targets = torch.randn(6, 3).double(), torch.rand(6).double(), torch.randint(0, 2, (6,))
    inputs: Any = (x, weight, 0.5) if form == "tuple" else {"weight": weight, "x": x, "scale": 0.5}
    data, direction = Examples(inputs, targets), random_direction(model, seed=3)
    line = loss_surface(model, data, directions=direction, x=[0.4], settings=CellSettings(batch_size=2), progress=False)
    with torch.no_grad():
        output = main_output(moved(model, [(0.4, direction)])(x, weight, 0.5))
    assert line.values["loss"][0] == pytest.approx(float(classes(output, targets).mean()), rel=1e-12)
    assert line.values["error"][0] == float((output.argmax(1) != targets).double().mean())

    net, settings = unroll(model, inputs), CellSettings("recalibrated")
    line = gate_surface(net, data, x_blocks=0, x=[0.0, 1.0], settings=settings, metrics=["loss"], progress=False)
    recalibrate_batchnorm(model, data)
    with torch.no_grad():
        outputs = [net(inputs, [gate]) for gate in (0.0, 1.0)]
    expected = [float(classes(output, targets).mean()) for output in outputs]
    np.testing.assert_allclose(line.values["loss"], expected, rtol=1e-10)


def test_a_language_model_has_its_own_loss_at_the_origin() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.randint(0, 20, (5, 8))
    mask = (torch.arange(8) < torch.tensor([8, 3, 5, 8, 2])[:, None]).long()
    labels = ids.where(mask.bool(), torch.tensor(-100))
    batches = [{"input_ids": ids, "attention_mask": mask, "labels": labels}]
    direction = random_direction(model)
    line = loss_surface(model, batches, directions=direction, x=[0.0, 0.5], progress=False)
    for column, step in enumerate([0.0, 0.5]):
        with torch.no_grad():
            expected = moved(model, [(step, direction)])(**batches[0]).loss
        assert line.values["loss"][column] == pytest.approx(float(expected), rel=1e-5)


def test_a_model_of_masked_words_has_its_own_loss_at_the_origin() -> None:
    """Labels that are not the tokens themselves belong to the scores at their positions, not to those before."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertForMaskedLM(config).eval()
    ids, masked = torch.randint(1, 20, (6, 8)), torch.rand(6, 8) < 0.4
    batch = {
        "input_ids": ids.masked_fill(masked, 0),
        "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(~masked, -100),
    }
    line = loss_surface(model, [batch], directions=random_direction(model), x=[0.0], progress=False)
    with torch.no_grad():
        assert line.values["loss"][0] == pytest.approx(float(model(**batch).loss), rel=1e-5)
    assert line.loss == "pixel_loss"


def test_functions_of_surfaces_accept_them_too() -> None:
    one = case("tokens")
    study = roughness_study(one.model, one.data, seeds=[0], x=[-1, 0, 1], y=[-1, 0, 1], progress=False)
    plane_of_study = [random_direction(one.model, seed=seed) for seed in (0, 1)]
    same = loss_surface(one.model, one.data, directions=plane_of_study, x=[-1, 0, 1], y=[-1, 0, 1], progress=False)
    np.testing.assert_array_equal(study.surfaces[0][0].values["loss"], same.values["loss"])

    steps = [
        moved(one.model, [(step, direction)]) for step, direction in zip((0.0, 0.2), plane(one.model), strict=True)
    ]
    states = [*steps, moved(steps[1], [(0.3, plane(one.model)[0])])]
    losses = trajectory_losses(one.model, one.data, states, project_trajectory(one.model, states))
    for step, model in enumerate(states):
        with torch.no_grad():
            sums, counts = next_tokens(call_model(model, one.data.x), one.data)
        assert losses.true[step] == pytest.approx(float(sums.sum() / counts.sum()), rel=1e-9)

    numbers = case("numbers")
    line = eigenvalue_surface(
        numbers.model, numbers.data, directions=random_direction(numbers.model), x=[0.0],
        parameters=["3.weight"], loss=squared, progress=False,
    )  # fmt: skip
    with torch.no_grad():
        last = numbers.model[:3](numbers.data.x)
    largest = torch.linalg.eigvalsh(2 * last.T @ last / len(last)).max()  # of the mean of (w h + b - target)^2 in w
    assert line.values["largest"][0] == pytest.approx(float(largest), rel=1e-5)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("batch_size", [2, 7])
def test_curvature_of_a_loss_by_name(kind: Literal["hessian", "gauss_newton"], batch_size: int) -> None:
    """That of the mean over all tokens that count, whatever the batches; both kinds are equal in the last layer."""
    one = case("tokens")
    operator = curvature_operator(
        one.model, one.data, kind=kind, parameters=["head.bias"], loss="next_token_loss", batch_size=batch_size
    )

    def loss(bias: torch.Tensor) -> torch.Tensor:
        output = functional_call(one.model, {"head.bias": bias}, (), one.data.x)
        sums, counts = next_tokens(output, one.data)
        return sums.sum() / counts.sum()

    expected = torch.func.hessian(loss)(one.model.head.bias.detach()).detach()
    np.testing.assert_allclose(operator.dense(), expected, rtol=1e-9, atol=1e-12)


def test_curvature_of_a_metric_is_that_of_the_function() -> None:
    one, options = case("numbers"), {"parameters": ["0.weight", "3.weight"]}
    named = curvature_operator(one.model, one.data, loss="squared_error", **options)
    np.testing.assert_allclose(named.dense(), curvature_operator(one.model, one.data, loss=squared, **options).dense())
    series = case("series")
    by_name, usual = (
        curvature_operator(series.model, series.data, loss=loss, parameters=["5.weight"])
        for loss in ("loss", "cross_entropy")
    )
    np.testing.assert_allclose(by_name.dense(), usual.dense(), rtol=1e-12, atol=1e-15)


def test_losses_that_curvature_cannot_take_are_refused_in_one_line() -> None:
    one = case("tokens")
    with pytest.raises(ValueError, match="expected a loss that is a mean over samples or positions, got 'perplexity'"):
        curvature_operator(one.model, one.data, loss="perplexity")
    with pytest.raises(ValueError, match=r"at the positions of targets \(7, 5\).*give loss= a metric") as error:
        curvature_operator(one.model, one.data, parameters=["head.bias"], loss="cross_entropy") @ torch.ones(8).double()
    assert "\n" not in str(error.value)
    ignored = Examples(one.data.inputs, torch.full_like(one.data.targets, -100))
    with pytest.raises(ValueError, match="at least one target that counts"):
        curvature_operator(one.model, ignored, loss="next_token_loss")


def test_cells_travel_to_workers() -> None:
    one = case("tokens")
    space = WeightSpace(one.model, plane(one.model))
    sent = cells.Cells(space, one.data, named_metrics(None, one.data), CellSettings())
    there = pickle.loads(pickle.dumps(sent))
    np.testing.assert_array_equal(there.evaluator([0.1, 0.2])["loss"], sent.evaluator([0.1, 0.2])["loss"])
    other = cells.Cells(space, one.data.subset(slice(0, 5)), sent.metrics, CellSettings())
    prints = [one.__sweep_fingerprint__() for one in (sent, there, other)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("embeddings", {}, "expected targets in embeddings, got examples without"),
        ("tokens", {"metrics": ["error"]}, "expected a metric for targets"),
        ("masks", {"metrics": ["perplexity"]}, r"expected scores \(sequences, tokens, vocabulary\)"),
        ("numbers", {"metrics": ["loss", "loss"]}, "each metric once"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_cell(kind: str, options: dict[str, Any], said: str) -> None:
    one = case(kind)
    with pytest.raises(ValueError, match=said) as error:
        loss_surface(one.model, one.data, directions=random_direction(one.model), progress=False, **options)
    assert "\n" not in str(error.value)


def test_examples_that_the_model_does_not_accept_are_refused_in_one_line() -> None:
    series = case("series").data
    data: ImageSource = (series.x[:, :1], series.targets)
    model = case("series").model
    with pytest.raises(ValueError, match=r"expected series that Sequential accepts, got .* of 1x9") as error:
        loss_surface(model, data, directions=random_direction(model), progress=False)
    assert "\n" not in str(error.value)


def test_no_targets_are_needed_to_compare_with_the_origin() -> None:
    one = case("embeddings")
    direction = random_direction(one.model)
    line = loss_surface(
        one.model, one.data, directions=direction, x=[0.0, 0.5], metrics=["cosine_distance"], progress=False
    )
    with torch.no_grad():
        outputs = [moved(one.model, [(step, direction)])(one.data.x) for step in (0.0, 0.5)]
    expected = 1 - F.cosine_similarity(outputs[0], outputs[1]).mean()
    np.testing.assert_allclose(line.values["cosine_distance"], [0, float(expected)], rtol=1e-9, atol=1e-12)


def _targets(kind: str, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    if kind == "numbers":
        return torch.randn(8, 3, generator=draw, dtype=torch.float64)
    if kind == "shares":
        return torch.rand(8, 3, generator=draw, dtype=torch.float64).softmax(1)
    return torch.randint(0, 3, (8,), generator=draw)


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("kind", ["numbers", "shares", "classes"])
def test_the_loss_of_curvature_follows_the_targets_as_that_of_surfaces(kind: str, batches: int) -> None:
    """Against torch's own Hessian of the loss, and the surface's value at the origin."""
    model = case("flags").model
    x, targets = torch.randn(8, 4, dtype=torch.float64), _targets(kind, 0)
    of = F.mse_loss if kind == "numbers" else F.cross_entropy
    names = ["3.bias"]
    exact = torch.func.hessian(lambda bias: of(torch.func.functional_call(model, {"3.bias": bias}, (x,)), targets))(
        model.get_parameter("3.bias").detach()
    )
    parts = zip(x.chunk(batches), targets.chunk(batches), strict=True)
    found = curvature_operator(model, list(parts), parameters=names).dense()
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12)
    line = loss_surface(model, (x, targets), directions=random_direction(model), x=[0.0], progress=False)
    assert line.values["loss"][0] == pytest.approx(float(of(model(x), targets)), rel=1e-9)
    at = eigenvalue_surface(
        model, (x, targets), directions=random_direction(model), x=[0.0], parameters=names, progress=False
    )
    assert at.values["largest"][0] == pytest.approx(float(torch.linalg.eigvalsh(exact)[-1]), rel=1e-6)


def test_the_loss_of_curvature_of_texts_is_that_of_the_next_token() -> None:
    one = case("tokens")
    usual, named = (
        curvature_operator(one.model, one.data, parameters=["head.bias"], loss=loss).dense()
        for loss in (None, "next_token_loss")
    )
    assert torch.equal(usual, named)


def test_numbers_of_which_some_batches_look_like_flags_are_numbers() -> None:
    model, x = case("flags").model, torch.randn(4, 4, dtype=torch.float64)
    targets = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.3, 2.0, -1.0], [4.0, 0.5, 0.1]]).double()
    matrices = [
        curvature_operator(model, batches, parameters=["3.bias"], loss=loss).dense()
        for batches in ([(x, targets)], [(x[:2], targets[:2]), (x[2:], targets[2:])])
        for loss in (None, "squared_error")
    ]
    for matrix in matrices[1:]:
        torch.testing.assert_close(matrix, matrices[0])


def test_the_curvature_of_flags_is_that_of_their_cross_entropy() -> None:
    one, last = case("flags"), ["3.bias"]
    matrix = curvature_operator(one.model, one.data, parameters=last).dense()
    logits = one.model(one.data.x)
    share = logits.sigmoid() * (1 - logits.sigmoid())  # the second derivative of a label's loss in its logit
    torch.testing.assert_close(matrix, torch.diag(share.mean(0).detach() / 3).to(matrix), rtol=1e-6, atol=1e-9)


def test_class_numbers_that_a_model_has_no_outputs_for_are_refused_in_a_line() -> None:
    """Also where the first examples have labels that it has."""
    model, x = case("numbers").model, torch.randn(6, 4, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 0, 0, 1])
    with pytest.raises(ValueError, match="labels below 1, the number of the model's outputs"):
        curvature_operator(model, (x, labels), parameters=["3.bias"]).dense()
    previews: list[object] = []
    with pytest.raises(ValueError, match="a model with one output and integer targets from 0 to 1; pass the metric"):
        loss_surface(
            model, (x, labels), directions=random_direction(model), x=[0.0, 0.5, 1.0], preview=previews.append,
            progress=False,
        )  # fmt: skip
    assert not previews


def test_a_preview_waits_for_a_cell_that_has_values() -> None:
    model, data = case("numbers").model, case("numbers").data

    def fails(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise ArithmeticError("never")

    seen: list[object] = []
    with pytest.raises(RuntimeError, match="never"):
        loss_surface(
            model, data, directions=random_direction(model), x=[0.0, 0.5, 1.0], loss=fails, preview=seen.append,
            progress=False,
        )  # fmt: skip
    assert not seen


def test_flags_of_type_bool_give_the_same_surface_as_zeros_and_ones() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    x, flags = torch.randn(5, 3), torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1], [1, 0]]).bool()
    line = random_direction(model)
    of = [
        loss_surface(model, (x, targets), directions=line, x=[0, 1], progress=False)
        for targets in (flags, flags.float())
    ]
    assert of[0].loss == of[1].loss == "multilabel_loss"
    np.testing.assert_array_equal(of[0].values["loss"], of[1].values["loss"])
