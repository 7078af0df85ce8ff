"""A model as it will be deployed: eager, compiled, exported, in ONNX Runtime or in OpenVINO.

Latency in eager PyTorch says little about the other runtimes, which fuse a block's operations and so change what a
block costs. A plan for a deployment therefore measures in the runtime of that deployment, behind one function.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..arguments.ranges import COUNT
from ..choices import Runtime
from ..data import InMemory
from ..graph.inputs import call_model, examples_in, is_batched
from ..graph.locking import MODEL_LOCK
from ..graph.private_copy import private_copy
from ..graph.trees import leaves, map_leaves
from ..imports import first_import, load_compiler
from ..surgery.export import ONNX, ONNX_RUNTIME, check_onnx, exported_program, onnx_program


@checked(batch=COUNT, rounds=COUNT)
@dataclass(frozen=True)
class Clock:
    """How latency is measured: on which input and in which runtime, always on the model's device.

    Attributes:
        batch: number of examples in the input.
        threads: number of CPU threads (None: torch's setting).
        runtime: ``eager``; ``compile``, by torch.compile; ``export``, the program that export_model writes;
            ``onnx``, the ONNX file that it writes, in ONNX Runtime on the CPU; ``openvino``, the same in OpenVINO.
        seconds: minimum time to time each model for; a timing that decides something takes four times as long.
        rounds: number of rounds of timings; every model has a turn in each round.
    """

    batch: int = 32
    threads: int | None = None
    runtime: Runtime = "eager"
    seconds: float = 0.5
    rounds: int = 15

    def input(self, data: InMemory) -> Any:
        """The first `batch` examples, repeated if there are fewer, as the model reads them."""
        order = torch.arange(self.batch, device="cpu") % len(data)
        return data.subset(order).x


@checked
def in_runtime(
    model: nn.Module, x: Any, runtime: Runtime, threads: int | None = None, *, batch: int | None = None
) -> nn.Module | Callable[..., Any]:
    """The model as a function of an input, run by the given runtime and called like the model.

    Args:
        model: in eval mode; left unchanged.
        x: an input: a tensor, a tuple of positional or a dict of keyword arguments.
        runtime: see :class:`Clock`.
        threads: number of threads for ONNX Runtime and OpenVINO, which fix it when they load a model.
        batch: number of examples in the input, see :func:`~resnet_paths.surgery.export_model`.

    Raises:
        ValueError: the runtime is not installed, does not support the model's device, or cannot compile the model.

    Example:
        >>> x = torch.randn(4, 2)
        >>> layer = nn.Linear(2, 3).eval()
        >>> torch.allclose(in_runtime(layer, x, "export")(x), layer(x))
        True
    """
    check_runtime(runtime)
    if runtime == "eager":
        return model
    count = examples_in(x) if batch is None else batch
    model = private_copy(model)  # exporting writes to the modules that it traces
    if runtime == "compile":
        return _compiled(model, x)
    example, count = (x, count) if count > 1 else (_twice(x), 2)  # a batch size of one would look like a constant
    if runtime == "export":
        return exported_program(model, example, batch=count).module()
    device = next(leaf.device for leaf in leaves(x) if isinstance(leaf, torch.Tensor))
    if device.type != "cpu":
        raise ValueError(
            f"expected a model on the CPU for runtime={runtime!r}, got one on {device}; move it to the CPU"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = onnx_program(model, example, batch=count).model_proto.SerializeToString()
    return openvino_session(content, threads) if runtime == "openvino" else onnx_session(content, threads)


def _twice(x: Any) -> Any:
    """A batch of one, repeated."""
    return map_leaves(x, lambda leaf: torch.cat([leaf, leaf]) if is_batched(leaf, 1) else leaf)


def _compiled(model: nn.Module, x: Any) -> Callable[..., Any]:
    """The compiled model. Torch compiles at the first call, which is made here so that errors become one line."""
    load_compiler()
    compiled: Callable[..., Any] = torch.compile(model)
    try:
        with MODEL_LOCK, torch.inference_mode():
            call_model(compiled, x)
    except RuntimeError as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"expected a model that torch.compile can compile on this machine, got: {why}; install a C++ compiler "
            "if none is installed, or choose another runtime"
        ) from error
    return compiled


def check_runtime(runtime: Runtime) -> None:
    """Check, before any work, that a runtime is installed.

    Raises:
        ValueError: it is not; the message names what is missing.
    """
    if runtime == "onnx":
        check_onnx([*ONNX, *ONNX_RUNTIME])
    if runtime == "openvino":
        check_onnx([*ONNX, "openvino"], "openvino")


def onnx_session(content: bytes | Path, threads: int | None = None) -> Callable[..., Any]:
    """ONNX Runtime on the CPU, as a function that is called like the model.

    Args:
        content: the content of a file, or its path.
        threads: number of CPU threads (None: torch's setting).

    Raises:
        ValueError: onnxruntime is not installed, or has no implementation of an operation.
    """
    check_onnx(ONNX_RUNTIME)
    with first_import("onnxruntime"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or torch.get_num_threads()
    with _refusals("ONNX Runtime"):
        session = onnxruntime.InferenceSession(
            content if isinstance(content, bytes) else str(content), options, providers=["CPUExecutionProvider"]
        )
    names = [one.name for one in session.get_inputs()]
    return lambda *args, **named: session.run(None, _fed(names, args, named))


def openvino_session(content: bytes | Path, threads: int | None = None) -> Callable[..., Any]:
    """OpenVINO on the CPU, in single precision, as a function that is called like the model.

    By default OpenVINO uses half precision on processors that support it, and its answers would differ from those
    measured.

    Args:
        content: the content of an ONNX file, or its path.
        threads: number of CPU threads (None: torch's setting).

    Raises:
        ValueError: openvino is not installed, or has no implementation of an operation.
    """
    check_onnx(["openvino"], "openvino")
    with first_import("openvino"):
        import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    with _refusals("OpenVINO"):
        network = core.compile_model(core.read_model(content), "CPU", settings)
    names = [one.any_name for one in network.inputs]
    return lambda *args, **named: list(network(_fed(names, args, named)).to_tuple())


@contextmanager
def _refusals(runtime: str) -> Iterator[None]:
    """Whatever a runtime raises for a program that it cannot load, in one line."""
    try:
        yield
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"expected a program that {runtime} can load, got: {said}; choose another runtime") from error


def _fed(names: Sequence[str], args: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a call by the names of a program's inputs, in order unless the call itself names them.

    Raises:
        ValueError: there are more or fewer tensors than inputs.
    """
    if not args and set(named) == set(names):
        return {name: named[name].numpy() for name in names}
    tensors = [leaf for leaf in leaves([args, dict(named)]) if isinstance(leaf, torch.Tensor)]
    if len(tensors) != len(names):
        raise ValueError(f"expected {len(names)} tensors ({', '.join(names)}), got {len(tensors)}")
    return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
