import csv
import dataclasses
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet, load_model, read_checkpoint
from resnet_paths.training import Recipe, augment, error_rate, train

SCRIPT = """
import multiprocessing, sys, time
from pathlib import Path
import torch, torch._dynamo  # optimizers import it
torch.set_num_threads(1)
from resnet_paths.data import digits
from resnet_paths.models import cifar_resnet
from resnet_paths.training import Recipe, train

here = Path(sys.argv[1])
log = here / "broken" / "log.csv"
images = digits("train").subset(slice(0, 96))

def training(name):
    model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
    train(model, images, Recipe(epochs=12, batch_size=32, shift=1), folder=here / name, progress=False)
    torch.save(model.state_dict(), here / f"{name}.pt")

def begun(name):
    child = multiprocessing.get_context("fork").Process(target=training, args=(name,))
    child.start()
    return child

def code_of(child):
    child.join()
    return child.exitcode

whole = code_of(begun("whole"))
broken = begun("broken")
while broken.is_alive() and not (log.exists() and len(log.read_text().splitlines()) >= 4):
    time.sleep(0.01)
broken.kill()
print(whole, code_of(broken), code_of(begun("broken")))
"""


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(tmp_path) -> None:
    """Each training run in a separate process, forked from one that has imported everything and computed nothing."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert result.stdout.split() == ["0", str(-signal.SIGKILL), "0"]
    one, other = torch.load(tmp_path / "whole.pt"), torch.load(tmp_path / "broken.pt")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (tmp_path / "whole" / "log.csv").read_text() == (tmp_path / "broken" / "log.csv").read_text()


class Interrupted(Exception):
    pass


def noisy(seed: int = 0) -> nn.Module:
    """A network that draws random numbers itself."""
    torch.manual_seed(seed)
    return nn.Sequential(cifar_resnet(8, in_channels=1, widths=(4, 4, 8)), nn.Dropout(0.3), nn.Linear(10, 10))


SHORT = Recipe(epochs=3, batch_size=32, shift=1)


def small_data():
    return digits("train").subset(slice(0, 96))


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(6))
@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_dies_while_it_writes_ends_with_the_same_weights(
    tmp_path, monkeypatch, moment: int, before: bool
) -> None:
    """Each epoch replaces three files; the run dies just before or just after one of the first six."""
    whole = noisy()
    rows = train(whole, small_data(), SHORT, progress=False)
    replace, calls = os.replace, iter(range(100))

    def dying(*paths) -> None:
        dead = next(calls) == moment
        if not (dead and before):
            replace(*paths)
        if dead:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(Interrupted):
            train(noisy(), small_data(), SHORT, folder=tmp_path, progress=False)
    torch.rand(7)  # the global generator stands elsewhere
    kept = moment > 1 or (moment, before) == (1, False)
    again = noisy(seed=1 if kept else 0)
    assert train(again, small_data(), SHORT, folder=tmp_path, progress=False) == rows
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["epoch-0003.safetensors", "last.pt", "log.csv"]
    with (tmp_path / "log.csv").open() as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [row["loss"] for row in rows]


def test_a_finished_run_is_not_trained_again(tmp_path) -> None:
    model = noisy()
    rows = train(model, small_data(), SHORT, folder=tmp_path, progress=False)
    again, epochs = noisy(seed=1), []
    same = train(
        again, small_data(), SHORT, folder=tmp_path, progress=False, after_epoch=lambda epoch, _: epochs.append(epoch)
    )
    assert same == rows
    assert not epochs
    assert torch.equal(again[2].weight, model[2].weight)  # type: ignore[index]


def test_weights_of_every_epoch_load_as_models(tmp_path) -> None:
    model, seen = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0), []
    train(
        model,
        small_data(),
        SHORT,
        folder=tmp_path,
        keep="all",
        progress=False,
        after_epoch=lambda _, m: seen.append(m.conv1.weight.detach().clone()),
    )
    files = sorted(tmp_path.glob("epoch-*.safetensors"))
    loaded = [load_model(str(file)).conv1.weight for file in files[1:]]
    assert len(loaded) == len(seen) == 3
    assert torch.equal(
        load_model(str(files[0])).conv1.weight, cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0).conv1.weight
    )
    assert all(torch.equal(value, other) for value, other in zip(loaded, seen, strict=True))
    facts = read_checkpoint(files[-1])[1]
    assert facts["data"]["fingerprint"] == small_data().fingerprint
    assert facts["recipe"]["epochs"] == 3
    assert facts["classes"] == list("0123456789")
    with pytest.raises(ValueError, match="'last' or 'all'"):
        train(model, small_data(), SHORT, folder=tmp_path, keep="some", progress=False)  # type: ignore[arg-type]


def test_the_callers_random_numbers_go_on(tmp_path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    model = noisy()
    torch.manual_seed(3)
    train(model, small_data(), Recipe(epochs=1, shift=1), progress=False)
    assert torch.equal(torch.rand(4), expected)


def test_one_step_is_that_of_the_formula() -> None:
    """Nesterov: v = m v + (g + d w); w = w - rate (g + d w + m v), from v = g + d w."""
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double(), small_data()
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    recipe = Recipe(
        epochs=1,
        batch_size=96,
        learning_rate=0.3,
        weight_decay=0.01,
        warmup=0,
        label_smoothing=0.2,
        shift=0,
        flip=False,
    )
    logits = data.to(dtype=torch.float64).x.flatten(1) @ start["1.weight"].T + start["1.bias"]
    target = torch.full((96, 10), 0.02, dtype=torch.float64)
    target[torch.arange(96), data.labels] += 0.8
    slope = (logits.softmax(1) - target) / 96
    rows = train(model, data, recipe, progress=False)
    gradients = {"1.weight": slope.T @ data.to(dtype=torch.float64).x.flatten(1), "1.bias": slope.sum(0)}
    for name, value in model.named_parameters():
        moved = gradients[name] + 0.01 * start[name]
        assert torch.allclose(value, start[name] - 0.3 * 1.9 * moved, rtol=0, atol=1e-13)
    assert rows[0]["loss"] == pytest.approx(float(-(target * logits.log_softmax(1)).sum(1).mean()), rel=1e-12)
    assert rows[0]["train_error"] == pytest.approx(float((logits.argmax(1) != data.labels).double().mean()), rel=1e-12)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    wild = Recipe(epochs=30, learning_rate=1e30, warmup=0, shift=1)
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        train(model, small_data(), wild, folder=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs to be an integer of at least 1"),
        ({"epochs": 1.5}, "epochs to be an integer"),
        ({"batch_size": 0}, "batch_size to be an integer"),
        ({"learning_rate": float("nan")}, "learning_rate to be a number of at least 0"),
        ({"label_smoothing": 1.5}, "label_smoothing to be a number from 0 to 1"),
        ({"schedule": "linear"}, "'cosine' or 'step'"),
        ({"momentum": 0}, "nesterov=False"),
    ],
)
def test_wrong_recipes(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


@pytest.mark.slow
def test_training_learns() -> None:
    model, data = cifar_resnet(8, in_channels=1, widths=(8, 8, 16), seed=0), digits("train")
    before = error_rate(model, data)
    rows = train(model, data, Recipe(epochs=4, batch_size=64, shift=0, flip=False), progress=False, test=digits("test"))
    assert before > 0.7
    assert rows[-1]["test_error"] < 0.1
    assert not model.training


def test_another_run_is_refused(tmp_path) -> None:
    model, data = cifar_resnet(8, in_channels=1, widths=(4, 4, 8)), digits("train").subset(slice(0, 64))
    train(model, data, Recipe(epochs=1, shift=1), folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="got another recipe"):
        train(model, data, Recipe(epochs=2, shift=1), folder=tmp_path, progress=False)
    with pytest.raises(ValueError, match="got another data"):
        train(model, data.subset(slice(0, 32)), Recipe(epochs=1, shift=1), folder=tmp_path, progress=False)
    for other in (
        cifar_resnet(8, in_channels=1, widths=(4, 4, 8), residual=False),
        cifar_resnet(8, in_channels=1, widths=(4, 4, 8)).double(),
        cifar_resnet(8, in_channels=1, widths=(4, 4, 4)),
    ):
        with pytest.raises(ValueError, match="got another model"):
            train(other, data, Recipe(epochs=1, shift=1), folder=tmp_path, progress=False)


def test_a_run_resumes_whatever_its_layers_print(tmp_path, monkeypatch) -> None:
    """PyTorch 2.15 prints another text for the same batch norm than 2.11."""

    def model(share: float) -> nn.Sequential:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout(share))

    data, recipe = digits("train").subset(slice(0, 64)), Recipe(epochs=1, shift=1)
    rows = train(model(0.1), data, recipe, folder=tmp_path, progress=False)
    monkeypatch.setattr(nn.BatchNorm1d, "extra_repr", lambda self: "printed by another release")
    assert train(model(0.1), data, recipe, folder=tmp_path, progress=False) == rows
    with pytest.raises(ValueError, match="got another model"):
        train(model(0.2), data, recipe, folder=tmp_path, progress=False)


def test_schedules() -> None:
    cosine, step = Recipe(epochs=10, warmup=2), Recipe(epochs=8, warmup=0, schedule="step")
    assert cosine.rate(1) == pytest.approx(0.05)
    assert cosine.rate(2) == pytest.approx(0.1)
    assert cosine.rate(10) == pytest.approx(0)
    assert [round(step.rate(t), 6) for t in (0, 3.9, 4, 6)] == [0.1, 0.1, 0.01, 0.001]


def test_augmentation_moves_and_mirrors() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4).expand(200, 1, 4, 4)
    moved = augment(image, 1, False, torch.Generator().manual_seed(0))
    kinds = {tuple(value.flatten().tolist()) for value in moved}
    assert len(kinds) == 9
    assert tuple(image[0].flatten().tolist()) in kinds
    mirrored = augment(image, 0, True, torch.Generator().manual_seed(0))
    assert {tuple(value.flatten().tolist()) for value in mirrored} == {
        tuple(image[0].flatten().tolist()),
        tuple(image[0].flip(2).flatten().tolist()),
    }


def test_outside_the_image_is_black() -> None:
    image, fill = torch.full((50, 2, 3, 3), 5.0), torch.tensor([-1.0, -2.0])
    moved = augment(image, 1, False, torch.Generator().manual_seed(0), fill)
    assert moved.shape == image.shape
    assert set(moved[:, 0].flatten().tolist()) == {5.0, -1.0}
    assert set(moved[:, 1].flatten().tolist()) == {5.0, -2.0}
    assert torch.equal(augment(image, 0, False, torch.Generator()), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_images_are_stored_as_images_are(channels: int) -> None:
    """Row by row: channels last, a narrow network's training would write past oneDNN's buffer."""
    images = torch.rand(6, channels, 5, 4)
    moved = augment(images, 2, True, torch.Generator().manual_seed(0))
    assert moved.stride() == images.stride()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu_draws_as_on_the_cpu() -> None:
    one, other = cifar_resnet(8, in_channels=1, seed=0), cifar_resnet(8, in_channels=1, seed=0).cuda()
    rows = [train(model, small_data(), SHORT, progress=False) for model in (one, other)]
    assert rows[0][0]["loss"] == pytest.approx(rows[1][0]["loss"], rel=1e-2)


def test_error_rate_puts_train_flags_back() -> None:
    model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8)).train()
    model.layer1.eval()
    error_rate(model, digits("test").subset(slice(0, 20)))
    assert model.training
    assert not model.layer1.training


def test_error_rate_of_models_whose_output_is_a_record() -> None:
    class Record(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"images": x, "logits": self.net(x)}

    model, data = Record(), digits("test").subset(slice(0, 40))
    assert error_rate(model, data) == error_rate(model.net, data)


def test_weights_that_are_not_finite_end_the_run_though_every_loss_was(tmp_path) -> None:
    """The last step is the one that no later loss shows."""
    data = dataclasses.replace(small_data().subset(slice(0, 64)), std=(1e-3,))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    wild = Recipe(epochs=1, batch_size=64, shift=0, learning_rate=3e38, warmup=0)
    with pytest.raises(FloatingPointError, match=r"finite weights after epoch 0, .* ones in 1\.weight"):
        train(model, data, wild, folder=tmp_path, progress=False)
    assert not list(tmp_path.glob("*.safetensors"))


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_state_of_a_run_that_cannot_be_used_is_reported_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(epochs=1, batch_size=64, shift=0)

    def go_on() -> None:
        model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
        train(model, small_data(), recipe, folder="run", progress=False)

    go_on()
    last = tmp_path / "run" / "last.pt"
    whole = last.read_bytes()
    saved = torch.load(last, weights_only=True)
    damages = {
        "cut": lambda: last.write_bytes(whole[: len(whole) // 2]),
        "empty": lambda: last.write_bytes(b""),
        "text": lambda: last.write_text("not this"),
        "a list": lambda: torch.save([1, 2], last),
        "an entry missing": lambda: torch.save({k: v for k, v in saved.items() if k != "optimiser"}, last),
        "an entry of another kind": lambda: torch.save({**saved, "optimiser": 1}, last),
        "weights gone": lambda: torch.save({**saved, "weights": "epoch-0009.safetensors"}, last),
        "code": lambda: torch.save({**saved, "rows": Harmful()}, last),
    }
    for damage in damages.values():
        damage()
        before = last.read_bytes()
        with pytest.raises(
            ValueError, match=r"expected the state of a run in .*last\.pt.*move its folder away"
        ) as caught:
            go_on()
        assert len(str(caught.value).splitlines()) == 1
        assert "weights_only=False" not in str(caught.value)
        assert last.read_bytes() == before
    assert not (tmp_path / "executed").exists()
