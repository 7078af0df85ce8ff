import numpy as np
import pytest
import torch
import torch.nn.functional as F

from damage import tiny
from references.literal_surface import gated, gated_loss, moved
from resnet_paths import drop_blocks, unroll
from resnet_paths.data import ImageData
from resnet_paths.landscape import (
    CellSettings,
    deletion_path,
    gate_path,
    gate_surface,
    lesioned_surface,
    random_direction,
)
from resnet_paths.network import UnrollError
from resnet_paths.surgery import recalibrate_batchnorm

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def net():
    return unroll(tiny(), torch.randn(2, 3, 8, 8, dtype=torch.float64))


@pytest.fixture(scope="module")
def data() -> ImageData:
    x = torch.randn(11, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    names = tuple("0123456789")
    return ImageData(x, torch.arange(11) % 10, names, (0.0,) * 3, (1.0,) * 3, "random", torch.float64)


def loss_at(net, data: ImageData, gates: list[float]) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(net(data.x, gates), data.labels))


@pytest.mark.parametrize("fast", [True, False])
def test_every_cell_is_the_network_at_its_gates(net, data, fast: bool) -> None:
    x, y = [0.0, 0.3, 1.0, 1.5], [-0.5, 1.0]
    found = gate_surface(
        net,
        data,
        x_blocks=[5, "layer1.1"],
        y_blocks=2,
        x=x,
        y=y,
        metrics=("loss",),
        settings=CellSettings(fast=fast, batch_size=4),
        **QUIET,
    )
    for row, beta in enumerate(y):
        for column, alpha in enumerate(x):
            gates = [1.0] * len(net)
            gates[1] = gates[5] = alpha
            gates[2] = beta
            assert found.values["loss"][row, column] == pytest.approx(loss_at(net, data, gates), rel=1e-10)
    assert found.x_name == "gate of layer2.2, layer1.1"
    assert found.y_name == "gate of layer1.2"


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("batchnorm", ["frozen", "recalibrated", "batch"])
def test_statistics_at_each_cell_match_their_definition(net, data, batchnorm: str, fast: bool) -> None:
    """Cell by cell a literal model with gates; statistics of two batches of other images, or of batches of 4, 3, 4."""
    x = torch.randn(140, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
    others = ImageData(x, torch.zeros(140, dtype=torch.long), data.classes, (0.0,) * 3, (1.0,) * 3, "o", torch.float64)
    sizes = [4, 3, 4]
    mixed = data.shuffled()
    batches = list(zip(mixed.x.split(sizes), mixed.labels.split(sizes), strict=True))
    assert torch.allclose(gated(net.model, data.x, [1.0] * len(net)), net.model(data.x), rtol=1e-12)
    found = gate_surface(
        net, data, x_blocks=[1, 5], y_blocks=3, x=[0.0, 0.4, 1.0], y=[0.0, 1.2], metrics=("loss",),
        settings=CellSettings(batchnorm, others, batch_size=4, fast=fast), **QUIET,
    )  # fmt: skip
    for row, beta in enumerate([0.0, 1.2]):
        for column, alpha in enumerate([0.0, 0.4, 1.0]):
            gates = [1.0] * len(net)
            gates[1] = gates[5] = alpha
            gates[3] = beta
            literal = gated_loss(net.model, batches, gates, batchnorm, others.shuffled().x.split(70))
            assert found.values["loss"][row, column] == pytest.approx(literal, rel=1e-10)
    assert found.batchnorm == batchnorm


@pytest.mark.slow
def test_recalibrated_corners_are_lesioned_models_recalibrated(net, data) -> None:
    settings = CellSettings("recalibrated")
    path = gate_path(net, data, deletion_path(net, [4]), t=[0.0, 0.5, 1.0], settings=settings, **QUIET)
    frozen = gate_path(net, data, deletion_path(net, [4]), t=[0.0, 0.5, 1.0], **QUIET)
    assert (path.values["loss"] != frozen.values["loss"]).all()
    lesioned = drop_blocks(net, [4])
    recalibrate_batchnorm(lesioned, [data.x])
    with torch.no_grad():
        assert path.values["loss"][2] == pytest.approx(float(F.cross_entropy(lesioned(data.x), data.labels)), rel=1e-10)
    assert path.values["error"].shape == (3,)


@pytest.mark.slow
def test_statistics_and_a_journal(net, data, tmp_path) -> None:
    """Cells of one choice of statistics are not taken for those of another."""
    options = {"journal": tmp_path / "cells", "x_blocks": 3, "x": [0.5], "metrics": ("loss",), **QUIET}
    values = {
        gate_surface(net, data, settings=CellSettings(batchnorm, batch_size=size), **options).values["loss"][0]
        for batchnorm, size in (("frozen", None), ("recalibrated", None), ("batch", 4), ("batch", 6))
    }
    assert len(values) == 4


@pytest.mark.slow
@pytest.mark.parametrize("batchnorm", ["frozen", "recalibrated", "batch"])
def test_batches_on_several_threads_give_the_same_cells(net, data, batchnorm: str) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            options = {"x_blocks": 3, "x": [0.2, 0.7], "settings": CellSettings(batchnorm, batch_size=3), **QUIET}
            found.append(gate_surface(net, data, **options).values["loss"])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


def test_corners_are_the_model_and_the_lesioned_models(net, data) -> None:
    found = gate_surface(net, data, x_blocks=4, y_blocks=7, x=[0.0, 1.0], y=[0.0, 1.0], **QUIET).values["loss"]
    with torch.no_grad():
        for row, column, dropped in ((1, 1, []), (1, 0, [4]), (0, 1, [7]), (0, 0, [4, 7])):
            model = drop_blocks(net, dropped) if dropped else net.model
            assert found[row, column] == pytest.approx(float(F.cross_entropy(model(data.x), data.labels)), rel=1e-10)


def test_other_blocks_at_given_gates(net, data) -> None:
    base = torch.linspace(0.2, 1, len(net))
    found = gate_surface(net, data, x_blocks=3, x=[0.5], gates=base, **QUIET)
    gates = base.double().tolist()
    gates[3] = 0.5
    assert found.values["loss"][0] == pytest.approx(loss_at(net, data, gates), rel=1e-10)
    assert found.y is None


def test_a_path_of_gates(net, data) -> None:
    points = deletion_path(net, [6, 2])
    assert points.tolist()[0] == [1.0] * len(net)
    t = [0.0, 0.25, 1.0, 1.75, 2.0]
    found = gate_path(net, data, points, t=t, **QUIET)
    for value, time in zip(found.values["loss"], t, strict=True):
        gates = [1.0] * len(net)
        gates[6] = max(0.0, 1 - time)
        gates[2] = min(1.0, 2 - time)
        assert value == pytest.approx(loss_at(net, data, gates), rel=1e-10)
    still = gate_path(net, data, torch.ones(2, len(net)), t=[0.5], **QUIET)
    assert still.values["loss"][0] == pytest.approx(loss_at(net, data, [1.0] * len(net)), rel=1e-10)


def test_the_surface_of_a_lesioned_network(net, data) -> None:
    d = [random_direction(net.model, seed=seed) for seed in (1, 2)]
    found = lesioned_surface(net, data, [1, 6], directions=d, x=[-0.3, 0.0], y=[0.4], **QUIET)
    gates = [float(index not in (1, 6)) for index in range(len(net))]
    for column, alpha in enumerate([-0.3, 0.0]):
        there = unroll(moved(net.model, d, (alpha, 0.4)))
        assert found.values["loss"][0, column] == pytest.approx(loss_at(there, data, gates), rel=1e-10)


def test_metrics_of_the_whole_network(net, data) -> None:
    found = gate_surface(net, data, x_blocks=0, x=[0.0, 1.0], metrics=("disagreement", "error"), **QUIET)
    assert found.values["disagreement"][1] == 0
    with torch.no_grad():
        whole, without = net(data.x), net(data.x, [0.0] + [1.0] * (len(net) - 1))
    expected = float((whole.argmax(1) != without.argmax(1)).double().mean())
    assert found.values["disagreement"][0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_the_model_is_only_read(net, data) -> None:
    before = [tensor.clone() for tensor in net.model.state_dict().values()]
    for batchnorm in ("frozen", "recalibrated", "batch"):
        settings = CellSettings(batchnorm, fast=False)
        gate_surface(net, data, x_blocks=3, x=[0.0, 0.5], settings=settings, **QUIET)
    assert not any(module.training for module in net.model.modules())
    assert all(torch.equal(a, b) for a, b in zip(net.model.state_dict().values(), before, strict=True))
    assert not any(module._forward_hooks for module in net.model.modules())


@pytest.mark.slow
def test_a_journal_tells_surfaces_apart(net, data, tmp_path) -> None:
    options = {"journal": tmp_path / "cells", **QUIET}
    one = gate_surface(net, data, x_blocks=3, x=[0.0], **options)
    other = gate_surface(net, data, x_blocks=4, x=[0.0], **options)
    again = gate_surface(net, data, x_blocks=3, x=[0.0, 1.0], **options)
    assert one.values["loss"][0] != other.values["loss"][0]
    assert again.seconds[0] == one.seconds[0]
    np.testing.assert_array_equal(again.values["loss"][0], one.values["loss"][0])


def test_wrong_use(net, data) -> None:
    with pytest.raises(ValueError, match=r"got layer1\.1 on both"):
        gate_surface(net, data, x_blocks=[0, 1], y_blocks=1, **QUIET)
    with pytest.raises(ValueError, match="leave y out"):
        gate_surface(net, data, x_blocks=0, y=[0.0], **QUIET)
    with pytest.raises(ValueError, match="expected 9 gates"):
        gate_surface(net, data, x_blocks=0, gates=[1.0], **QUIET)
    with pytest.raises(ValueError, match="at least two waypoints"):
        gate_path(net, data, [[1.0] * 9], **QUIET)
    with pytest.raises(ValueError, match="expected t from 0 to 1"):
        gate_path(net, data, torch.ones(2, 9), t=[0.0, 1.5], **QUIET)
    training = unroll(tiny().train())
    with pytest.raises(UnrollError, match="eval mode"):
        gate_surface(training, data, x_blocks=0, **QUIET)
