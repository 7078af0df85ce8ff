"""The only module that imports curvlinops: its operators, with products that need no forward-mode derivatives."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from ..imports import first_import

with first_import("curvlinops"), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # linear_operator, which curvlinops imports, scripts functions with torch.jit
    try:
        from curvlinops import GGNLinearOperator, HessianLinearOperator
    except ImportError as error:
        raise ImportError(
            "expected curvlinops for curvature, which is not installed; run: pip install 'resnet-paths[curvature]'"
        ) from error

from .mean_loss import batch_length


class _Hessian(HessianLinearOperator):  # type: ignore[misc]
    """The Hessian with reverse-over-reverse products.

    curvlinops takes a forward derivative of ``torch.func.jacrev`` under ``vmap``. That is wrong for layer norm (torch
    2.15: not even symmetric; see pytorch issue 198017 on such derivatives) and undefined for fused attention, and it
    costs 8.6 to 9.8 gradients for one vector on a ResNet-56, where two backward passes cost 3.3 to 3.5.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._of_thread = threading.local()

    @contextmanager
    def graphs_kept(self) -> Iterator[None]:
        """Within the block, this thread differentiates each batch's gradient without computing it again."""
        before = getattr(self._of_thread, "graphs", None)
        self._of_thread.graphs = {} if before is None else before
        try:
            yield
        finally:
            self._of_thread.graphs = before

    def _matmat_batch(self, X: Any, y: torch.Tensor, M: list[torch.Tensor]) -> list[torch.Tensor]:
        graphs = getattr(self._of_thread, "graphs", None)
        wrt, gradients = (None if graphs is None else graphs.get(id(X))) or self._gradient(X, y)
        if graphs is not None:
            graphs[id(X)] = wrt, gradients
        curved = [index for index, gradient in enumerate(gradients) if gradient.requires_grad]
        columns = []
        for column in range(M[0].shape[-1]):
            pushed = [M[index][..., column] for index in curved]
            columns.append(_grad([gradients[index] for index in curved], wrt, pushed, retain_graph=True))
        return [torch.stack(parts, -1) for parts in zip(*columns, strict=True)]

    def _gradient(self, X: Any, y: torch.Tensor) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
        """The chosen parameters, and the gradient of a batch's mean loss by them, with its graph."""
        moved = {id(parameter) for parameter in self._params}
        values, leaves = {}, {}
        for name, parameter in self._model_func.named_parameters():
            values[name] = parameter.detach()
            if id(parameter) in moved:
                values[name] = leaves[id(parameter)] = parameter.detach().requires_grad_()
        wrt = [leaves[id(parameter)] for parameter in self._params]

        with torch.enable_grad():
            loss = self._loss_func(functional_call(self._model_func, values, (X,)), y)
            gradients = _grad([loss], wrt, [torch.ones_like(loss)], create_graph=True)
        return wrt, gradients


def _grad(
    outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], rows: Sequence[torch.Tensor], **options: Any
) -> tuple[torch.Tensor, ...]:
    """Like ``torch.autograd.grad``, but zero where the output does not depend on an input."""
    if not any(output.requires_grad for output in outputs):
        return tuple(torch.zeros_like(value) for value in inputs)
    return torch.autograd.grad(outputs, inputs, rows, materialize_grads=True, **options)


_KINDS = {"hessian": _Hessian, "gauss_newton": GGNLinearOperator}


def make_operator(
    kind: str,
    model: nn.Module,
    loss: nn.Module,
    parameters: Sequence[nn.Parameter],
    batches: Iterable[tuple[Any, torch.Tensor]],
    count: int,
) -> Any:
    """An operator of curvlinops for the mean over `count` samples of `batches`.

    Args:
        kind: ``"hessian"`` or ``"gauss_newton"``.
        model: inputs to logits.
        loss: logits and targets to the mean over a batch; its `reduction` is ``"mean"``, so that each batch counts
            by its size.
        parameters: of the model.
        batches: inputs and targets.
        count: of all samples.
    """
    return _KINDS[kind](
        model,
        loss,
        list(parameters),
        batches,
        check_deterministic=False,
        num_data=count,
        batch_size_fn=batch_length,
    )
