"""Mixup, precision, decay, stochastic depth in training; resume with all of them; trajectories and logs."""

import io
import os
import select

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet
from resnet_paths.training import Mixed, Recipe, mixup, read_trajectory, train
from resnet_paths.training.progress import TrainingProgress

TRICKS = {
    "epochs": 3,
    "batch_size": 32,
    "shift": 1,
    "flip": False,
    "mixup": 0.4,
    "label_smoothing": 0.1,
    "decay_vectors": False,
}


def small_data():
    return digits("train").subset(slice(0, 96))


def network(**options) -> nn.Module:
    return cifar_resnet(8, **{"in_channels": 1, "widths": (4, 4, 8), "seed": 0, **options})


# mixup


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_a_mixed_batch_is_against_mixed_targets(smoothing: float) -> None:
    x, y = torch.randn(7, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    batch = mixup(x, y, 0.5, np.random.default_rng(1), torch.Generator().manual_seed(1))
    share = np.random.default_rng(1).beta(0.5, 0.5)
    partner = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    assert 0 < share < 1
    assert torch.allclose(batch.images, share * x + (1 - share) * x[partner], rtol=0, atol=1e-14)

    logits = torch.randn(7, 3, dtype=torch.float64)
    target = share * F.one_hot(y, 3).double() + (1 - share) * F.one_hot(y[partner], 3).double()
    target = (1 - smoothing) * target + smoothing / 3
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert float(batch.loss(logits, smoothing)) == pytest.approx(float(expected), rel=1e-12)
    larger = y if share >= 0.5 else y[partner]
    assert int(batch.wrong(logits)) == int((logits.argmax(1) != larger).sum())


@pytest.mark.slow
def test_shares_follow_the_beta_distribution() -> None:
    shares, x = np.random.default_rng(0), torch.zeros(2, 1, 1, 1)
    drawn = np.array(
        [mixup(x, torch.zeros(2, dtype=torch.int64), 0.4, shares, torch.Generator()).share for _ in range(4000)]
    )
    variance = 1 / (4 * (2 * 0.4 + 1))
    assert drawn.mean() == pytest.approx(0.5, abs=5 * (variance / 4000) ** 0.5)
    assert drawn.var() == pytest.approx(variance, rel=0.1)


def test_without_mixup_a_batch_is_itself() -> None:
    x, y, generator = torch.randn(3, 1, 2, 2), torch.arange(3), torch.Generator().manual_seed(0)
    batch = mixup(x, y, 0.0, np.random.default_rng(0), generator)
    assert batch.images is x
    assert torch.equal(torch.rand(1, generator=generator), torch.rand(1, generator=torch.Generator().manual_seed(0)))


# decay and precision


def test_vectors_decay_or_not() -> None:
    """One step of plain SGD: what decays moves by rate x decay x weight more."""
    moved = {}
    for decays in (True, False):
        model = network().double()
        nn.init.normal_(model.bn1.bias, std=1.0, generator=torch.Generator().manual_seed(0))
        recipe = Recipe(
            epochs=1, batch_size=96, learning_rate=0.5, momentum=0, nesterov=False, weight_decay=0.1, warmup=0,
            shift=0, flip=False, decay_vectors=decays,
        )  # fmt: skip
        start = {name: value.detach().clone() for name, value in model.named_parameters()}
        train(model, small_data(), recipe, progress=False)
        moved[decays] = {name: value.detach() - start[name] for name, value in model.named_parameters()}
    for name, value in start.items():
        expected = -0.05 * value if value.ndim == 1 else torch.zeros_like(value)
        assert torch.allclose(moved[True][name] - moved[False][name], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_trains_float32_weights(precision: str) -> None:
    losses = {}
    for name in ("float32", precision):
        model, seen = network(), []
        hook = model.linear.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.dtype))
        rows = train(model, small_data(), Recipe(epochs=2, batch_size=32, shift=1, precision=name), progress=False)
        hook.remove()
        assert set(seen) == {getattr(torch, name)}
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        losses[name] = rows[0]["loss"]
    assert losses[precision] == pytest.approx(losses["float32"], rel=0.05)
    assert losses[precision] != losses["float32"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_on_a_gpu(precision: str) -> None:
    rows = train(network().cuda(), small_data(), Recipe(epochs=3, precision=precision, shift=1), progress=False)
    assert rows[-1]["loss"] < rows[0]["loss"]


# exact resume


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_run_with_every_trick_resumes_exactly(tmp_path, precision: str, epoch: int) -> None:
    """Stochastic depth, mixup, two decays, the scale of the loss in float16."""
    recipe, options = Recipe(**TRICKS, precision=precision), {"keep_last": 0.5, "shortcut": "D"}
    whole, broken = network(**options), network(**options)
    rows = train(whole, small_data(), recipe, folder=tmp_path / "whole", progress=False)

    def stop(done: int, _: nn.Module) -> None:
        if done == epoch:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(broken, small_data(), recipe, folder=tmp_path / "broken", progress=False, after_epoch=stop)
    torch.rand(5)
    again = network(**{**options, "seed": 7})
    assert train(again, small_data(), recipe, folder=tmp_path / "broken", progress=False) == rows
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    saved, other = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "broken"))
    assert saved["scaler"] == other["scaler"]
    assert saved["scaler"].get("_growth_tracker") == (9 if precision == "float16" else None)
    momenta = zip(saved["optimiser"]["state"].values(), other["optimiser"]["state"].values(), strict=True)
    assert all(torch.equal(one["momentum_buffer"], two["momentum_buffer"]) for one, two in momenta)


