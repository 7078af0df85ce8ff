"""The Lightning callback: the same training, and the numbers in the trainer's loggers."""

import doctest
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resnet_paths import cifar_resnet, load_data

pytestmark = [pytest.mark.slow, pytest.mark.integration]

DATA = load_data("digits", "train", limit=32)


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """Imported here and not above: that takes longer than most tests, and every worker reads this file."""
    pytest.importorskip("lightning.pytorch")


def recorder(*args: Any, **options: Any) -> Any:
    from resnet_paths.callbacks import LightningPathRecorder

    return LightningPathRecorder(*args, **options)


def test_the_example_in_its_docstring() -> None:
    """Not collected with the others: see pyproject.toml."""
    ran = doctest.testmod(importlib.import_module("resnet_paths.callbacks.lightning"))
    assert ran.attempted
    assert not ran.failed


def fitted(folder: Path, callbacks: list, **options) -> tuple[nn.Module, Any]:
    import lightning.pytorch as pl

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = cifar_resnet(8, in_channels=1, widths=(4, 4, 8), seed=0)
            self.drop = nn.Dropout(0.2)

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.drop(self.model(batch[0])), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    torch.manual_seed(0)
    module = Classifier()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(DATA.x, DATA.labels), 8, shuffle=True)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=options.pop("logger", None) or pl.loggers.CSVLogger(folder),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )
    trainer.fit(module, loader)
    return module, trainer


def test_training_is_the_same_and_the_loggers_hold_the_curves(tmp_path: Path) -> None:
    plain, _ = fitted(tmp_path / "plain", [])
    callback = recorder(DATA.x[:4], DATA.labels[:4], network="model", every=2, draws=2)
    watched, trainer = fitted(tmp_path / "watched", [callback])
    for (name, one), other in zip(plain.state_dict().items(), watched.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert [found.step for found in callback.history] == [2, 4]

    import pandas as pd

    table = pd.read_csv(Path(trainer.logger.log_dir) / "metrics.csv").dropna(subset=["paths/mean_length"])
    assert table["step"].tolist() == [2, 4]
    assert table["paths/mean_length"].tolist() == pytest.approx([found.mean_length for found in callback.history])


def test_accumulated_gradients_are_recorded_once_a_step(tmp_path: Path) -> None:
    callback = recorder(DATA.x[:2], DATA.labels[:2], network="model", every=1, draws=0)
    fitted(tmp_path, [callback], accumulate_grad_batches=2)
    assert [found.step for found in callback.history] == [1, 2]


def test_a_wrong_name_is_answered_by_the_right_ones(tmp_path: Path) -> None:
    callback = recorder(DATA.x[:2], DATA.labels[:2], network="backbone")
    with pytest.raises(ValueError, match=r"\(model, drop\), got 'backbone'"):
        fitted(tmp_path, [callback])


def test_figures_go_to_tensorboard_and_change_no_bit(tmp_path: Path) -> None:
    import lightning.pytorch as pl
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain, _ = fitted(tmp_path / "plain", [])
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="board", version="")
    callback = recorder(DATA.x[:4], DATA.labels[:4], network="model", every=2, draws=0, figures=True)
    watched, _ = fitted(tmp_path / "watched", [callback], logger=logger)
    assert all(torch.equal(one, two) for one, two in zip(plain.parameters(), watched.parameters(), strict=True))
    found = EventAccumulator(str(tmp_path / "board"), size_guidance={"images": 0}).Reload()
    assert [image.step for image in found.Images("paths/gradient_by_length/figure")] == [2, 4]
    assert [event.step for event in found.Scalars("paths/mean_length")] == [2, 4]
