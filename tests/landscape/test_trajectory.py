"""Trajectories in their principal plane: against PCA written out, and the losses at the projections."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers import randomise_norms
from references.naive_pca import principal_components
from resnet_paths.data import ImageData, digits
from resnet_paths.graph.model_fingerprint import fingerprint
from resnet_paths.landscape import loss_surface, random_direction
from resnet_paths.landscape.trajectory import project_trajectory, trajectory_losses
from resnet_paths.models import cifar_resnet, save_checkpoint
from resnet_paths.training import Recipe, read_trajectory, train


def _run(steps: int = 5) -> tuple[nn.Module, list[dict[str, torch.Tensor]]]:
    """A model and states that drift at random, norms' statistics too."""
    model = randomise_norms(cifar_resnet(8, in_channels=1, widths=(2, 2, 3), seed=0)).double().eval()
    generator = torch.Generator().manual_seed(0)
    states = []
    moved = copy.deepcopy(model)
    for _ in range(steps):
        for p in moved.parameters():
            p.data += 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for name, buffer in moved.named_buffers():
            if name.endswith("running_mean"):
                buffer += 0.05
        states.append({name: value.clone() for name, value in moved.state_dict().items()})
    return model, states


def _rows(model: nn.Module, states: list[dict[str, torch.Tensor]]) -> np.ndarray:
    names = [name for name, _ in model.named_parameters()]
    return np.array([np.concatenate([state[name].numpy().ravel() for name in names]) for state in states])


def _data() -> ImageData:
    return digits("test").subset(slice(0, 6)).to(dtype=torch.float64)


def test_components_are_those_of_the_covariance() -> None:
    model, states = _run()
    rows = _rows(model, states)
    vectors, shares = principal_components(rows, 3)
    found = project_trajectory(model, states, count=3)
    np.testing.assert_allclose(found.explained, shares, rtol=1e-10)
    for k, direction in enumerate(found.directions):
        flat = np.concatenate([tensor.numpy().ravel() for tensor in direction.tensors.values()])
        assert abs(flat @ vectors[k]) == pytest.approx(1.0, abs=1e-9)
        np.testing.assert_allclose(found.coordinates[:, k], (rows - rows[-1]) @ flat, atol=1e-10)
        assert direction.facts["explained"] == pytest.approx(shares[k])
    assert found.cosine < 1e-12
    np.testing.assert_allclose(found.distances, np.linalg.norm(rows - rows[-1], axis=1))
    length = found.distances**2 - (found.coordinates**2).sum(1)
    np.testing.assert_allclose(found.outside**2, length, atol=1e-9)
    np.testing.assert_allclose(found.coordinates[-1], [0, 0, 0], atol=1e-12)


def test_all_components_leave_nothing_out() -> None:
    model, states = _run(4)
    found = project_trajectory(model, states, count=3)
    assert found.explained.sum() == pytest.approx(1.0)
    assert found.outside.max() < 1e-9
    losses = trajectory_losses(model, _data(), states, found)
    np.testing.assert_allclose(losses.projected, losses.own_weights, rtol=1e-9)


@pytest.mark.slow
def test_losses_are_those_of_the_checkpoints_and_of_the_surface() -> None:
    model, states = _run()
    data, before, rng = _data(), fingerprint(model), torch.get_rng_state()
    found = project_trajectory(model, states)
    record = trajectory_losses(model, data, states, found)
    for step, state in enumerate(states):
        other = copy.deepcopy(model)
        other.load_state_dict(state)
        with torch.no_grad():
            expected = F.cross_entropy(other(data.x), data.labels)
        assert record.true[step] == pytest.approx(float(expected), rel=1e-9)
        for name, buffer in other.named_buffers():
            buffer.copy_(states[-1][name])
        with torch.no_grad():
            assert record.own_weights[step] == pytest.approx(float(F.cross_entropy(other(data.x), data.labels)))
    last = copy.deepcopy(model)
    last.load_state_dict(states[-1])
    across, down = found.coordinates[1]
    surface = loss_surface(last, data, directions=found.directions, x=[across], y=[down], progress=False)
    assert surface.values["loss"].item() == pytest.approx(record.projected[1], rel=1e-9)
    assert record.projected[-1] == pytest.approx(record.true[-1], rel=1e-9)
    assert abs(record.projected[0] - record.true[0]) > 1e-3  # the picture does not show the true loss
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), rng)
    assert list(record.to_pandas()["step"]) == ["0", "1", "2", "3", "4"]


