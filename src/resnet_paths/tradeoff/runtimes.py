"""A model as it will be deployed: eager, compiled, exported, in ONNX Runtime or in OpenVINO.

Latency in eager PyTorch says little about the other runtimes, which fuse a block's operations and so change what a
block costs. A plan for a deployment therefore measures in the runtime of that deployment, behind one function.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..arguments import checked
from ..arguments.ranges import COUNT
from ..choices import Runtime
from ..data import InMemory
from ..graph.private_copy import private_copy
from ..imports import first_import, load_compiler
from ..surgery.export import ONNX, ONNX_RUNTIME, check_onnx, exported_program, onnx_program


@checked(batch=COUNT, rounds=COUNT)
@dataclass(frozen=True)
class Clock:
    """How latency is measured: on which input and in which runtime, always on the model's device.

    Attributes:
        batch: number of images in the input.
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
    model: nn.Module, x: Any, runtime: Runtime, threads: int | None = None
) -> nn.Module | Callable[[Any], Any]:
    """The model as a function of an input, run by the given runtime.

    Args:
        model: in eval mode; left unchanged.
        x: an input.
        runtime: see :class:`Clock`.
        threads: number of threads for ONNX Runtime and OpenVINO, which fix it when they load a model.

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
    if not isinstance(x, torch.Tensor):
        raise ValueError(f"expected an input of one tensor for runtime={runtime!r}, got {type(x).__name__}; use eager")
    model = private_copy(model)  # exporting writes to the modules that it traces
    if runtime == "compile":
        return _compiled(model, x)
    example = x if len(x) > 1 else torch.cat([x, x])  # a batch size of one would look like a constant
    if runtime == "export":
        return exported_program(model, example).module()
    if example.device.type != "cpu":
        raise ValueError(
            f"expected a model on the CPU for runtime={runtime!r}, got one on {example.device}; move it to the CPU"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = onnx_program(model, example).model_proto.SerializeToString()
    return openvino_session(content, threads) if runtime == "openvino" else onnx_session(content, threads)


def _compiled(model: nn.Module, x: torch.Tensor) -> Callable[[Any], Any]:
    """The compiled model. Torch compiles at the first call, which is made here so that errors become one line."""
    load_compiler()
    compiled: Callable[[Any], Any] = torch.compile(model)
    try:
        with torch.inference_mode():
            compiled(x)
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


def onnx_session(content: bytes | Path, threads: int | None = None) -> Callable[[Any], Any]:
    """ONNX Runtime on the CPU, as a function of a batch of images.

    Args:
        content: the content of a file, or its path.
        threads: number of CPU threads (None: torch's setting).

    Raises:
        ValueError: onnxruntime is not installed.
    """
    check_onnx(ONNX_RUNTIME)
    with first_import("onnxruntime"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        content if isinstance(content, bytes) else str(content), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x.numpy()})


def openvino_session(content: bytes | Path, threads: int | None = None) -> Callable[[Any], Any]:
    """OpenVINO on the CPU, in single precision, as a function of a batch of images.

    By default OpenVINO uses half precision on processors that support it, and its answers would differ from those
    measured.

    Args:
        content: the content of an ONNX file, or its path.
        threads: number of CPU threads (None: torch's setting).

    Raises:
        ValueError: openvino is not installed.
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
    network = core.compile_model(core.read_model(content), "CPU", settings)
    return lambda x: list(network(x.numpy()).to_tuple())
