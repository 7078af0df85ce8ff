"""The map of eigenvalue ratios against dense matrices at moved weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from helpers import randomise_norms
from references.dense_curvature import dense_hessian
from resnet_paths.data import ImageData, digits
from resnet_paths.graph.model_fingerprint import fingerprint
from resnet_paths.landscape import direction_from, random_direction
from resnet_paths.landscape.eigenratio import EigenvalueSettings, eigenvalue_surface
from resnet_paths.models import cifar_resnet


def _model() -> nn.Module:
    return randomise_norms(cifar_resnet(8, in_channels=1, widths=(2, 2, 3), seed=0)).double().eval()


def _data() -> ImageData:
    return digits("test").subset(slice(0, 3)).to(dtype=torch.float64)


NAMES = ["linear.weight", "linear.bias"]


@pytest.mark.slow
def test_each_cell_holds_the_eigenvalues_at_its_own_weights() -> None:
    model, data = _model(), _data()
    before, state = fingerprint(model), torch.get_rng_state()
    plane = [random_direction(model, seed=seed) for seed in (1, 2)]
    x, y = [-1.0, 0.0, 0.5], [0.25, 2.0]
    surface = eigenvalue_surface(model, data, directions=plane, x=x, y=y, parameters=NAMES, progress=False)
    assert surface.values["ratio"].shape == (2, 3)
    for row, beta in enumerate(y):
        for column, alpha in enumerate(x):
            moved = copy.deepcopy(model)
            for direction, coefficient in zip(plane, (alpha, beta), strict=True):
                for name, tensor in direction.tensors.items():
                    moved.get_parameter(name).data += coefficient * tensor
            exact = np.linalg.eigvalsh(dense_hessian(moved, data.x, data.labels, NAMES).numpy())
            found = {name: values[row, column] for name, values in surface.values.items()}
            assert found["smallest"] == pytest.approx(exact[0], abs=1e-8)
            assert found["largest"] == pytest.approx(exact[-1], rel=1e-8)
            assert found["ratio"] == pytest.approx(abs(exact[0] / exact[-1]), abs=1e-8)
            assert surface.errors["largest"][row, column] < 1e-8
    assert len(set(surface.values["largest"].ravel().round(9))) == 6  # the cells differ
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_plain_tensors_are_directions_too_and_lines_have_one() -> None:
    model, data = _model(), _data()
    tensors = {"linear.weight": torch.ones(10, 3, dtype=torch.float64)}
    options = {"x": [0.0, 1.0], "parameters": ["linear.bias"], "progress": False}
    line = eigenvalue_surface(model, data, directions=tensors, **options)
    same = eigenvalue_surface(model, data, directions=[direction_from(model, tensors)], **options)
    assert line.y is None
    np.testing.assert_array_equal(line.values["ratio"], same.values["ratio"])
    with pytest.raises(ValueError, match="two directions where y"):
        eigenvalue_surface(model, data, directions=tensors, y=[0.0], **options)
    with pytest.raises(ValueError, match="one or two directions"):
        eigenvalue_surface(model, data, directions=[], **options)


def test_cells_without_a_finite_loss_are_nan_and_kept(tmp_path) -> None:
    model, data = _model(), _data()
    tensors = {"linear.weight": torch.full((10, 3), 1e308, dtype=torch.float64)}
    options = {"directions": tensors, "x": [0.0, 10.0], "parameters": ["linear.bias"], "progress": False}
    first = eigenvalue_surface(model, data, journal=tmp_path / "j.db", **options)
    assert np.isfinite(first.values["ratio"]).tolist() == [True, False]
    assert first.finished.all()
    assert not first.failures
    again = eigenvalue_surface(model, data, journal=tmp_path / "j.db", **options)
    np.testing.assert_array_equal(first.values["largest"], again.values["largest"])
    np.testing.assert_array_equal(first.seconds, again.seconds)  # from the journal, not computed again


def test_cells_that_do_not_converge_are_failures_with_a_reason() -> None:
    model, data = _model(), _data()
    with pytest.raises(RuntimeError, match="within 1 restarts of 5 Lanczos"):
        eigenvalue_surface(
            model, data, directions=random_direction(model), x=[0.0], progress=False,
            settings=EigenvalueSettings(basis=5, max_restarts=1, tolerance=1e-14),
        )  # fmt: skip


def test_the_error_of_a_ratio_bounds_what_the_errors_of_both_ends_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """To first order ``|d(a / b)| <= (|da| + |a / b| |db|) / |b|``, here with a = -1 +- 0.02 and b = 4 +- 0.04."""
    found = type("Found", (), {})()
    found.values, found.residuals, found.smallest, found.largest = np.array([-1.0, 4.0]), np.array([0.005, 0.01]), -1, 4
    found.ratio = 0.25
    monkeypatch.setattr("resnet_paths.landscape.eigenratio.extreme_eigenvalues", lambda *args, **kwargs: found)
    model = _model()
    line = eigenvalue_surface(model, _data(), directions=random_direction(model), x=[0.0], progress=False)
    assert line.errors["smallest"] == pytest.approx([0.02])
    assert line.errors["largest"] == pytest.approx([0.04])
    corners = [abs((-1 + 0.02 * i) / (4 + 0.04 * j)) - 0.25 for i in (-1, 1) for j in (-1, 1)]
    assert line.errors["ratio"] == pytest.approx([max(map(abs, corners))], rel=0.02)
