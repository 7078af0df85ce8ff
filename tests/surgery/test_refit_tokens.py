"""Refits of language models: transposed weights, divergence of next tokens, positions that do not count."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from references.refit_tokens import drop, refit
from resnet_paths import unroll
from resnet_paths.data import Examples
from resnet_paths.data.inputs import as_inputs
from resnet_paths.data.position_metrics import channels_beside
from resnet_paths.surgery import RefitSettings, Refitter, export_model, refit_blocks
from resnet_paths.surgery.refit import divergence

EVERY_ROW = RefitSettings(rows_per_feature=10**6, batch_size=5, ridge=1e-3, held_out=0.3)
WORDS, LENGTH = 11, 8


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the model counts cached tokens")
        yield


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=3, n_head=2, n_embd=8, vocab_size=WORDS, n_positions=LENGTH, bos_token_id=None, eos_token_id=None
    )
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


def padded(count: int, garbage: int) -> dict[str, torch.Tensor]:
    """Sequences of different lengths; what stands where they are padded depends on `garbage` only."""
    lengths = torch.arange(count) % 4 + LENGTH - 4
    mask = torch.arange(LENGTH) < lengths[:, None]
    return {
        "input_ids": torch.where(mask, tokens(count), tokens(count, 100 + garbage)),
        "attention_mask": mask.long(),
    }


# layers whose weights are (features, outputs)


class TransposedLayer(nn.Module):
    """``x @ W + b`` in one of its spellings."""

    def __init__(self, width: int, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.weight, self.bias = nn.Parameter(draws(width, width)), nn.Parameter(draws(width, seed=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        match self.spelling:
            case "addmm":
                return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(x.size())
            case "addmm by name":
                return torch.addmm(input=self.bias, mat1=x.flatten(0, -2), mat2=self.weight).view(x.shape)
            case "@":
                return x @ self.weight + self.bias
            case "bias first":
                return self.bias + torch.matmul(x, self.weight)
            case "method":
                return x.matmul(self.weight)
            case "half of the bias":
                return torch.addmm(self.bias, x.flatten(0, -2), self.weight, beta=0.5).view(x.shape)
            case _:
                return self.weight @ x


class Linear(nn.Module):
    """A block whose branch is linear in what it reads."""

    def __init__(self, width: int, spelling: str) -> None:
        super().__init__()
        self.layer = TransposedLayer(width, spelling)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer(x)


@pytest.mark.parametrize("spelling", ["addmm", "addmm by name", "@", "bias first", "method"])
def test_a_dropped_branch_that_is_linear_in_a_kept_one_is_restored_exactly(spelling: str) -> None:
    blocks = [Linear(5, spelling) for _ in range(3)]
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), *blocks, nn.Linear(5, 4)).double().eval()
    settings = RefitSettings(ridge=0.0, rows_per_feature=1000)
    result = refit_blocks(model, [1, 2], draws(40, 3, 6), example_input=draws(2, 3, 6), settings=settings)
    assert result.repair == "refitted"
    assert result.step == 1
    assert result.blocks[0].layers == "2.layer"
    other = draws(9, 3, 6, seed=1)
    assert torch.allclose(result.model(other), model(other), atol=1e-9)
    assert result.model[2].layer.weight.shape == (5, 5)


@pytest.mark.parametrize("spelling", ["half of the bias", "weights first"])
def test_other_products_are_not_taken_for_layers(spelling: str) -> None:
    model = nn.Sequential(nn.Linear(6, 5), *[Linear(5, spelling) for _ in range(2)], nn.Linear(5, 4)).double().eval()
    result = refit_blocks(model, [1], draws(12, 5, 6), example_input=draws(2, 5, 6))
    assert [bool(block.reason) for block in result.blocks] == [True]
    assert result.repair == "plain"


# GPT-2


def test_gpt2_with_nothing_dropped_stays_unchanged() -> None:
    model = gpt2()
    result = refit_blocks(model, [], tokens(12), example_input=tokens(2), settings=EVERY_ROW)
    assert (result.repair, result.step, result.blocks) == ("plain", 0, ())
    assert all(torch.equal(value, result.model.state_dict()[name]) for name, value in model.state_dict().items())


def test_gpt2_with_a_block_that_adds_nothing_keeps_its_weights_up_to_rounding() -> None:
    model = gpt2()
    drop(model, 3)
    settings = RefitSettings(rows_per_feature=10**6, steps=(1.0,))
    result = Refitter(unroll(model, tokens(2)), tokens(40), settings=settings)([3])
    assert [block.reason for block in result.blocks] == [""] * 3
    assert abs(result.steps[1.0]) < 1e-14
    assert max(block.after for block in result.blocks) < 1e-10


@pytest.mark.parametrize("hidden", ["nothing", "by a mask", "by labels", "by both"])
def test_the_solution_for_gpt2_is_the_one_written_out(hidden: str) -> None:
    full, given = gpt2(), padded(60, garbage=0)
    real = given["attention_mask"].bool()
    labels = torch.where(real, given["input_ids"], -100)
    counted = torch.ones_like(real) if hidden == "nothing" else real
    if hidden in ("nothing", "by labels"):
        del given["attention_mask"]
    batch = given | ({"labels": labels} if hidden in ("by labels", "by both") else {})
    net = unroll(full, {name: value[:2] for name, value in given.items()})
    settings = RefitSettings(rows_per_feature=10**6, batch_size=7, ridge=1e-3, steps=(1.0,), held_out=0.3)
    refitter = Refitter(net, [batch], settings=settings)
    result = refitter([3])
    bare = copy.deepcopy(full)
    drop(bare, 3)
    fitted, held_out = refitter.fitted_images, refitter.held_out_images
    count = counted if fitted.counted is None else fitted.counted
    assert torch.equal(count, fitted.counted)
    if hidden == "nothing":
        assert bool(count.all())
    plain = next_token_divergence(bare, full, held_out.held, held_out.counted)
    assert result.divergences["plain"] == pytest.approx(plain, rel=1e-9)
    refit(full, bare, [(2, 3), (4, 4), (5, 5)], fitted.held, count, 1e-3)
    assert result.steps[1.0] == pytest.approx(
        next_token_divergence(bare, full, held_out.held, held_out.counted), rel=1e-6
    )
    assert [(block.block[-4:], block.target[-4:]) for block in result.blocks] == [
        ("attn", ".mlp"), ("attn", "attn"), (".mlp", ".mlp")
    ]  # fmt: skip


def next_token_divergence(model: nn.Module, full: nn.Module, held: Any, counted: torch.Tensor) -> float:
    """The mean over tokens that count of the sum over words of p log(p / q)."""
    with torch.no_grad():
        p, q = (one(**held).logits.softmax(-1) for one in (full, model))
    each = (p * (p / q).log()).sum(-1)
    return float(sum(each[index] for index in counted.nonzero().unbind(0) for index in [tuple(index)])) / int(
        counted.sum()
    )


def test_the_content_of_padded_positions_changes_nothing() -> None:
    model = gpt2()
    results = []
    for garbage in (0, 1):
        given = padded(40, garbage)
        net = unroll(model, {name: value[:2] for name, value in given.items()})
        results.append(Refitter(net, [given], settings=EVERY_ROW)([1, 4]))
    assert results[0].repair == "refitted"
    assert results[0].steps == pytest.approx(results[1].steps, rel=1e-9)
    for name, value in results[0].model.state_dict().items():
        assert torch.allclose(value, results[1].model.state_dict()[name], rtol=1e-8, atol=1e-10)


def test_the_length_of_the_step_is_chosen_by_the_divergence_of_next_tokens() -> None:
    """Where the squared error of the logits and their divergence disagree, the divergence decides."""
    given = padded(40, garbage=0)
    model = gpt2()
    net = unroll(model, {name: value[:2] for name, value in given.items()})
    refitter = Refitter(net, [given], settings=EVERY_ROW)
    result = refitter([1])
    assert result.step == min(result.steps, key=result.steps.__getitem__)
    assert result.divergences[result.repair] <= result.divergences["plain"]
    held_out = refitter.held_out_images
    assert result.divergences[result.repair] == pytest.approx(
        next_token_divergence(result.model, model, held_out.held, held_out.counted), rel=1e-6
    )


def test_a_refitted_gpt2_can_be_stored_exported_and_loaded(tmp_path: Path) -> None:
    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = gpt2()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=x, use_cache=False).logits

    model, x = Logits().eval(), tokens(40)
    result = refit_blocks(model, [3], x, example_input=x[:2])
    assert result.repair == "refitted"
    expected = result.model(x)
    assert sum(p.numel() for p in result.model.parameters()) < sum(p.numel() for p in model.parameters())
    files = export_model(result.model, x[:2], tmp_path, onnx=False)
    assert torch.allclose(torch.export.load(files["pt2"]).module()(x), expected, atol=1e-10)
    smaller = pickle.loads(pickle.dumps(result.model.model))
    assert torch.allclose(smaller(input_ids=x).logits, expected, atol=1e-10)
    plain = Refitter(unroll(model, x[:2]), x)
    outputs = plain.on(x)([3])
    assert torch.allclose(outputs, expected, atol=1e-8)


# positions


def test_positions_that_count_stay_with_their_sequences() -> None:
    given = padded(20, garbage=0)
    inputs = as_inputs([{name: value[:8] for name, value in given.items()}, {n: v[8:] for n, v in given.items()}])
    for part in inputs.apart(0.3):
        assert torch.equal(part.counted, part.held["attention_mask"].bool())
        batches = list(part.batches(4))
        assert len(batches) > 1
        for number, batch in enumerate(batches):
            assert torch.equal(part.counted_in(number, 4), batch["attention_mask"].bool())


@pytest.mark.parametrize("likely", [None, 1, 2])
def test_the_dimension_of_channels(likely: int | None) -> None:
    counted = torch.ones(3, 5)
    assert channels_beside(torch.ones(3, 5, 4), counted, likely) == 2
    assert channels_beside(torch.ones(3, 4, 5), counted, likely) == 1
    assert channels_beside(torch.ones(3, 5, 5), counted, likely) == (2 if likely is None else likely)
    assert channels_beside(torch.ones(3, 4, 4), counted, likely) is None
    assert channels_beside(torch.ones(3), counted, likely) is None


def test_divergence_is_over_positions_that_count_in_either_layout() -> None:
    one, other = draws(4, 6, 7), draws(4, 6, 7, seed=1)
    counted = draws(4, 6, seed=2) > 0
    expected = F.kl_div(one.log_softmax(-1), other.softmax(-1), reduction="none").sum(-1)[counted].mean()
    assert divergence(one, other, counted) == pytest.approx(float(expected))
    assert divergence(one.mT, other.mT, counted) == pytest.approx(float(expected))
    squared = (one - other)[counted].square().mean() / other[counted].square().mean()
    assert divergence(one, other, counted, scores=False) == pytest.approx(float(squared))
    assert divergence(one, other) == pytest.approx(float((one - other).square().mean() / other.square().mean()))


def test_sequences_without_a_position_that_counts_are_refused() -> None:
    given = padded(8, garbage=0) | {"labels": torch.full((8, LENGTH), -100)}
    with pytest.raises(ValueError, match="positions that count"):
        refit_blocks(gpt2(), [1], [given], example_input={"input_ids": tokens(2)})


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x.flip(1)])
def test_a_convolution_over_steps_leaves_out_those_without_labels(change: Callable[[torch.Tensor], Any]) -> None:
    """A planted relation holds at the steps that count only; others contradict it."""

    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv1d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.layer(x)

    class Bent(nn.Module):
        """Adds something linear where the first channel is positive, and something else elsewhere."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv1d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.where(x[:, :1] > 0, self.layer(x), 3 * x.square())

    torch.manual_seed(0)
    first = Convolution()
    nn.init.zeros_(first.layer.weight)
    nn.init.zeros_(first.layer.bias)
    model = nn.Sequential(first, Bent(), nn.Conv1d(4, 3, 1)).double().eval()
    x = change(draws(40, 4, 9))
    labels = torch.where(x[:, 0] > 0, 1, -100)
    settings = RefitSettings(ridge=0.0, rows_per_feature=1000, steps=(1.0,))
    result = Refitter(unroll(model, x[:2]), [(x, labels)], settings=settings)([1])
    assert result.steps[1.0] < 1e-12 < result.steps[0.0]
    everywhere = Refitter(unroll(model, x[:2]), x, settings=settings)([1])
    assert everywhere.steps[1.0] > 1e-3


def test_positions_count_where_neither_label_nor_mask_leaves_them_out() -> None:
    ids = torch.arange(1, 9).view(2, 4)
    labels = torch.tensor([[-100, 2, 3, 4], [5, 6, -100, 8]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 1]])
    counted = as_inputs(Examples({"input_ids": ids, "attention_mask": mask}, labels)).counted
    assert counted is not None
    assert counted.tolist() == [[False, True, True, False], [True, False, False, True]]