def test_given_directions_need_not_be_orthogonal_but_losses_do() -> None:
    model, states = _run()
    given = [random_direction(model, seed=1), random_direction(model, seed=2)]
    tilted = [given[0], type(given[0])({k: v + given[1].tensors[k] for k, v in given[0].tensors.items()})]
    found = project_trajectory(model, states, directions=tilted)
    rows = _rows(model, states)
    names = [name for name, _ in model.named_parameters()]
    flats = []
    for direction in tilted:
        full = [direction.tensors.get(n, torch.zeros_like(model.get_parameter(n))).numpy().ravel() for n in names]
        flats.append(np.concatenate(full) / np.linalg.norm(np.concatenate(full)))
    basis = np.array(flats)
    np.testing.assert_allclose(found.coordinates, (rows - rows[-1]) @ basis.T, atol=1e-10)
    fitted = (rows - rows[-1]) @ np.linalg.pinv(basis) @ basis
    np.testing.assert_allclose(found.outside, np.linalg.norm(rows - rows[-1] - fitted, axis=1), atol=1e-9)
    assert found.cosine == pytest.approx(abs(basis[0] @ basis[1]))
    with pytest.raises(ValueError, match="orthogonal directions"):
        trajectory_losses(model, _data(), states, found)


def test_a_long_random_walk_explains_what_the_record_says() -> None:
    torch.manual_seed(0)
    line = nn.Linear(2000, 1, bias=False).double()
    walk = torch.randn(60, 2000, dtype=torch.float64).cumsum(0)
    found = project_trajectory(line, [{"weight": row[None]} for row in walk])
    np.testing.assert_allclose(found.explained, found.random_walk, atol=0.03)
    assert found.random_walk[0] == pytest.approx(0.608, abs=1e-3)


@pytest.mark.slow
def test_runs_of_training_files_and_models_are_read(tmp_path) -> None:
    model, data = cifar_resnet(8, in_channels=1, widths=(2, 2, 3), seed=0), digits("train").subset(slice(0, 64))
    train(model, data, Recipe(epochs=3, shift=1, batch_size=32), folder=tmp_path, keep="all", progress=False)
    run = read_trajectory(tmp_path)
    found = project_trajectory(model, run)
    assert found.labels == ("0", "1", "2", "3")
    assert len(found) == len(found.to_pandas()) == 4
    losses = trajectory_losses(model, data, run, found)
    assert np.isfinite(losses.projected).all()
    files = [save_checkpoint(model, tmp_path / "other" / f"{k}.safetensors") for k in range(1)]
    first = copy.deepcopy(model)
    first.load_state_dict(run.states[0])
    mixed = project_trajectory(model, [first, run.states[1], files[0]], labels=["a", "b", "c"])
    assert mixed.labels == ("a", "b", "c")
    whole = project_trajectory(model, run.states, parameters=["linear.weight"])
    assert all(set(direction.tensors) == {"linear.weight"} for direction in whole.directions)


def test_what_does_not_fit_is_refused() -> None:
    model, states = _run(3)
    for call, match in (
        (lambda: project_trajectory(model, states[:1]), "at least 2 checkpoints"),
        (lambda: project_trajectory(model, [states[0], states[0]], count=1), "that differ"),
        (lambda: project_trajectory(model, states, count=3), "from 1 to 2 components"),
        (lambda: project_trajectory(model, [states[0], states[1], states[1]]), "span 2 directions"),
        (lambda: project_trajectory(model, states, parameters=["nothing"]), "names of parameters"),
        (lambda: project_trajectory(model, [states[0], {}]), "in checkpoint 1"),
        (lambda: project_trajectory(model, states, directions=[]), "at least one direction"),
        (lambda: project_trajectory(model, states, labels=["a"]), "3 labels"),
        (lambda: trajectory_losses(model, _data(), states[:2], project_trajectory(model, states)), "3 checkpoints"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
