import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from damage import tiny
from helpers import randomise_norms
from references.literal_surface import moved, surface
from resnet_paths.data import ImageData
from resnet_paths.data.batches import even_slices
from resnet_paths.landscape import CellSettings, Direction, loss_surface, random_direction
from resnet_paths.landscape.cell_metrics import named_metrics
from resnet_paths.landscape.cells import CellEvaluator
from resnet_paths.landscape.order import coarse_to_fine
from resnet_paths.landscape.working_copy import WeightSpace
from resnet_paths.models import cifar_resnet

QUIET = {"progress": False}


def images(count: int = 12, channels: int = 3, size: int = 8, classes: int = 10) -> ImageData:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, channels, size, size, generator=generator, dtype=torch.float64)
    labels = torch.arange(count) % classes
    names = tuple(map(str, range(classes)))
    return ImageData(x, labels, names, (0.0,) * channels, (1.0,) * channels, "random", torch.float64)


def plane(model: nn.Module) -> list[Direction]:
    return [random_direction(model, seed=seed) for seed in (1, 2)]


def squared(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (logits[:, 0] - labels) ** 2


def test_a_quadratic_model_has_its_closed_form_at_every_coordinate() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False)).double()
    data = images(9, 1, 2, 2)
    d1, d2 = plane(model)
    x, y = [0.0, 0.3, 1.0, 2.5, 4.0], [-3.0, 0.5, 1.0]  # not square, not symmetric, one range from 0
    found = loss_surface(model, data, directions=(d1, d2), x=x, y=y, loss=squared, metrics=("loss",), **QUIET)

    inputs, labels = data.x.flatten(1), data.labels.double()
    theta, a, b = (t.flatten() for t in (model[1].weight.detach(), d1.tensors["1.weight"], d2.tensors["1.weight"]))
    second = inputs.T @ inputs / len(data)
    for row, beta in enumerate(y):
        for column, alpha in enumerate(x):
            step = alpha * a + beta * b
            start = inputs @ theta - labels
            exact = start.square().mean() + 2 * (start[:, None] * inputs).mean(0) @ step + step @ second @ step
            assert found.values["loss"][row, column] == pytest.approx(float(exact), rel=1e-12)
    table = found.to_xarray()["loss"]
    assert float(table.sel(x=2.5, y=0.5)) == found.values["loss"][1, 3]
    frame = found.to_pandas().set_index(["x", "y"])["loss"]
    assert frame[4.0, -3.0] == found.values["loss"][0, 4]


