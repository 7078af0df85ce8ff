"""What an error from inside a model means: it does not take these inputs, or its parameters have no values.

PyTorch's own errors name sizes inside the model, which say little about the data that the user passed. After such an
error, and only then, the model is run on two of the examples, to see whether it takes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from ..arguments.checking import EXPLAIN
from ..graph.errors import NoBlocksError
from ..graph.inputs import call_model, examples_in, first, placed
from ..graph.preserve import preserved
from ..graph.trees import leaves
from ..sweep import SweepError
from .adapter import as_batches
from .in_memory import InMemory

_DATA = ("data", "images", "x", "example_input", "batches", "inputs")
_WITH_TARGETS = ("data", "images", "batches")  # of these, a pair holds inputs and targets
_NO_MODELS = ("loss", "metric")  # they may be modules, but take outputs and targets
_LIBRARY = __name__.partition(".")[0]


def explain(error: Exception, given: Mapping[str, Any]) -> None:
    """Raise an error that a user can act on, if a model in the arguments does not take the data in them.

    Args:
        error: what a public function raised.
        given: its arguments by name.

    Raises:
        ValueError: the model is on the meta device, or fails on the data.
    """
    if _says_enough(error):
        return
    argument = next((name for name in _DATA if given.get(name) is not None), "")
    source = given.get(argument)
    for name, model in _models([value for name, value in given.items() if name not in _NO_MODELS]):
        if any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers())):
            raise _kind(error)(
                f"expected a {type(model).__name__} with values, got one on the meta device, which holds only shapes; "
                "load its weights first: model.to_empty(device='cpu'), then model.load_state_dict(...)"
            ) from error
        if any(isinstance(value, UninitializedParameter) for value in model.parameters()):
            raise ValueError(
                f"expected a {type(model).__name__} whose parameters have their shapes, got lazy ones; run the model "
                "once on an example first"
            ) from error
        if isinstance(error, RuntimeError) and any(value.is_inference() for value in model.parameters()):
            raise ValueError(
                f"expected a {type(model).__name__} that gradients can pass through, got one made within "
                "torch.inference_mode(); make or load it outside"
            ) from error
        of_model = source.get(name) if isinstance(source, Mapping) and name in source else source
        _try(model, of_model, error, with_targets=argument in _WITH_TARGETS)


def _says_enough(error: Exception) -> bool:
    """Whether an error is the library's own, and not of the kind that wraps one from inside a model."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    own = trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] == _LIBRARY
    return own and not isinstance(error, RuntimeError | SweepError | NoBlocksError)


def _models(values: Any, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The models among the arguments, those in lists and dicts by their name."""
    for key, value in values.items() if isinstance(values, Mapping) else ((name, value) for value in values):
        if key in _NO_MODELS:
            continue
        model = value if isinstance(value, nn.Module) else getattr(value, "model", None)
        if isinstance(model, nn.Module):
            yield str(key), model
        elif isinstance(value, Mapping | list | tuple):
            yield from _models(value, str(key))


def _try(model: nn.Module, source: Any, error: Exception, *, with_targets: bool) -> None:
    """Run a model on two examples; whatever else is wrong with them is left to the original error."""
    is_input = _is_input(source) and not (with_targets and isinstance(source, tuple) and len(source) == 2)
    try:
        if isinstance(source, InMemory):
            few = source.subset(slice(0, 2)).x
        else:  # of a container, only the first batch is read
            batch = source if is_input else next(iter(as_batches(source, model, inputs=True)))[0]
            few = first(batch, 2, examples_in(batch))
        moved = placed(few, model)
    except Exception:  # nothing to run the model on
        return
    nouns, name, advice = "an input", "one", "one that fits"
    if isinstance(source, InMemory):
        nouns, name, advice = source.nouns, source.name, f"{source.nouns} that fit"
    shapes = ", ".join("x".join(map(str, leaf.shape[1:])) for leaf in leaves(few) if isinstance(leaf, torch.Tensor))
    try:
        with preserved(model), torch.no_grad():
            call_model(model, moved)
    except Exception as fault:  # whatever a model raises for inputs that it does not take
        raise _kind(error)(
            f"expected {nouns} that {type(model).__name__} accepts, got {name} of {shapes}: "
            f"{' '.join(str(fault).split())}; pass {advice} the model"
        ) from error

    if is_input:
        _check_place(model, few, moved, error)


def _check_place(model: nn.Module, given: Any, moved: Any, error: Exception) -> None:
    """Refuse an input of another dtype or on another device than the model's parameters, if it fails on that."""
    for one, other in zip(leaves(given), leaves(moved), strict=True):
        if (one.dtype, one.device) == (other.dtype, other.device):
            continue
        try:
            with preserved(model), torch.no_grad():
                call_model(model, given)
        except Exception:  # whatever a model raises for an input that it does not take
            kind, wanted = (str(tensor.dtype).removeprefix("torch.") for tensor in (one, other))
            raise ValueError(
                f"expected an input of {wanted} on {other.device}, as the parameters of {type(model).__name__}, got "
                f"{kind} on {one.device}; pass x.to({str(other.device)!r}, torch.{wanted})"
            ) from error
        return


def _kind(error: Exception) -> type[Exception]:
    return type(error) if isinstance(error, NoBlocksError) else ValueError


def _is_input(source: Any) -> bool:
    """Whether this is what a model is called with: a nest of tensors. A list may be of batches."""
    nest = [] if isinstance(source, list) else list(leaves(source))
    return bool(nest) and all(isinstance(leaf, torch.Tensor) for leaf in nest)


EXPLAIN.append(explain)
