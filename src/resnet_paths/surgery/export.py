"""Write a smaller model to files that other programs can run.

An exported program stores the structure of its inputs and outputs, and loads only where every class in it is known. So
outputs in a library's own classes, such as Hugging Face's, become plain dicts, and values other than tensors are left
out.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ..arguments import checked
from ..files import made_folder, whole_file
from ..graph.inputs import arguments_by_name, call_model, examples_in, is_batched, main_output
from ..graph.locking import MODEL_LOCK
from ..graph.preserve import preserved
from ..graph.trees import leaves
from ..imports import environment_kept, load_compiler


@checked
def export_model(
    model: nn.Module, example_input: Any, folder: str | Path, *, onnx: bool = True, batch: int | None = None
) -> dict[str, Path]:
    """Write a model as ``model.pt2`` (torch.export), ``model.safetensors`` (weights) and ``model.onnx``.

    The program in ``model.pt2`` loads with ``torch.export.load`` without any of the model's code, and is called like
    the model. Programs take any batch size up to 65,535.

    Args:
        model: a model in eval mode.
        example_input: an input with at least two examples: a tensor, a tuple of positional or a dict of keyword
            arguments.
        folder: where to write.
        onnx: whether to write the ONNX file too.
        batch: number of examples in the input (default: the length of its first tensor); tensors of another length are
            the same for all examples.

    Returns:
        The files, by kind.

    Raises:
        ValueError: there is only one example, whose batch size looks like a constant; onnxscript is not installed; or
            the model cannot be exported.

    Example:
        >>> import tempfile
        >>> layer = nn.Linear(2, 3).eval()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = export_model(layer, torch.randn(2, 2), folder, onnx=False)
        ...     program = torch.export.load(files["pt2"])
        >>> program.module()(torch.randn(5, 2)).shape
        torch.Size([5, 3])
    """
    if onnx:
        check_onnx()
    program = exported_program(model, example_input, batch=batch)
    target = made_folder(folder)
    files = {"safetensors": target / "model.safetensors"}
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with whole_file(files["safetensors"]) as partial:
        save_file(state, partial)
    files["pt2"] = write_program(program, target / "model.pt2")
    if onnx:
        files["onnx"] = write_onnx(onnx_program(program), target / "model.onnx")
    return files


def write_program(program: torch.export.ExportedProgram, path: Path) -> Path:
    """Write a program completely or not at all."""
    with whole_file(path) as partial:
        torch.export.save(program, partial)
    return path


def write_onnx(program: Any, path: Path) -> Path:
    """Write an ``ONNXProgram`` completely or not at all."""
    with whole_file(path) as partial:
        program.save(str(partial), external_data=False)
    return path


@checked
def exported_program(model: nn.Module, example_input: Any, *, batch: int | None = None) -> torch.export.ExportedProgram:
    """The model as a program of torch.export, for batches of up to 65,535 examples.

    Args:
        model: a model in eval mode.
        example_input: see :func:`export_model`.
        batch: see :func:`export_model`.

    Raises:
        ValueError: there is only one example, or torch.export cannot follow the model.

    Example:
        >>> program = exported_program(nn.Linear(2, 3).eval(), torch.randn(2, 2))
        >>> program.module()(torch.randn(4, 2)).shape
        torch.Size([4, 3])
    """
    count = examples_in(example_input) if batch is None else batch
    if count < 2:
        raise ValueError(f"expected an input with at least 2 examples, got {count}")
    load_compiler()
    named = dict(example_input) if isinstance(example_input, Mapping) else {}
    args = () if named else example_input if isinstance(example_input, tuple) else (example_input,)
    shapes = torch.export.ShapesCollection()
    any_batch = torch.export.Dim("batch", max=MOST_IN_BATCH)
    batched = [leaf for leaf in leaves([list(args), named]) if is_batched(leaf, count)]
    if not batched:
        raise ValueError(f"expected a tensor of {count} examples in the input, got none of this length; pass batch=")
    for leaf in batched:
        shapes[leaf] = {0: any_batch}
    with MODEL_LOCK, torch.no_grad(), environment_kept():  # torch sets TORCHINDUCTOR_CACHE_DIR
        plain = _with_plain_outputs(model, example_input)
        try:
            return torch.export.export(plain, args, named, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # whatever the model's code raises when it is followed
            raise ValueError(f"expected a model that torch.export can follow, got: {_why(error)}") from error


def _why(error: Exception) -> str:
    """The first line of what torch says, which may be pages."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said[:200]}"