def test_a_line() -> None:
    model, data = tiny(), images()
    d = random_direction(model, seed=1)
    x = [0.0, 0.25, 1.0]
    line = loss_surface(model, data, directions=d, x=x, **QUIET)
    assert line.values["loss"].shape == line.errors["error"].shape == (3,)
    assert line.y is None
    assert line.cosine is None
    for value, alpha in zip(line.values["loss"], x, strict=True):
        there = moved(model, [d], [alpha])
        exact = nn.functional.cross_entropy(there(data.x), data.labels)
        assert value == pytest.approx(float(exact.detach()), rel=1e-10)
    assert list(line.to_pandas().columns)[:2] == ["x", "loss"]
    with pytest.raises(ValueError, match="leave y out"):
        loss_surface(model, data, directions=d, y=[0.0], **QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("batchnorm", ["frozen", "recalibrated", "batch"])
@pytest.mark.parametrize("options", [{}, {"preactivation": True}, {"residual": False}, {"shortcut": "B"}], ids=str)
def test_each_choice_of_statistics_matches_its_definition(batchnorm: str, options: dict) -> None:
    model, data = tiny(**options), images()
    x, y = [-0.5, 0.0, 0.4], [0.0, 0.7]
    d = plane(model)
    exact = surface(model, data.x, data.labels, d, x, y, batchnorm)
    size = len(data) if batchnorm == "batch" else 5
    for fast in (True, False):
        found = loss_surface(
            model, data, directions=d, x=x, y=y, settings=CellSettings(batchnorm, batch_size=size, fast=fast), **QUIET
        )
        np.testing.assert_allclose(found.values["loss"], exact, rtol=1e-10)
    assert found.batchnorm == batchnorm


@pytest.mark.slow
def test_the_choices_differ_as_documented() -> None:
    """Scaling the weights before a norm changes nothing where statistics follow, and much where they are frozen."""
    model, data = tiny(residual=False), images()
    tensors = {name: p.detach() for name, p in model.named_parameters() if "conv" in name}
    scaling = Direction(tensors)
    found = {
        batchnorm: loss_surface(
            model, data, directions=scaling, x=[0.0, 1.0], settings=CellSettings(batchnorm, batch_size=12), **QUIET
        ).values["loss"]
        for batchnorm in ("frozen", "recalibrated", "batch")
    }
    assert found["recalibrated"][1] == pytest.approx(found["recalibrated"][0], rel=1e-3)
    np.testing.assert_allclose(found["batch"], found["recalibrated"], rtol=1e-3)  # one batch, but for its n - 1
    assert abs(found["frozen"][1] - found["frozen"][0]) > 0.1 * found["frozen"][0]


def test_recalibration_on_other_images() -> None:
    model, data, others = tiny(), images(), images(30).subset(slice(12, 30))
    d = random_direction(model, seed=1)
    settings = CellSettings("recalibrated", others)
    found = loss_surface(model, data, directions=d, x=[0.5], settings=settings, **QUIET)
    there = moved(model, [d], [0.5]).eval()
    for module in there.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = 1.0
    with torch.no_grad():
        there(others.x)
        exact = nn.functional.cross_entropy(there.eval()(data.x), data.labels)
    assert found.values["loss"][0] == pytest.approx(float(exact), rel=1e-10)


def test_norm_parameters_may_move_too() -> None:
    model, data = tiny(), images()
    d = [random_direction(model, seed=seed, include="all") for seed in (1, 2)]
    exact = surface(model, data.x, data.labels, d, [-0.5, 0.3], [0.2])
    found = loss_surface(model, data, directions=d, x=[-0.5, 0.3], y=[0.2], **QUIET)
    np.testing.assert_allclose(found.values["loss"], exact, rtol=1e-10)


def test_tied_weights_and_convolutions_with_bias() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
            self.second = nn.Conv2d(3, 3, 3, padding=1)
            self.second.weight = self.first.weight
            self.head = nn.Linear(3, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.second(self.norm(self.first(x)).relu()).mean((2, 3)))

    torch.manual_seed(0)
    model, data = randomise_norms(Tied()).double().eval(), images()
    d = plane(model)
    exact = surface(model, data.x, data.labels, d, [0.0, 0.6], [-0.4])
    found = loss_surface(model, data, directions=d, x=[0.0, 0.6], y=[-0.4], **QUIET)
    np.testing.assert_allclose(found.values["loss"], exact, rtol=1e-10)


@pytest.mark.slow
def test_wrapped_models() -> None:
    model, data = tiny(), images()
    options = {"x": [0.0, 0.3], "y": [0.1], **QUIET}
    exact = loss_surface(model, data, directions=plane(model), **options).values["loss"]
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        found = loss_surface(wrapped, data, directions=plane(wrapped), **options)
        np.testing.assert_array_equal(found.values["loss"], exact)


def test_a_model_that_no_graph_is_found_of() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.norm(self.conv(x))
            return self.head(out.mean((2, 3)) if float(out.sum()) > 1e9 else out.amax((2, 3)))

    torch.manual_seed(0)
    model, data = Stubborn().double().eval(), images()
    d = plane(model)
    for batchnorm in ("frozen", "recalibrated"):
        exact = surface(model, data.x, data.labels, d, [0.5], [0.3], batchnorm)
        found = loss_surface(model, data, directions=d, x=[0.5], y=[0.3], settings=CellSettings(batchnorm), **QUIET)
        np.testing.assert_allclose(found.values["loss"], exact, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_batches_on_several_threads_give_the_same_cell(dtype: torch.dtype) -> None:
    model, data = tiny(), images(20)
    before, state = torch.get_num_threads(), torch.get_rng_state()
    space, settings = WeightSpace(model, plane(model)), CellSettings(dtype=dtype, batch_size=5)
    cell = CellEvaluator(space, data, named_metrics(("loss",), data), settings)
    assert cell.network.divides
    found = {}
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            found[threads] = cell([0.2, -0.1])["loss"]
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for threads in (2, 4):
        np.testing.assert_allclose(found[threads], found[1], rtol=1e-12 if dtype == torch.float64 else 0.05)
    assert torch.equal(torch.get_rng_state(), state)


def test_hooks_see_what_the_model_computes() -> None:
    model, data = tiny(), images()
    seen = []
    model.layer1[0].conv1.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    cell = CellEvaluator(WeightSpace(model, plane(model)), data, named_metrics(("loss",), data))
    assert not cell.network.divides
    seen.clear()
    found = cell([0.1, 0.2])["loss"].mean()
    ((given_input, output),) = seen
    assert torch.equal(cell.network.model.layer1[0].conv1(given_input), output)
    assert found == pytest.approx(surface(model, data.x, data.labels, plane(model), [0.1], [0.2])[0, 0], rel=1e-10)


def test_standard_errors_are_over_images() -> None:
    model, data = tiny(), images(20)
    d = random_direction(model, seed=1)
    found = loss_surface(model, data, directions=d, x=[0.3], settings=CellSettings(batch_size=7), **QUIET)
    with torch.no_grad():
        per_image = nn.functional.cross_entropy(moved(model, [d], [0.3])(data.x), data.labels, reduction="none").numpy()
    assert found.values["loss"][0] == pytest.approx(per_image.mean(), rel=1e-10)
    assert found.errors["loss"][0] == pytest.approx(per_image.std(ddof=1) / 20**0.5, rel=1e-10)


def test_several_metrics_in_one_pass() -> None:
    model, data = tiny(), images()

    def margin(logits: torch.Tensor, labels: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        return (logits - whole).abs().amax(1)

    found = loss_surface(
        model, data, directions=plane(model), x=[0.0, 0.8], y=[0.0],
        metrics=("loss", "error", "disagreement", margin), **QUIET,
    )  # fmt: skip
    assert list(found.values) == ["loss", "error", "disagreement", "margin"]
    assert found.values["margin"][0, 0] == 0
    assert found.values["disagreement"][0, 0] == 0
    assert found.values["margin"][0, 1] > 0
    for wrong in ((), ("loss", "loss"), ("speed",)):
        with pytest.raises(ValueError, match="metric"):
            loss_surface(model, data, directions=plane(model), metrics=wrong, **QUIET)


# traps


def snapshot(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("batchnorm", ["frozen", "recalibrated", "batch"])
def test_a_model_in_train_mode_is_plotted_in_eval_mode_and_left_unchanged(batchnorm: str, fast: bool) -> None:
    model, data = tiny(), images()
    model.pool = nn.Dropout(0.3).eval()
    d = plane(model)
    settings = CellSettings(batchnorm, fast=fast)
    options = {"directions": d, "x": [0.0, 0.5], "y": [0.0], "settings": settings, **QUIET}
    expected = loss_surface(model, data, **options).values["loss"]
    model.train()
    model.layer1[0].eval()
    flags = [module.training for module in model.modules()]
    before, versions = snapshot(model), [p._version for p in model.parameters()]
    state = torch.get_rng_state()
    found = loss_surface(model, data, **options).values["loss"]
    np.testing.assert_array_equal(found, expected)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(a, b) for a, b in zip(snapshot(model), before, strict=True))
    assert [p._version for p in model.parameters()] == versions
    assert all(p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_the_model_is_unchanged_after_an_exception() -> None:
    model, data = tiny().train(), images()
    before = snapshot(model)

    def wrong(logits: torch.Tensor, labels: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("no such metric")

    with pytest.raises(RuntimeError, match="ZeroDivisionError: no such metric"):
        loss_surface(model, data, directions=plane(model), x=[0.0], y=[0.0, 1.0], metrics=(wrong,), **QUIET)

    def interrupted(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    from resnet_paths.sweep import SweepInterrupted

    with pytest.raises(SweepInterrupted):
        loss_surface(model, data, directions=plane(model), loss=interrupted, **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(snapshot(model), before, strict=True))
    assert all(module.training for module in model.modules())


def test_single_failures_are_kept_apart_from_nan() -> None:
    model, data = tiny(), images()
    d = random_direction(model, seed=1)

    def picky(logits: torch.Tensor, labels: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        if not torch.equal(logits, whole):
            raise ValueError("somewhere else")
        return torch.full((len(labels),), torch.nan)

    with pytest.warns(RuntimeWarning, match="1 of 2 cells failed"):
        found = loss_surface(model, data, directions=d, x=[0.0, 1.0], metrics=(picky,), **QUIET)
    assert found.finished.tolist() == [True, False]
    assert np.isnan(found.values["picky"]).all()
    assert list(found.failures) == [(0, 1)]


def test_nan_and_infinity_stay() -> None:
    model, data = tiny(), images()
    d = Direction({"linear.weight": torch.ones_like(model.linear.weight)})
    huge = float(torch.finfo(torch.float64).max)
    found = loss_surface(model, data, directions=d, x=[0.0, 1e300, huge], metrics=("loss",), **QUIET)
    assert np.isfinite(found.values["loss"][0])
    assert np.isnan(found.values["loss"][1:]).any()
    assert found.finished.all()

    def infinite(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.where(labels == 0, torch.inf, 0.0)

    found = loss_surface(model, data, directions=d, x=[0.0], loss=infinite, metrics=("loss",), **QUIET)
    assert np.isposinf(found.values["loss"][0])
    assert np.isnan(found.errors["loss"][0])


@pytest.mark.slow
def test_no_drift_over_many_cells() -> None:
    model, data = tiny().float(), images(2).to(dtype=torch.float32)
    d = plane(model)
    x, y = np.linspace(-1, 1, 21), np.linspace(0, 1, 5)
    many = loss_surface(model, data, directions=d, x=x, y=y, **QUIET).values["loss"]
    for row, column in ((0, 0), (0, 10), (2, 7), (4, 20)):
        alone = loss_surface(model, data, directions=d, x=[x[column]], y=[y[row]], **QUIET).values["loss"][0, 0]
        assert many[row, column] == alone


@pytest.mark.slow
def test_a_journal_is_resumed_also_where_the_loss_is_zero(tmp_path) -> None:
    model, data = tiny(), images()

    def nothing(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(labels))

    options = {"directions": plane(model), "y": [0.0], "loss": nothing, "journal": tmp_path / "cells", **QUIET}
    first = loss_surface(model, data, x=[0.0, 1.0], **options)
    finer = loss_surface(model, data, x=[0.0, 0.5, 1.0], **options)
    assert (finer.values["loss"] == 0).all()
    assert finer.seconds[0, [0, 2]].tolist() == first.seconds[0].tolist()  # read, not computed again
    other = {**options, "directions": plane(model)[::-1]}
    assert loss_surface(model, data, x=[0.0], **other).seconds[0, 0] != first.seconds[0, 0]
    with torch.no_grad():
        model.conv1.weight.mul_(2)
    assert loss_surface(model, data, x=[0.0], **options).seconds[0, 0] != first.seconds[0, 0]


def test_an_executor_gives_the_same_surface() -> None:
    from concurrent.futures import ThreadPoolExecutor

    model, data = tiny(), images()
    options = {"directions": plane(model), "x": [0.0, 0.5], "y": [0.0, 1.0], **QUIET}
    here = loss_surface(model, data, **options)
    with ThreadPoolExecutor(2) as executor:
        there = loss_surface(model, data, executor=executor, **options)
    # the threads of a pool share the cores, so that batches are cut otherwise
    np.testing.assert_allclose(here.values["loss"], there.values["loss"], rtol=1e-12)


def test_a_preview_after_each_doubling() -> None:
    model, data = tiny(), images(3)
    seen = []
    x, y = np.linspace(-1, 1, 5), np.linspace(0, 1, 3)
    found = loss_surface(model, data, directions=plane(model), x=x, y=y, preview=seen.append, **QUIET)
    assert [int(surface.finished.sum()) for surface in seen] == [4, 9, 15]
    assert np.isfinite(seen[0].values["loss"][[0, 0, 2, 2], [0, 4, 0, 4]]).all()
    assert np.isnan(seen[0].values["loss"][1, 1])
    np.testing.assert_array_equal(seen[-1].values["loss"], found.values["loss"])


def test_bfloat16_only_when_asked_for() -> None:
    model, data = tiny().float(), images().to(dtype=torch.float32)
    options = {"directions": plane(model), "x": [0.0, 0.5], "y": [0.0], **QUIET}
    exact, rough = (
        loss_surface(model, data, settings=CellSettings(dtype=dtype), **options) for dtype in (None, torch.bfloat16)
    )
    assert (exact.source.dtype, rough.source.dtype) == ("float32", "bfloat16")
    gap = np.abs(rough.values["loss"] / exact.values["loss"] - 1)
    assert 0 < gap.max() < 0.05


@pytest.mark.parametrize(
    "x", [[], [1.0, 0.0], [0.0, 0.0], [0.0, float("nan")], [[0.0, 1.0]], [0.0, float("inf")]], ids=str
)
def test_wrong_coordinates(x: list) -> None:
    model = tiny()
    with pytest.raises((ValueError, TypeError), match=r"increasing coordinates for x|expected x to be a sequence"):
        loss_surface(model, images(), directions=plane(model), x=x, **QUIET)


def test_wrong_directions_and_statistics() -> None:
    model, data = tiny(), images()
    with pytest.raises(ValueError, match="one or two directions, got 3"):
        loss_surface(model, data, directions=[*plane(model), plane(model)[0]], **QUIET)
    with pytest.raises(ValueError, match="use shared_direction"):
        loss_surface(nn.Conv2d(3, 4, 3), data, directions=plane(model), **QUIET)
    with pytest.raises(ValueError, match="expected batchnorm"):
        CellSettings(batchnorm="moving")
    with pytest.raises(ValueError, match="at least 2 examples"):
        CellSettings(batchnorm="batch", batch_size=1)
    bare = nn.Sequential(nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10, track_running_stats=False), nn.Flatten()).double()
    with pytest.raises(ValueError, match="use batchnorm='batch'"):
        loss_surface(bare, data, directions=plane(bare), **QUIET)


def test_agrees_with_loss_landscapes_along_a_line_between_checkpoints() -> None:
    landscapes = pytest.importorskip("loss_landscapes")
    from loss_landscapes.metrics import Loss

    from resnet_paths.landscape import direction_between

    start, end = tiny(), tiny()
    with torch.no_grad():
        for parameter in end.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double())
    data = images()
    metric = Loss(nn.functional.cross_entropy, data.x, data.labels)
    theirs = landscapes.linear_interpolation(start, end, metric, steps=4, deepcopy_model=True)
    line = loss_surface(start, data, directions=direction_between(start, end), x=[0.25, 0.5, 0.75, 1.0], **QUIET)
    np.testing.assert_allclose(line.values["loss"], theirs, rtol=1e-9)  # they drift


@given(st.integers(1, 70), st.integers(1, 30))
def test_levels_are_a_partition_with_the_corners_first(columns: int, rows: int) -> None:
    levels = coarse_to_fine(columns, rows)
    cells = [cell for level in levels for cell in level]
    assert sorted(cells) == [(row, column) for row in range(rows) for column in range(columns)]
    assert {(0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)} == set(levels[0])
    for depth in range(len(levels)):  # each level completes a grid
        seen = {cell for level in levels[: depth + 1] for cell in level}
        assert len(seen) == len({row for row, _ in seen}) * len({column for _, column in seen})


@given(st.integers(1, 500), st.integers(1, 130))
def test_slices_are_even(length: int, size: int) -> None:
    slices = even_slices(length, size)
    sizes = [chosen.stop - chosen.start for chosen in slices]
    assert [index for chosen in slices for index in range(chosen.start, chosen.stop)] == list(range(length))
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_the_embedded_family_in_float32() -> None:
    model = cifar_resnet(20, in_channels=1, widths=(4, 4, 8), seed=0).eval()
    data = images(8, 1).to(dtype=torch.float32)
    options = {"directions": plane(model), "x": [-0.5, 0.5], "y": [0.0], **QUIET}
    each = [CellSettings(fast=fast) for fast in (True, False)]
    fast, slow = (loss_surface(model, data, settings=settings, **options).values["loss"] for settings in each)
    np.testing.assert_allclose(fast, slow, rtol=1e-4)