def test_a_run_from_before_an_option_existed_resumes(tmp_path) -> None:
    recipe, model = Recipe(epochs=2, batch_size=32, shift=1), network()

    def stop(*_: object) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        train(model, small_data(), recipe, folder=tmp_path, progress=False, after_epoch=stop)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    for name in ("mixup", "precision", "decay_vectors"):
        del saved["identity"]["recipe"][name]
    del saved["scaler"]
    torch.save(saved, tmp_path / "last.pt")
    rows = train(network(), small_data(), recipe, folder=tmp_path, progress=False)
    assert rows == train(network(), small_data(), recipe, progress=False)


# twins


@pytest.mark.slow
def test_twins_see_the_same_images_in_the_same_order() -> None:
    """Also beside a network that draws random numbers itself."""
    seen: list[list[torch.Tensor]] = []
    for options in ({}, {"residual": False}, {"keep_last": 0.5}, {"preactivation": True, "shortcut": "B"}):
        model, images = network(**options), []
        model.register_forward_pre_hook(lambda _, x, images=images: images.append(x[0]))
        train(model, small_data(), Recipe(**{**TRICKS, "epochs": 2}), progress=False)
        seen.append(images)
    assert len(seen[0]) == 6
    assert all(torch.equal(one, other) for images in seen[1:] for one, other in zip(seen[0], images, strict=True))


@pytest.mark.slow
def test_stochastic_depth_trains_and_evaluates_by_expected_gates() -> None:
    model = network(keep_last=0.5)
    rows = train(model, digits("train"), Recipe(epochs=4, batch_size=64, shift=0, flip=False), progress=False)
    assert not model.training
    x = digits("test").x
    assert torch.equal(model(x), model(x))
    assert rows[-1]["loss"] < 0.75 * rows[0]["loss"]


# trajectory and logs


