"""Everything that determines a cell is in its fingerprint: a journal returns only values of the same settings."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from damage import tiny
from resnet_paths.data import digits
from resnet_paths.landscape import CellSettings, Direction, random_direction
from resnet_paths.landscape.cell_metrics import named_metrics
from resnet_paths.landscape.cells import CellEvaluator, Cells
from resnet_paths.landscape.gate_copy import GatePath, GatePlane, GateSpace
from resnet_paths.landscape.working_copy import WeightSpace
from resnet_paths.network import unroll
from resnet_paths.sweep import fingerprint
from resnet_paths.sweep.fingerprints import deciding

MODEL = tiny(in_channels=1)
DATA = digits("test").subset(slice(0, 4)).to(dtype=torch.float64)
OTHERS = digits("test").subset(slice(4, 8)).to(dtype=torch.float64)
DIRECTIONS = [random_direction(MODEL, seed=seed) for seed in (1, 2)]
NET = unroll(MODEL)
PLANE = GatePlane([1.0] * 9, [1.0] + [0.0] * 8, [0.0] * 9)
CELLS = {
    "weights": Cells(WeightSpace(MODEL, DIRECTIONS), DATA, named_metrics(("loss",), DATA), CellSettings()),
    "gates": Cells(GateSpace(NET, PLANE), DATA, named_metrics(("loss",), DATA), CellSettings()),
}


def squared(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits[:, 0] ** 2


# Another value for each field. A field that is added later has none here, so the first test below fails.
OF_CELLS: dict[str, tuple[Any, bool]] = {
    "data": (OTHERS, True),
    "metrics": (named_metrics(("loss",), DATA, squared), True),
    "settings": (CellSettings(dtype=torch.bfloat16), True),
    "on_workers": (True, False),
}
OF_SETTINGS: dict[str, tuple[Any, bool]] = {
    "batchnorm": ("recalibrated", True),
    "recalibrate": (OTHERS, True),
    "batch_size": (2, False),
    "dtype": (torch.bfloat16, True),
    "fast": (False, True),
}
OF_SPACES: dict[str, dict[str, tuple[Any, bool]]] = {
    "weights": {"model": (tiny(in_channels=1, preactivation=True), True), "directions": (DIRECTIONS[::-1], True)},
    "gates": {
        "net": (unroll(tiny(in_channels=1, preactivation=True)), True),
        "line": (GatePath([[1.0] * 9, [0.0] * 9]), True),
    },
}
OF_DIRECTIONS: dict[str, tuple[Any, bool]] = {
    "tensors": (dict(DIRECTIONS[1].tensors), True),
    "kind": ("given", False),
    "seed": (None, False),
    "facts": ({"share": 0.5}, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CELLS)
def test_each_field_counts_or_is_said_not_to(kind: str) -> None:
    cells = CELLS[kind]
    before = fingerprint(cells)

    def check(record: Any, others: dict[str, tuple[Any, bool]], put: Callable[[Any], Cells]) -> None:
        assert {field.name for field in fields(record)} == set(others)
        for name, (value, decides) in others.items():
            changed = fingerprint(put(replace(record, **{name: value}))) != before
            assert changed == decides, name

    check(cells, {"space": (CELLS["gates" if kind == "weights" else "weights"].space, True), **OF_CELLS}, lambda it: it)
    check(cells.settings, OF_SETTINGS, lambda it: replace(cells, settings=it))
    check(cells.space, OF_SPACES[kind], lambda it: replace(cells, space=it))
    if isinstance(cells.space, WeightSpace):
        space, second = cells.space, DIRECTIONS[1]
        check(DIRECTIONS[0], OF_DIRECTIONS, lambda it: replace(cells, space=replace(space, directions=[it, second])))


def test_the_size_of_a_batch_counts_where_its_statistics_do() -> None:
    sizes = [replace(CELLS["weights"], settings=CellSettings("batch", batch_size=size)) for size in (2, 4)]
    assert fingerprint(sizes[0]) != fingerprint(sizes[1])


def test_the_images_type_and_the_models_weights_count_and_its_train_flags_do_not() -> None:
    cells = CELLS["weights"]
    assert fingerprint(replace(cells, data=DATA.to(dtype=torch.float32))) != fingerprint(cells)
    training = tiny(in_channels=1).train()
    same = replace(cells, space=WeightSpace(training, DIRECTIONS))
    assert fingerprint(same) == fingerprint(cells)
    assert training.training
    with torch.no_grad():
        training.conv1.weight.mul_(2)
    assert fingerprint(replace(same, space=WeightSpace(training, DIRECTIONS))) != fingerprint(cells)


def test_names_that_are_not_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="expected fields of CellSettings, got colour"):
        deciding(CellSettings(), aside={"colour"})


def _outputs(cell: CellEvaluator, point: list[float]) -> torch.Tensor:
    return torch.cat([outputs for _, outputs in cell.outputs(point)])


@pytest.mark.parametrize("batchnorm", ["frozen", "recalibrated", "batch"])
@pytest.mark.parametrize("fast", [True, False])
def test_weights_and_gates_meet_at_the_model_itself(batchnorm: str, fast: bool) -> None:
    settings = CellSettings(batchnorm, OTHERS, batch_size=2, fast=fast)
    logits = [_outputs(CellEvaluator(c.space, DATA, c.metrics, settings), c.space.origin) for c in CELLS.values()]
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-10, atol=1e-12)


def test_states_held_are_not_those_of_other_gates_before_them() -> None:
    line = GatePlane([0.5] * 9, [0.0] * 4 + [1.0] + [0.0] * 4, [0.0] * 9)
    cell = CellEvaluator(GateSpace(NET, line), DATA, named_metrics(("loss",), DATA), CellSettings(batch_size=2))
    for gates in (line.gates({"x": 0.3}), [1.0] * 9, line.gates({"x": 0.7})):
        with torch.no_grad():
            expected = NET(DATA.x, gates)
        np.testing.assert_allclose(_outputs(cell, gates), expected, rtol=1e-10, atol=1e-12)


def test_a_direction_is_what_it_moves() -> None:
    named = Direction(DIRECTIONS[0].tensors, "by hand", facts={"x": 1})
    assert fingerprint(named) == fingerprint(DIRECTIONS[0])


def test_norms_without_statistics_are_refused_before_any_cell() -> None:
    bare = tiny(in_channels=1)
    bare.bn1 = torch.nn.BatchNorm2d(4, track_running_stats=False).double().eval()
    with pytest.raises(ValueError, match="use batchnorm='batch'"):
        CellEvaluator(WeightSpace(bare, []), DATA, named_metrics(("loss",), DATA))
