"""Where numbers came from: versions, fingerprints, seed and command.

Not ``resnet_paths.provenance``, which names the model and the data of an analysis: a sweep knows only a function and a
context, whatever these are, and its fingerprints follow code as well.
"""

from __future__ import annotations

import platform
import shlex
import sys
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import torch


@dataclass(frozen=True)
class SweepProvenance:
    """Everything needed to repeat a sweep, and to tell whether two sweeps are the same.

    Attributes:
        function: the function's module and name.
        fingerprint: SHA-256 of everything that determines the values except the points: code, context, seed and
            settings.
        code: SHA-256 of the function's code, or the `version` given instead.
        context: SHA-256 of the context (weights, data).
        seed: seed of the sweep.
        dtype: torch's default dtype.
        python: Python version.
        torch: PyTorch version.
        numpy: NumPy version.
        package: version of this package.
        platform: system and processor.
        command: the command line.
    """

    function: str
    fingerprint: str
    code: str
    context: str
    seed: int
    dtype: str
    python: str
    torch: str
    numpy: str
    package: str
    platform: str
    command: str


def describe(function: str, fingerprint: str, code: str, context: str, seed: int) -> SweepProvenance:
    """The provenance of a sweep in this process."""
    try:
        package = metadata.version("resnet-paths")
    except metadata.PackageNotFoundError:
        package = "not installed"
    return SweepProvenance(
        function=function,
        fingerprint=fingerprint,
        code=code,
        context=context,
        seed=seed,
        dtype=str(torch.get_default_dtype()).removeprefix("torch."),
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=np.__version__,
        package=package,
        platform=f"{platform.system()} {platform.machine()}",
        command=shlex.join(sys.argv),
    )