def test_a_trajectory_begins_before_training(tmp_path) -> None:
    model, start = network(), network().state_dict()
    rows = train(model, small_data(), Recipe(epochs=3, shift=1), folder=tmp_path, keep="all", progress=False)
    path = read_trajectory(tmp_path)
    assert path.epochs == (0, 1, 2, 3)
    assert all(torch.equal(value, start[name]) for name, value in path.states[0].items())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in path.states[-1].items())
    assert path.rows == ({}, *rows)
    assert path.facts["recipe"]["epochs"] == 3
    assert list(path.to_pandas()["trained"]) == [0, 1, 2, 3]
    assert path.to_pandas()["loss"][3] == rows[-1]["loss"]

    names = ["conv1.weight", "linear.bias"]
    matrix = path.matrix(names)
    with pytest.raises(ValueError, match=r"names among those of the checkpoints .* got head.weight"):
        path.matrix([*names, "head.weight"])
    assert matrix.shape == (4, 4 * 9 + 10)
    assert torch.equal(matrix[3], torch.cat([model.conv1.weight.flatten(), model.linear.bias]))
    before = (tmp_path / "epoch-0000.safetensors").read_bytes()
    train(network(seed=3), small_data(), Recipe(epochs=3, shift=1), folder=tmp_path, keep="all", progress=False)
    assert (tmp_path / "epoch-0000.safetensors").read_bytes() == before
    with pytest.raises(FileNotFoundError, match="keep='all'"):
        read_trajectory(tmp_path / "nowhere")


def test_tensorboard_has_each_epoch_once_after_a_kill(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe, options = Recipe(epochs=3, shift=1), {"folder": tmp_path, "tensorboard": True, "progress": False}

    def stop(epoch: int, _: nn.Module) -> None:
        if epoch == 1:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(network(), small_data(), recipe, **options, after_epoch=stop)
    rows = train(network(), small_data(), recipe, **options, test=small_data())
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (row["epoch"], pytest.approx(row["loss"], rel=1e-6)) for row in rows
    ]
    assert len(events.Scalars("test_error")) == 1
    with pytest.raises(ValueError, match="pass folder="):
        train(network(), small_data(), recipe, tensorboard=True, progress=False)


def test_without_tensorboard_the_message_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"resnet-paths\[tensorboard\]"):
        train(network(), small_data(), folder=tmp_path, tensorboard=True, progress=False)


def test_progress_says_how_long_to_go() -> None:
    stream = io.StringIO()
    with TrainingProgress(True, epochs=4, steps=3, done=2, stream=stream) as shown:
        for epoch in (2, 3):
            for _ in range(3):
                shown.step()
            shown.epoch({"epoch": epoch, "loss": 0.5 / epoch})
    first, second = stream.getvalue().splitlines()
    assert first.startswith("epoch 3/4 loss 0.25, ")
    assert first.endswith(" to go")
    assert second == "epoch 4/4 loss 0.1667"
    quiet = io.StringIO()
    with TrainingProgress(False, epochs=1, steps=1, done=0, stream=quiet) as shown:
        shown.epoch({"epoch": 0})
    assert quiet.getvalue() == ""


def test_progress_is_a_bar_on_a_terminal() -> None:
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as terminal:
        with TrainingProgress(True, epochs=2, steps=2, done=0, stream=terminal) as shown:
            shown.step()
            shown.epoch({"epoch": 0, "loss": 0.25})
    text = b""
    while select.select([leader], [], [], 0.1)[0]:
        try:
            text += os.read(leader, 65536)
        except OSError:  # nothing more, and nobody writes
            break
    os.close(leader)
    text = text.decode()
    assert "1/2" in text
    assert "loss 0.25" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": -1}, "mixup to be a number of at least 0"),
        ({"precision": "half"}, "'float32', 'bfloat16' or 'float16', got 'half'"),
    ],
)
def test_wrong_tricks(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


def test_a_prediction_is_held_against_the_label_of_the_larger_share() -> None:
    logits, labels, other = torch.eye(3), torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0])
    for share, wrong in ((0.7, 0), (0.5, 0), (0.3, 2)):
        assert int(Mixed(torch.zeros(3), labels, other, share).wrong(logits)) == wrong


def test_the_loss_of_an_epoch_is_the_mean_over_images_also_with_a_smaller_last_batch() -> None:
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits("train").subset(slice(0, 13))
    recipe = Recipe(epochs=1, batch_size=5, learning_rate=0.0, shift=0, flip=False)
    (row,) = train(model, data, recipe, progress=False)
    expected = F.cross_entropy(model(data.x), data.labels).detach()
    assert row["loss"] == pytest.approx(float(expected), rel=1e-6)
