"""The origin of a record's numbers: model, data, dtype, seed and versions.

Not `sweep.fingerprint`, which also follows code and arbitrary objects: this identifies the model and the data by their
content alone, so that records stay comparable when the library's code changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import resnet_paths

from .graph.model_fingerprint import fingerprint as model_fingerprint
from .graph.model_fingerprint import tensor_bytes
from .nouns import plural


@dataclass(frozen=True)
class Provenance:
    """Everything needed to recompute a record.

    Attributes:
        model: SHA-256 of the model's classes, structure, train flags, parameters and buffers.
        data: SHA-256 of the inputs and targets.
        dtype: dtype of the computation.
        seed: seed of the random numbers, if any were drawn.
        torch: PyTorch version.
        version: version of this package.
        name: name of the data; empty if it has none.
        noun: what one example of the data is called.
    """

    model: str
    data: str
    dtype: str
    seed: int | None
    torch: str
    version: str
    name: str = ""
    noun: str = "example"

    @property
    def nouns(self) -> str:
        """The plural of :attr:`noun`."""
        return plural(self.noun)


def provenance(model: nn.Module, data: Any, dtype: torch.dtype | None = None, seed: int | None = None) -> Provenance:
    """The provenance of a computation on a model with some data.

    Args:
        model: the model.
        data: inputs and targets, or a data set with a `fingerprint` and a `name`.
        dtype: dtype of the computation (default: that of the model's first parameter).
        seed: seed of the random numbers.
    """
    if dtype is None:
        dtype = next((value.dtype for value in model.parameters()), torch.get_default_dtype())
    version = getattr(resnet_paths, "__version__", "unknown")
    return Provenance(
        model=model_fingerprint(model),
        data=getattr(data, "fingerprint", None) or fingerprint(data),
        dtype=str(dtype).removeprefix("torch."),
        seed=seed,
        torch=str(torch.__version__),
        version=version,
        name=getattr(data, "name", ""),
        noun=getattr(data, "noun", "example"),
    )


def fingerprint(value: Any) -> str:
    """SHA-256 of nested dicts, sequences, tensors, arrays and plain values.

    Example:
        >>> fingerprint([torch.zeros(2)]) == fingerprint([torch.zeros(2)])
        True
        >>> fingerprint([torch.zeros(2)]) == fingerprint([torch.zeros(1, 2)])
        False
    """
    digest = hashlib.sha256()
    _update(digest, value)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(tensor_bytes(value))
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest.update(f"{value.dtype.str}{value.shape}".encode())
        digest.update(value.tobytes())
    elif isinstance(value, np.ndarray):
        _update(digest, value.tolist())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            digest.update(f"{key!r}:".encode())
            _update(digest, item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        digest.update(f"{type(value).__name__}{len(value)}".encode())
        for item in value:
            _update(digest, item)
    else:
        digest.update(repr(value).encode())
