"""A graph run as one function: nothing that is read again may be overwritten."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import get_model

from helpers import randomise_norms
from resnet_paths.graph.executor import Whole
from resnet_paths.graph.fused_convolution import fused_convolution, is_available
from resnet_paths.graph.tracing import trace
from resnet_paths.models import cifar_resnet
from resnet_paths.network import for_inference, unroll

needs_bfloat16 = pytest.mark.skipif(not is_available(), reason="this processor has no fused convolutions in bfloat16")
LAST = {"memory_format": torch.channels_last}

KINDS = [
    "sum",
    "residual",
    "residual and relu",
    "layer and relu",
    "layer",
    "relu module",
    "identity",
    "view",
    "in place",
]
operations = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 2), st.integers(0, 2)),
    min_size=1,
    max_size=4,  # so that no value exceeds 256, up to which bfloat16 represents all integers
)


class Random(nn.Module):
    """Operations on the last values, chosen at random; small whole numbers, so that bfloat16 is exact."""

    def __init__(self, chosen: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.chosen = chosen
        self.layers = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in chosen)
        generator = torch.Generator().manual_seed(len(chosen))
        for parameter in self.parameters():
            parameter.data.copy_(torch.randint(-1, 2, parameter.shape, generator=generator))
        self.relu, self.identity = nn.ReLU(), nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = [x]
        for layer, (kind, first, second) in zip(self.layers, self.chosen, strict=True):
            a, b = (values[-1 - back % len(values)] for back in (first, second))
            if kind.startswith("residual"):
                total = self.identity(layer(a)) + b
                values.append(F.relu(total) if "relu" in kind else total)
            elif kind in ("layer", "layer and relu"):
                values.append(F.relu(layer(a)) if "relu" in kind else layer(a))
            elif kind == "relu module":
                values.append(self.relu(a))
            elif kind == "sum":
                values.append(a + b)
            elif kind == "in place":
                values.append(layer(a).relu_())
            else:
                values.append(self.identity(a) if kind == "identity" else a[:, :, :, ::1])
        return torch.cat([values[-1], values[len(values) // 2]], 1)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(operations)
@example([("layer", 0, 0), ("identity", 0, 0), ("residual", 1, 0), ("layer", 2, 0), ("layer", 0, 0)])
@example([("relu module", 0, 0), ("residual", 0, 1), ("layer", 0, 0)])
def test_no_value_is_overwritten_that_is_read_again(chosen: list[tuple[str, int, int]]) -> None:
    model = Random(chosen).eval().to(**LAST)
    x = torch.randint(-1, 2, (2, 2, 3, 3), generator=torch.Generator().manual_seed(1)).float().contiguous(**LAST)
    for dtype in (torch.float64, torch.bfloat16):
        model, given_images = model.to(dtype), x.to(dtype)
        whole = Whole(trace(model))
        with torch.inference_mode():
            found, expected = whole(given_images), model(given_images)
        assert torch.equal(found, expected)
        assert torch.equal(given_images, x.to(dtype))


def test_a_layer_does_not_write_over_what_it_reads() -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.layer = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.relu(self.stem(x))
            return F.relu(self.layer(y) + y)

    torch.manual_seed(0)
    model = Same().to(torch.bfloat16).to(**LAST)
    x = torch.randn(4, 3, 32, 32).bfloat16().contiguous(**LAST)
    with torch.inference_mode():
        torch.testing.assert_close(Whole(trace(model))(x), model(x), rtol=2e-2, atol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "regnet_y_400mf", "densenet121", "convnext_tiny"])
def test_it_is_the_model_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    model = randomise_norms(get_model(name)).eval().double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    whole = Whole(trace(model))
    with torch.inference_mode():
        assert torch.equal(whole(x), model(x))
        assert torch.equal(whole(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_folded_networks(preactivation: bool, shortcut: str, dtype: torch.dtype) -> None:
    model = randomise_norms(cifar_resnet(14, shortcut=shortcut, preactivation=preactivation, seed=0)).eval().double()
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype).contiguous(**LAST)
    folded = for_inference(unroll(model), dtype=dtype).model
    with torch.inference_mode():
        found, plain, exact = Whole(trace(folded))(x), folded(x), model(x.double())
    if dtype == torch.float64:
        assert torch.equal(found, plain)
    else:
        assert (found - exact).norm() <= 1.5 * (plain - exact).norm()
        assert (found - exact).norm() <= 0.03 * exact.norm()


@needs_bfloat16
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_that_adds_and_rectifies(relu: bool, stride: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 16, 3, stride, 1).to(torch.bfloat16)
    x = torch.randn(2, 8, 9, 9).bfloat16().contiguous(**LAST)
    with torch.inference_mode():
        other = torch.randn_like(layer(x)).contiguous(**LAST)
        alone = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), stride, 1)
        for term in (None, other):
            exact = alone if term is None else alone + term.double()
            found = fused_convolution(layer, x, term, relu=relu)
            torch.testing.assert_close(found.double(), exact.relu() if relu else exact, rtol=1e-2, atol=1e-2)
        kept = other.clone()
        apart = fused_convolution(layer, x, other, relu=relu)
        assert torch.equal(other, kept)
        into = fused_convolution(layer, x, other, relu=relu, overwrite=True)
        assert into.data_ptr() == other.data_ptr()
        torch.testing.assert_close(into, apart, rtol=1e-2, atol=1e-2)


@needs_bfloat16
def test_convolutions_that_cannot_be_fused_are_left_to_the_model() -> None:
    x = torch.randn(2, 4, 6, 6).bfloat16().contiguous(**LAST)
    plain = nn.Conv2d(4, 4, 3, padding=1).bfloat16()
    small = torch.zeros(1, 1, 6, 6).bfloat16().contiguous(**LAST)
    with torch.inference_mode():
        assert fused_convolution(plain, x, relu=True) is not None
        assert fused_convolution(nn.Conv2d(4, 4, 3, padding="same").bfloat16(), x, relu=True) is None
        assert fused_convolution(nn.Conv2d(4, 4, 3, padding_mode="circular").bfloat16(), x, relu=True) is None
        assert fused_convolution(nn.Linear(4, 4).bfloat16(), x, relu=True) is None
        assert fused_convolution(plain, x, small, relu=True) is None  # would have to be broadcast
        assert fused_convolution(plain, x, 1.0, relu=True) is None
        assert fused_convolution(plain, x.contiguous(), relu=True) is None
        with torch.backends.mkldnn.flags(enabled=False):
            assert fused_convolution(plain, x, relu=True) is None
    assert fused_convolution(plain, x, relu=True) is None  # autograd


def test_it_refuses_to_run_where_somebody_watches() -> None:
    model = cifar_resnet(8, seed=0).eval()
    whole, x = Whole(trace(model)), torch.randn(1, 3, 8, 8)
    with pytest.raises(RuntimeError, match="hooks"):
        whole(x)
    handle = model.layer1[0].conv1.register_forward_pre_hook(lambda module, args: None)
    with torch.no_grad():
        assert not whole.runs()
        handle.remove()
        assert torch.equal(whole(x), model(x))


def test_several_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    with pytest.raises(ValueError, match="one input, got 2"):
        Whole(trace(Two()))
