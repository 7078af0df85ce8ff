"""Studies of networks on data other than images: the values equal those of really dropping the blocks."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from references import literal_metrics
from references.other_data import KINDS, Case, case
from resnet_paths import block_values, drop_blocks, random_deletions, single_deletions, unroll
from resnet_paths.comparison import compare
from resnet_paths.data import Examples, ImageData, as_examples
from resnet_paths.data.fitting import usual_metric
from resnet_paths.data.metrics import METRICS
from resnet_paths.graph.inputs import call_model
from resnet_paths.lesion import evaluate_gates, reorderings, stage_deletions
from resnet_paths.network import UnrolledNetwork
from resnet_paths.plot import plot_side_by_side, plot_single_deletions

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def cases() -> dict[str, tuple[Case, UnrolledNetwork]]:
    made = {kind: case(kind) for kind in KINDS}
    return {kind: (one, unroll(one.model, one.data.subset([0, 1]).x)) for kind, one in made.items()}


def value(one: Case, model: torch.nn.Module, metric: str) -> float:
    """The metric of a model by the slow definitions, or by PyTorch's loss for classes."""
    with torch.no_grad():
        outputs, full = (call_model(net, one.data.x) for net in (model, one.model))
    targets = one.data.targets
    if metric in ("embedding_distance", "cosine_distance"):
        return float(getattr(literal_metrics, metric)(outputs, full))
    if metric in literal_metrics.WITH_TARGETS:
        return literal_metrics.WITH_TARGETS[metric](outputs, targets, one.data.mask)
    if metric == "loss":
        return float(torch.nn.functional.cross_entropy(outputs, targets))
    return float((outputs.argmax(1) != targets).double().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_each_deletion_is_that_of_the_network_without_the_block(kind: str, cases: dict) -> None:
    one, net = cases[kind]
    for metric in {one.metric, one.bounded or one.metric}:
        record = single_deletions(net, one.data, metric=metric, batch_size=3, **QUIET)
        dropped = [value(one, drop_blocks(net, [block.index]), metric) for block in net]
        assert record.values == pytest.approx(dropped, rel=1e-10, abs=1e-12)
        assert record.full == pytest.approx(value(one, one.model, metric), rel=1e-10, abs=1e-12)
        assert record.per_image.mean(1)[1:] == pytest.approx(record.values, rel=1e-12)
        assert (record.low <= record.values).all()
        assert (record.values <= record.high).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_block_game_adds_up_and_does_not_depend_on_batches(kind: str, cases: dict) -> None:
    one, net = cases[kind]
    games = [block_values(net, one.data, metric=one.metric, batch_size=size, **QUIET) for size in (2, 100)]
    assert games[0].values.sum() == pytest.approx(games[0].empty - games[0].full, abs=1e-10)
    assert games[0].values == pytest.approx(games[1].values, rel=1e-9, abs=1e-12)
    bare = value(one, drop_blocks(net, list(range(len(net)))), one.metric)
    assert games[0].empty == pytest.approx(bare, rel=1e-10)
    random = random_deletions(net, one.data, draws=2, metric=one.metric, **QUIET)
    assert random.values[-1] == pytest.approx(bare, rel=1e-10)


def test_orders_and_stages_run_on_other_data_too(cases: dict) -> None:
    one, net = cases["tokens"]
    record = reorderings(net, one.data, [1], draws=2, metric="perplexity", **QUIET)
    assert record.full == pytest.approx(value(one, one.model, "perplexity"), rel=1e-10)
    staged = stage_deletions(net, one.data, [1], draws=1, metric="next_token_loss", **QUIET)
    assert staged.results[0].full == pytest.approx(np.log(record.full), rel=1e-10)


def test_a_function_of_outputs_and_targets_is_a_metric(cases: dict) -> None:
    one, net = cases["numbers"]

    def mine(outputs: torch.Tensor, targets: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
        return (outputs[:, 0] - targets) ** 2

    ones = torch.ones(1, len(net))
    values = evaluate_gates(net, one.data, ones, mine, **QUIET)
    assert values == pytest.approx(evaluate_gates(net, one.data, ones, METRICS["squared_error"], **QUIET))
    with pytest.raises(ValueError, match=r"one value per example, \(7,\), got \(\)"):
        evaluate_gates(net, one.data, ones, lambda y, t, full: (y[:, 0] - t).mean(), **QUIET)


def test_a_journal_holds_parts_of_examples(cases: dict, tmp_path) -> None:
    one, net = cases["tokens"]
    plain = single_deletions(net, one.data, metric="perplexity", batch_size=3, **QUIET)
    kept = {"metric": "perplexity", "batch_size": 3, "journal": tmp_path / "journal.sqlite", **QUIET}
    assert np.array_equal(single_deletions(net, one.data, **kept).per_image, plain.per_image)
    assert np.array_equal(single_deletions(net, one.data, **kept).per_image, plain.per_image)


def test_every_container_gives_the_same_examples(cases: dict) -> None:
    one, net = cases["tokens"]
    data, model = one.data, one.model
    batches = [
        {**data.subset([0, 1, 2]).x, "labels": data.targets[:3]},
        {**data.subset([3, 4, 5, 6]).x, "labels": data.targets[3:]},
    ]
    samples = [
        {**{key: value[i] for key, value in data.x.items()}, "labels": data.targets[i], "text": "a"} for i in range(7)
    ]

    class Samples(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 7

        def __getitem__(self, index: int) -> dict:
            return samples[index]

    for source in (batches, iter(batches), {**data.x, "labels": data.targets}, Samples(), DataLoader(Samples(), 3)):
        read = as_examples(source, model)
        assert isinstance(read, Examples)
        assert read.fingerprint == data.fingerprint
    longest = int(data.mask[:3].sum(1).max())
    assert longest < data.mask.shape[1]
    cut = [{key: value[:, :longest] for key, value in batches[0].items()}, batches[1]]
    full = [single_deletions(net, source, metric="perplexity", **QUIET).full for source in (cut, data)]
    assert full[0] == pytest.approx(full[1], rel=1e-12)


def test_batches_of_different_lengths_need_a_mask() -> None:
    ids = torch.ones(2, 5, dtype=torch.int64)
    batches = [{"input_ids": ids, "labels": ids}, {"input_ids": ids[:, :3], "labels": ids[:, :3]}]
    with pytest.raises(ValueError, match=r"pad them, and pass an attention_mask"):
        as_examples(batches)
    masked = as_examples([{**batch, "attention_mask": torch.ones_like(batch["input_ids"])} for batch in batches])
    assert masked.targets[2:, 3:].tolist() == [[-100, -100]] * 2
    assert masked.mask.sum(1).tolist() == [5, 5, 3, 3]


def test_three_dimensions_are_series_for_a_model_that_takes_them_and_else_grey_images(cases: dict) -> None:
    one, net = cases["series"]
    source = TensorDataset(one.data.x, one.data.targets)
    assert as_examples(source, one.model).noun == "series"
    record = single_deletions(net, source, metric="loss", **QUIET)
    assert record.full == pytest.approx(value(one, one.model, "loss"))
    grey = torch.nn.Conv2d(1, 1, 3)
    images = as_examples((torch.randn(4, 8, 8), torch.tensor([0, 1, 0, 1])), grey)
    assert isinstance(images, ImageData)
    assert images.images.shape == (4, 1, 8, 8)


def test_records_and_plots_call_examples_by_their_noun(cases: dict) -> None:
    for name, nouns in (("tokens", "sequences"), ("series", "series"), ("numbers", "examples")):
        one, net = cases[name]
        record = single_deletions(net, one.data, metric=usual_metric(one.data), **QUIET)
        assert record.source.nouns == nouns
        assert f"{len(one.data)} {nouns}" in plot_single_deletions(record).get_title()
        compared = compare({"one": net, "other": net}, one.data, parts=(), metric=record.metric, progress=False)
        assert f"{len(one.data)} {nouns}" in plot_side_by_side(compared).get_title()


def test_images_with_other_targets_than_a_class_are_examples() -> None:
    x = torch.randn(4, 3, 8, 8)
    assert isinstance(as_examples((x, torch.tensor([0, 1, 2, 0]))), ImageData)
    assert isinstance(as_examples((x, torch.eye(3)[[0, 1, 2, 0]])), ImageData)
    for targets in (torch.randn(4), torch.randint(0, 3, (4, 8, 8)), torch.ones(4, 3), torch.randn(4, 3)):
        data = as_examples((x, targets))
        assert isinstance(data, Examples)
        assert data.noun == "image"
        assert torch.equal(data.targets, targets)
    with pytest.raises(TypeError, match="normalise them first"):
        as_examples((torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.randn(4)))


def test_examples_are_refused_where_they_do_not_fit_together() -> None:
    for inputs, targets in ((torch.zeros(3, 2), torch.zeros(2)), (torch.zeros(0, 2), None), ({"a": 1}, None)):
        with pytest.raises(ValueError, match=r"^expected"):
            Examples(inputs, targets)
    data = Examples({"x": torch.zeros(3, 2), "scale": torch.ones(1), "flag": True}, np.zeros(3))
    part = data.subset([0, 2])
    assert (len(part), part.x["scale"].shape, part.x["flag"]) == (2, (1,), True)
    assert data.fingerprint != part.fingerprint


def test_samples_in_a_list_are_distinguished_from_batches(cases: dict) -> None:
    one, _ = cases["numbers"]
    x, y = one.data.x, one.data.targets
    pairs = [(x[index], y[index]) for index in range(len(x))]
    plain = [(row.numpy(), float(value)) for row, value in pairs]
    named = [{"x": row, "y": value} for row, value in pairs]
    for source in (pairs, iter(plain), named, [(x[:3], y[:3]), (x[3:], y[3:])]):
        read = as_examples(source, one.model)
        torch.testing.assert_close(read.x, x)
        torch.testing.assert_close(read.targets, y, check_dtype=False)
    masks = torch.randint(0, 3, (4, 8, 8))
    images = as_examples([(torch.zeros(1, 8, 8), mask) for mask in masks])
    assert isinstance(images, Examples)
    assert torch.equal(images.targets, masks)
    ids = torch.randint(0, 9, (4, 5))
    texts = as_examples([{"input_ids": row.tolist(), "labels": row.tolist()} for row in ids])
    assert torch.equal(texts.x["input_ids"], ids)
    assert torch.equal(texts.targets, ids)
    users = as_examples([((torch.arange(5), torch.arange(5)), torch.randn(5))] * 2)
    assert len(users) == 10, "a batch of single numbers is no sample"


def test_inputs_and_targets_of_one_shape_are_a_pair() -> None:
    noisy, clean = torch.randn(6, 1, 8, 8), torch.randn(6, 1, 8, 8)
    for labelled in (True, False):
        read = as_examples((noisy, clean), labelled=labelled)
        assert isinstance(read, Examples)
        assert torch.equal(read.targets, clean)
    assert len(as_examples([noisy, clean], labelled=False)) == 12


def test_a_metric_returns_a_tensor(cases: dict) -> None:
    one, net = cases["numbers"]
    for returned in (0.5, None, [0.5] * 7):
        with pytest.raises(TypeError, match=r"one value per example, \(7,\), got"):
            evaluate_gates(net, one.data, torch.ones(1, len(net)), lambda y, t, full, r=returned: r, **QUIET)
