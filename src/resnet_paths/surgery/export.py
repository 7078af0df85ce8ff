"""Write a smaller model to files that other programs can run."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ..arguments import checked
from ..files import made_folder, whole_file
from ..imports import environment_kept, load_compiler


@checked
def export_model(
    model: nn.Module, example_input: torch.Tensor, folder: str | Path, *, onnx: bool = True
) -> dict[str, Path]:
    """Write a model as ``model.pt2`` (torch.export), ``model.safetensors`` (weights) and ``model.onnx``.

    The program in ``model.pt2`` loads with ``torch.export.load`` without any of the model's code. Programs take any
    batch size up to 65,535.

    Args:
        model: a model in eval mode that takes one tensor.
        example_input: an input with at least two examples.
        folder: where to write.
        onnx: whether to write the ONNX file too.

    Returns:
        The files, by kind.

    Raises:
        ValueError: there is only one example, whose batch size looks like a constant; or onnxscript is not installed.

    Example:
        >>> import tempfile
        >>> layer = nn.Linear(2, 3).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = export_model(layer, torch.randn(2, 2), folder, onnx=False)
        ...     program = torch.export.load(files["pt2"])
        >>> program.module()(torch.randn(5, 2)).shape
        torch.Size([5, 3])
    """
    if len(example_input) < 2:
        raise ValueError(f"expected an input with at least 2 examples, got {len(example_input)}")
    if onnx:
        check_onnx()
    target = made_folder(folder)
    files = {"safetensors": target / "model.safetensors", "pt2": target / "model.pt2"}
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with whole_file(files["safetensors"]) as partial:
        save_file(state, partial)
    with whole_file(files["pt2"]) as partial:
        torch.export.save(exported_program(model, example_input), partial)
    if onnx:
        files["onnx"] = target / "model.onnx"
        with whole_file(files["onnx"]) as partial:
            onnx_program(model, example_input).save(str(partial), external_data=False)
    return files


@checked
def exported_program(model: nn.Module, example_input: torch.Tensor) -> torch.export.ExportedProgram:
    """The model as a program of torch.export, for batches of up to 65,535 examples.

    Example:
        >>> program = exported_program(nn.Linear(2, 3).eval(), torch.randn(2, 2))
        >>> program.module()(torch.randn(4, 2)).shape
        torch.Size([4, 3])
    """
    load_compiler()
    with torch.no_grad(), environment_kept():  # torch sets TORCHINDUCTOR_CACHE_DIR
        return torch.export.export(model, (example_input,), dynamic_shapes=_any_batch(), strict=False)


@checked
def onnx_program(model: nn.Module, example_input: torch.Tensor) -> Any:
    """The model as an ``ONNXProgram``, for batches of up to 65,535 examples.

    Raises:
        ValueError: onnxscript is not installed.
        RuntimeError: PyTorch returned no program.
    """
    check_onnx()
    load_compiler()
    shapes = _any_batch()
    with torch.no_grad(), environment_kept():  # torch sets TORCHINDUCTOR_CACHE_DIR
        program = torch.onnx.export(model, (example_input,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return program


MOST_IN_BATCH = 65535
"""The largest batch of an exported program: CUDA kernels allow no more, and torch.export on CUDA fails beyond it."""


def _any_batch() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch", max=MOST_IN_BATCH)},)


ONNX = ("onnxscript",)
"""Packages needed to write an ONNX file."""
ONNX_RUNTIME = ("onnxruntime",)
"""Packages needed to run one."""


def missing(packages: Iterable[str]) -> list[str]:
    """The packages that are not installed."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def check_onnx(packages: Iterable[str] = ONNX, extra: str = "onnx") -> None:
    """Check, before any work, that the needed packages are installed.

    Args:
        packages: the packages.
        extra: the extra of this library that installs them.

    Raises:
        ValueError: some are not installed; the message names them.
    """
    if absent := missing(packages):
        raise ValueError(
            f"expected {' and '.join(absent)} to be installed; run: pip install 'resnet-paths[{extra}]', or leave out "
            f"{'OpenVINO' if extra == 'openvino' else 'ONNX'}"
        )
