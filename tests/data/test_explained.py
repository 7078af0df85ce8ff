"""If a model does not take the data, public functions say so in one line, instead of torch's message."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from resnet_paths import compare, measure_latency, recalibrate_batchnorm, single_deletions, unroll
from resnet_paths.data import Examples, ImageData, as_data, as_examples, digits
from resnet_paths.data.adapter import as_batches
from resnet_paths.landscape import loss_surface, random_direction
from resnet_paths.models import cifar_resnet
from resnet_paths.paths import gradient_by_length, logit_lens, path_energy
from resnet_paths.surgery import refit_blocks
from resnet_paths.tables import data_frame
from resnet_paths.training import error_rate

QUIET = {"progress": False}
Call = Callable[[nn.Module, ImageData], object]
CALLS: dict[str, Call] = {
    "unroll": lambda model, data: unroll(model, data.x),
    "single_deletions": lambda model, data: single_deletions(unroll(model), data, **QUIET),
    "compare": lambda model, data: compare({"one": model, "other": model}, data, parts=(), **QUIET),
    "surface": lambda model, data: loss_surface(model, data, directions=random_direction(model), x=[0.0], **QUIET),
    "refit": lambda model, data: refit_blocks(unroll(model), [1], data),
    "latency": lambda model, data: measure_latency(model, data.x, seconds=0.0),
    "lens": lambda model, data: logit_lens(unroll(model), data.x),
    "loader": lambda model, data: recalibrate_batchnorm(model, [data.x]),
    "error": lambda model, data: error_rate(model, data),
}


@pytest.fixture
def model() -> nn.Module:
    return cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval()


@pytest.fixture
def few() -> ImageData:
    return digits("test").subset(slice(0, 6))


@pytest.mark.parametrize("name", CALLS)
def test_images_with_a_wrong_number_of_channels(name: str, model: nn.Module, few: ImageData) -> None:
    colours = replace(few, images=few.images.expand(-1, 3, -1, -1), mean=few.mean * 3, std=few.std * 3)
    with pytest.raises(
        ValueError, match=r"^expected .* that CifarResNet accepts, got .* of 3x8x8: .*; pass "
    ) as caught:
        CALLS[name](model, colours)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name in CALLS if name != "loader"]
)  # whose statistics have no values to check
def test_a_model_without_values(name: str, model: nn.Module, few: ImageData) -> None:
    with pytest.raises(
        ValueError, match=r"got one on the meta device, which holds only shapes; load its weights first"
    ):
        CALLS[name](model.to("meta"), few)


def test_an_input_of_another_dtype_than_the_model(model: nn.Module, few: ImageData) -> None:
    net = unroll(model.bfloat16())
    words = r"^expected an input of bfloat16 on cpu, .* got float32 on cpu; pass x.to\('cpu', torch.bfloat16\)$"
    with pytest.raises(ValueError, match=words):
        gradient_by_length(net, few.x, few.labels)
    assert gradient_by_length(net, few.x.bfloat16(), few.labels).share.shape == (4, 6)


def test_a_model_made_in_inference_mode(few: ImageData) -> None:
    with torch.inference_mode():
        made = cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=0).eval()
    with pytest.raises(ValueError, match=r"made within torch.inference_mode\(\); make or load it outside"):
        gradient_by_length(unroll(made), few.x, few.labels)


def test_gradients_that_are_not_numbers(model: nn.Module, few: ImageData) -> None:
    with torch.no_grad():
        model.linear.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"^expected finite gradients, got NaN or infinity; check the model's outputs"):
        path_energy(unroll(model), few.x, few.labels, draws=2, columns=2)


def test_a_model_of_lazy_layers() -> None:
    with pytest.raises(ValueError, match=r"got lazy ones; run the model once on an example first"):
        unroll(nn.Sequential(nn.LazyLinear(3)).eval())


def test_tables_and_lists_as_pairs() -> None:
    rows = np.arange(12.0).reshape(4, 3)
    data = as_examples((rows.tolist(), [0.5, 1.0, 1.5, 2.0]))
    assert data.inputs.tolist() == rows.tolist()
    assert data.targets.tolist() == [0.5, 1.0, 1.5, 2.0]
    table = data_frame({"a": rows[:, 0], "b": rows[:, 1]})
    with pytest.raises(TypeError, match=r"got DataFrame; pass arrays"):
        as_examples((table[["a"]], table["b"]))


def test_other_errors_stay_what_they_are(model: nn.Module, few: ImageData) -> None:
    def broken(*given: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$"):
        single_deletions(unroll(model), few, metric=broken, **QUIET)
    with pytest.raises(ValueError, match="expected a metric"):
        single_deletions(unroll(model), few, metric="squared_error", **QUIET)


class OnGraph(nn.Module):
    """A layer on the vertices of a graph that all examples share."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        return self.layer(graph @ x)


def test_what_all_examples_share_is_not_cut() -> None:
    graph = torch.eye(5)
    with pytest.raises(ValueError, match="10x4 and 3x2"):  # two examples of five vertices
        measure_latency(OnGraph().eval(), (torch.zeros(6, 5, 4), graph), seconds=0.0)


def test_examples_are_called_by_their_noun() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 2)).eval()
    data = Examples(torch.zeros(4, 7, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^expected sequences that Sequential accepts, got examples in memory of 7: "):
        compare({"one": model, "other": model}, data, parts=(), metric="error", **QUIET)


@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
def test_one_hot_labels_of_samples_in_a_list(few: ImageData, kind: torch.dtype) -> None:
    rows = nn.functional.one_hot(few.labels, 10).to(kind)
    pairs = list(zip(few.x, rows, strict=True))
    named = [{"image": x, "label": y} for x, y in pairs]
    for source in (pairs, named):
        for read in (as_data, as_examples):
            data = read(source)
            assert torch.equal(data.labels, few.labels)
            assert torch.equal(data.images, few.x)
    batches = list(as_batches(pairs, batch_size=4))
    assert [(x.shape[0], y.shape) for x, y in batches] == [(4, (4, 10)), (2, (2, 10))]


def test_three_colours_or_three_grey_images() -> None:
    pairs = [(torch.zeros(3, 8, 8), torch.eye(3, dtype=torch.int64)[number]) for number in range(3)]
    with pytest.raises(ValueError, match=r"one image \(3, 8, 8\) with a one-hot label .*; pass class numbers"):
        as_data(pairs)


class Series(nn.Module):
    """A residual network of series (channels, length)."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.head = nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((x + self.f(x).relu()).mean(2))


@pytest.mark.parametrize("as_container", [lambda pair: pair, lambda pair: [pair]])
def test_landscapes_name_the_model_that_does_not_accept_series(as_container) -> None:
    model = Series().eval()
    data = as_container((torch.randn(6, 3, 9), torch.arange(6) % 3))
    plane = [random_direction(model, seed=0)]
    with pytest.raises(ValueError, match=r"^expected series that Series accepts, got .* of 3x9: ") as caught:
        loss_surface(model, data, directions=plane, x=[0, 1], progress=False)
    assert "pass series that fit it" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pair_is_inputs_and_targets_of_the_wrong_length_too() -> None:
    """Not two arguments of the model."""
    model = Series().eval()
    net = unroll(model)
    with pytest.raises(ValueError, match=r"^expected series .* of 3x9: (?!.*positional)"):
        single_deletions(net, (torch.randn(6, 3, 9), torch.arange(6) % 3), progress=False)
