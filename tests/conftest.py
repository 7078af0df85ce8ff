"""Shared fixtures: one thread a worker, randomised norms, the reference data where present."""

import os
from pathlib import Path

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

REFERENCE = Path(os.environ.get("RESNET_PATHS_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Folder with the reference CIFAR-10 sample and checkpoints; skips where absent."""
    if not (REFERENCE / "cifar10_sample.npz").exists():
        pytest.skip(f"reference data not found at {REFERENCE}; set RESNET_PATHS_REFERENCE to its folder")
    return REFERENCE
