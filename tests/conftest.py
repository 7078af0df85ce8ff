"""Shared fixtures: one thread a worker, randomised norms, the reference data where present."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

REFERENCE = Path(
    os.environ.get("RESNET_PATHS_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def randomise_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every norm random scale, shift and statistics, so that exactness is not vacuous."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: torch.Tensor, low: float, high: float) -> None:
        values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low
        tensor.data.copy_(values)

    for module in model.modules():
        if isinstance(getattr(module, "running_var", None), torch.Tensor):
            draw(module.running_mean, -0.3, 0.3)
            draw(module.running_var, 0.5, 1.5)
        if "norm" in type(module).__name__.lower():
            for name, parameter in module.named_parameters(recurse=False):
                draw(parameter, 0.5, 1.5) if name == "weight" else draw(parameter, -0.3, 0.3)
    return model


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Folder with the reference CIFAR-10 sample and checkpoints; skips where absent."""
    if not (REFERENCE / "cifar10_sample.npz").exists():
        pytest.skip(f"reference data not found at {REFERENCE}; set RESNET_PATHS_REFERENCE to its folder")
    return REFERENCE