@checked
def onnx_program(
    model: nn.Module | torch.export.ExportedProgram, example_input: Any = None, *, batch: int | None = None
) -> Any:
    """The model as an ``ONNXProgram``, for batches of up to 65,535 examples.

    Args:
        model: a model in eval mode, or its program.
        example_input: see :func:`export_model`; not needed for a program.
        batch: see :func:`export_model`.

    Raises:
        ValueError: onnxscript is not installed, or an operation has no counterpart in ONNX.
    """
    check_onnx()
    program = exported_program(model, example_input, batch=batch) if isinstance(model, nn.Module) else model
    load_compiler()
    try:
        with MODEL_LOCK, torch.no_grad(), environment_kept():  # torch sets TORCHINDUCTOR_CACHE_DIR
            converted = torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception as error:
        first = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise ValueError(f"expected a model that can be written as ONNX, got: {_why(first)}") from error
    if converted is None:
        raise ValueError("expected a model that can be written as ONNX, got no program from torch.onnx.export")
    return converted


MOST_IN_BATCH = 65535
"""The largest batch of an exported program: CUDA kernels allow no more, and torch.export on CUDA fails beyond it."""


def left_out_of_outputs(output: Any) -> list[str]:
    """What a program leaves out of a model's output, because it is neither a tensor nor a container of them.

    Example:
        >>> left_out_of_outputs({"logits": torch.zeros(2), "cache": object()})
        ['cache (object)']
    """
    return [f"{name} ({kind})" for name, kind in _foreign(output, "")]


def _foreign(output: Any, name: str) -> Iterator[tuple[str, str]]:
    parts = _parts(output)
    if parts is None:
        if not isinstance(output, _PLAIN):
            yield name or "the output", type(output).__name__
        return
    for key, value in parts:
        yield from _foreign(value, f"{name}.{key}" if name else str(key))


_PLAIN = (torch.Tensor, int, float, bool, str, type(None))


def _parts(output: Any) -> list[tuple[Any, Any]] | None:
    """The parts of a container of outputs by key; None if it is none."""
    if isinstance(output, Mapping):
        return list(output.items())
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    return list(enumerate(output)) if isinstance(output, tuple | list) else None


def _plainly(output: Any) -> Any:
    """An output in dicts, lists and tuples; of anything else there is None, and in dicts nothing."""
    parts = _parts(output)
    if parts is None:
        return output if isinstance(output, _PLAIN) else None
    if isinstance(output, tuple | list):
        values = [_plainly(value) for _, value in parts]
        return tuple(values) if isinstance(output, tuple) else values
    plain = {key: _plainly(value) for key, value in parts}
    return {key: value for key, value in plain.items() if value is not None}


def _is_plain(output: Any) -> bool:
    if type(output) not in (dict, list, tuple):
        return isinstance(output, _PLAIN)
    return all(map(_is_plain, output.values() if isinstance(output, dict) else output))


class _PlainOutputs(nn.Module):
    """A model whose outputs are plain containers of tensors, with a signature of only the arguments that are given."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.model = model

        def forward(*args: Any, **named: Any) -> Any:
            output = model(*args, **named)
            plain = _plainly(output)
            return main_output(output) if plain is None else plain

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.__dict__["forward"] = forward


def _with_plain_outputs(model: nn.Module, x: Any) -> nn.Module:
    """The model itself, if its outputs are plain; otherwise, one that returns plain ones."""
    with preserved(model):
        output = call_model(model, x)
    return model if _is_plain(output) else _PlainOutputs(model, arguments_by_name(model, x)[2])


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
