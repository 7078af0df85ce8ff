"""Helpers of several tests: randomised norms, so that exactness is not vacuous; scripts under MPI."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from resnet_paths.provenance import Provenance


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


def source(model: str = "model", data: str = "data") -> Provenance:
    """The provenance of a record made by hand."""
    return Provenance(model, data, "float64", 0, "", "", "made")


def run_by_mpi(script: Path) -> str:
    """The output of a script that an MPI launcher runs in its folder, with a master and two workers."""
    pytest.importorskip("mpi4py")
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        pytest.skip("no mpiexec: install an MPI, such as `pip install mpich`")
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    seldom = {
        "MPI4PY_FUTURES_BACKOFF": "0.05"
    }  # waiting processes poll a thousand times a second, as expensive as the imports
    env = {**os.environ, **allowed, **seldom, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [launcher, "-n", "3", sys.executable, "-m", "mpi4py.futures", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=script.parent, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout
