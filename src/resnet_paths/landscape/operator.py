"""Curvature matrices of the loss as linear operators: multiplied, never formed.

curvlinops knows how to multiply by such a matrix batch by batch (`_operators` holds all that touches it). This module
takes care of everything that could otherwise make the numbers wrong: one mean over all samples whatever the batch
sizes, class weights and ignored labels as in torch's own mean (`mean_loss`), a model that is left unchanged, inputs
with the parameters' dtype and device, and, before the first product, a test of the symmetry that PyTorch's second
derivatives of some layers lack (`symmetry`). Eigenvalues, traces and densities build on the product alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from ..arguments import checked, outside_autocast
from ..data import Examples, ImageData, ImageSource, as_batches
from ..graph.attention import unfused_attention
from ..graph.eval_mode import check_eval
from ..graph.inputs import call_model, main_output
from ..graph.preserve import preserved
from ..graph.private_copy import private_copy, private_modules
from ..graph.trees import map_leaves
from ..imports import first_import
from ..network import UnrolledNetwork
from ..network.unrolled import model_of
from ..provenance import Provenance, provenance
from .cell_metrics import usual_loss_name
from .mean_loss import LossFunction, MeanLoss, MetricLoss, SampleLoss, batch_length, loss_function
from .symmetry import check_symmetry, reparametrised

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

Kind = Literal["hessian", "gauss_newton"]
Tensors = dict[str, torch.Tensor]
T = TypeVar("T")


@checked
class CurvatureOperator:
    """The Hessian or the Gauss-Newton matrix of the mean loss over all samples; made by `curvature_operator`.

    A product replaces the parameters of the modules that it runs, so these are a private copy over the model's own
    tensors. Products wait for each other, because forward-mode derivatives and the attention switches are shared by the
    whole process.

    Attributes:
        kind: ``"hessian"`` or ``"gauss_newton"``.
        names: the parameters, in the order of the vector's entries.
        shapes: their shapes.
        samples: number of samples that the mean is over.
        products: number of vectors multiplied so far.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: list[tuple[Any, Any]],
        kind: Kind,
        names: Sequence[str],
        loss: LossFunction,
    ) -> None:
        from . import _operators

        private = private_modules(model)
        own = model if private is None else private
        parameters = dict(own.named_parameters())
        chosen = [parameters[name] for name in names]
        self.model, self.kind, self.names = model, kind, tuple(names)
        self.shapes = tuple(tuple(parameter.shape) for parameter in chosen)
        self.samples = sum(batch_length(x) for x, _ in batches)
        self.products = 0
        self._batches, self._loss = batches, loss
        self._own = own
        mean = MeanLoss(loss, [target for _, target in batches], self.samples)
        self._operator = _operators.make_operator(kind, _Logits(own), mean, chosen, batches, self.samples)
        self._probed = False
        self._reference = chosen[0]
        self.dtype, self.device = chosen[0].dtype, chosen[0].device

    def __len__(self) -> int:
        return sum(map(math.prod, self.shapes))

    @outside_autocast
    def __matmul__(self, vectors: torch.Tensor) -> torch.Tensor:
        """The matrix times a vector (P,) or several (P, K).

        Before the first product with the Hessian its symmetry is tested (:func:`check_symmetry`).

        Raises:
            ValueError: another shape, or a matrix that is not symmetric because PyTorch's second derivative of a layer
                is wrong.
            TypeError: a layer has no forward-mode derivative, which the Gauss-Newton matrix needs.
            FloatingPointError: the product is not finite.

        Cost: about 3.5 gradients of the data for one vector, 2.5 for each of several at once (Hessian; see also
        :meth:`graph_kept`), 3.7 (Gauss-Newton); measured in analysis/benchmarks/curvature.md. Memory: the graph of one
        batch.
        """
        if vectors.ndim not in (1, 2) or len(vectors) != len(self):
            raise ValueError(
                f"expected a vector ({len(self)},) or vectors ({len(self)}, K), got {tuple(vectors.shape)}; the "
                "operator has an entry for each number in its parameters"
            )
        if not self._probed and self.kind == "hessian":
            exactly = None if self.dtype == torch.float64 else self._in_float64
            check_symmetry(self._on_first_batch, self._own, self.names, self.shapes, self._reference, exactly)
            self._probed = True
        product = self._alone(lambda: self._product(_moved(vectors, self._reference)))
        self.products += 1 if vectors.ndim == 1 else vectors.shape[1]
        if not bool(torch.isfinite(product).all()):
            raise FloatingPointError(
                "expected a finite product, got NaN or infinity: the loss or its derivatives overflow at these "
                "parameters; check the model's output on this data, or use float64"
            )
        return product

    def graph_kept(self) -> AbstractContextManager[None]:
        """Within the block, products with the Hessian of one batch share the graph of its gradient.

        They then cost about 2.5 gradients of the data instead of 3.5 (analysis/benchmarks/curvature.md), and the
        parameters must not change meanwhile. Nothing changes for several batches, whose graphs together may not fit in
        memory, nor for the Gauss-Newton matrix.
        """
        one = self.kind == "hessian" and len(self._batches) == 1
        return self._operator.graphs_kept() if one else nullcontext()

    def _alone(self, compute: Callable[[], T]) -> T:
        """Exclusive use of the modules, which are left unchanged."""
        with torch.inference_mode(False), preserved(self._own), unfused_attention():
            return compute()

    def _product(self, vectors: torch.Tensor) -> torch.Tensor:
        try:
            product: torch.Tensor = (self._operator @ vectors).detach()
        except NotImplementedError as error:
            layers = ", ".join(reparametrised(self._own)) or "one of the model's"
            raise TypeError(
                f"expected layers with forward-mode derivatives for {self.kind}, got {layers}; take kind='hessian', or "
                "merge reparametrised weights first (torch.nn.utils.parametrize.remove_parametrizations)"
            ) from error
        return product

    def _on_first_batch(self, vectors: torch.Tensor) -> torch.Tensor:
        """The first batch's part of the matrix times vectors (P, K)."""
        parts = vectors.split([math.prod(shape) for shape in self.shapes])
        columns = [part.reshape(*shape, -1) for part, shape in zip(parts, self.shapes, strict=True)]
        with torch.inference_mode(False):
            x, target = self._batches[0]
            products = self._alone(lambda: self._operator._matmat_batch(x, target, columns))
        return torch.cat([part.detach().reshape(-1, vectors.shape[1]) for part in products])

    def _in_float64(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The same for a copy of the model in float64."""
        x, target = self._batches[0]
        wide = map_leaves(x, lambda leaf: leaf.double() if _is_floating(leaf) else leaf)
        model = private_copy(self._own).double()
        return CurvatureOperator(model, [(wide, target)], self.kind, self.names, self._loss)._on_first_batch

    def dense(self) -> torch.Tensor:
        """The whole matrix, (P, P), for small nets.

        Cost: P products, at most 64 at a time, so that memory grows with 64 vectors and not with P.
        """
        identity = torch.eye(len(self), dtype=self.dtype, device=self.device)
        with self.graph_kept():
            return torch.cat([self @ columns for columns in identity.split(64, dim=1)], dim=1)

    def to_scipy(self) -> LinearOperator:
        """The operator for SciPy, in float64 (the products in the model's own type)."""
        with first_import("scipy.sparse.linalg"):
            from scipy.sparse.linalg import LinearOperator

        def multiply(vector: np.ndarray) -> np.ndarray:
            product: np.ndarray = (self @ torch.from_numpy(np.ascontiguousarray(vector))).cpu().double().numpy()
            return product

        return LinearOperator((len(self), len(self)), matvec=multiply, matmat=multiply, dtype=np.float64)

    def direction(self, vector: torch.Tensor | np.ndarray) -> Tensors:
        """A vector (P,) as tensors by the names of the parameters, in the model's type: a direction in its space."""
        flat = torch.as_tensor(vector, device=self.device).to(self.dtype)
        parts = flat.split([math.prod(shape) for shape in self.shapes])
        return {name: part.reshape(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def vector(self, direction: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """A direction as a vector (P,); the inverse of :meth:`direction`."""
        return torch.cat([direction[name].to(self.device, self.dtype).reshape(-1) for name in self.names])

    def slices(self) -> dict[str, slice]:
        """The position of each parameter's entries in a vector."""
        slices_by_name, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            slices_by_name[name] = slice(start, start + math.prod(shape))
            start += math.prod(shape)
        return slices_by_name

    def source(self, seed: int | None = None) -> Provenance:
        """Everything needed to rebuild the operator."""
        return provenance(
            self.model, [[x, getattr(target, "value", target)] for x, target in self._batches], self.dtype, seed
        )

    def __repr__(self) -> str:
        return f"CurvatureOperator({self.kind}, {len(self):,} parameters, {self.samples} samples, {self.dtype})"


@checked
@torch.inference_mode(False)
def curvature_operator(
    model: nn.Module | UnrolledNetwork,
    data: ImageSource,
    *,
    kind: Kind = "hessian",
    parameters: Sequence[str] | None = None,
    loss: SampleLoss | None = None,
    batch_size: int = 256,
) -> CurvatureOperator:
    """The Hessian or the generalised Gauss-Newton matrix of the mean loss as a linear operator.

    With the loss ``L = 1/N sum_n l(f(x_n), y_n)`` over all N samples, whatever the sizes of the batches (cross-entropy:
    over all labels that are not ignored, as torch takes the mean of one batch that holds them all),

        H = d²L / dθ²,      G = 1/N sum_n J_nᵀ (d²l / df²) J_n,      J_n = df(x_n) / dθ,

    for the chosen parameters θ; batch norm uses its running statistics. The model is left as it is.

    Args:
        model: a model, or an unrolled one, in eval mode.
        data: labelled images, or batches of any inputs and targets (a loader, a data set, a pair of tensors, an
            iterable; see :func:`~resnet_paths.data.as_batches`); it is read once and kept.
        kind: ``"hessian"`` or ``"gauss_newton"``.
        parameters: names of the parameters; None takes all.
        loss: by default that which fits the targets, as for :func:`loss_surface`: cross-entropy of classes, labels,
            pixels or next tokens, or the squared error. Otherwise ``"cross_entropy"``; a ``CrossEntropyLoss`` or
            ``NLLLoss`` with ``reduction="none"``, whose weights and ignored label count as in its mean; a metric by
            name that is a mean over samples or over positions, such as ``next_token_loss`` or ``squared_error``; or a
            function of output and target that returns one loss for each sample, (batch,). Targets may be tensors, or
            tuples and mappings of them.
        batch_size: samples at a time, of labelled images; the numbers do not depend on it.

    Returns:
        The operator.

    Raises:
        UnrollError: the model is in training mode.
        ValueError: a parameter does not exist, or there are no samples.
        TypeError: the parameters are of several types or on several devices.
        ImportError: without the extra ``curvature``.

    Cost: before the first product, a copy of the modules, not of their tensors (for a metric by name, also a forward
    pass of the data); with it, three products with the first batch, which test the Hessian's symmetry.

    Source: Pearlmutter (1994), Fast exact multiplication by the Hessian; Schraudolph (2002) for Gauss-Newton.

    Example:
        >>> import torch
        >>> line = torch.nn.Linear(2, 1, bias=False).double().eval()
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).double()
        >>> square = lambda output, target: (output[:, 0] - target) ** 2 / 2
        >>> H = curvature_operator(line, [(x, torch.zeros(2))], loss=square)
        >>> H.dense().tolist()  # xᵀx / N
        [[0.5, 0.0], [0.0, 2.0]]
    """
    model = model_of(model)
    if kind not in ("hessian", "gauss_newton"):
        raise ValueError(f"expected kind 'hessian' or 'gauss_newton', got {kind!r}")
    check_eval(model)
    names = check_parameters(model, parameters)
    reference = dict(model.named_parameters())[names[0]]
    batches = read_batches(data, model, batch_size, reference)
    function = loss_function(_usual(batches) if loss is None else loss)
    if isinstance(function, MetricLoss):
        batches = [(x, Structured((target, Examples(x).mask), reference.device)) for x, target in batches]
        function = replace(function, positions=_positions(function, model, batches))
    return CurvatureOperator(model, batches, kind, names, function)


def _usual(batches: list[tuple[Any, Any]]) -> SampleLoss:
    """The loss that fits the targets of all batches, as :func:`usual_loss_name` finds it for data in one piece."""
    filled = [(x, target) for x, target in batches if batch_length(x)]
    if any(isinstance(target, Structured) for _, target in filled):
        return "cross_entropy"  # which refuses them, and says what reads them
    if all(target.is_floating_point() for _, target in filled) and len({target.shape[1:] for _, target in filled}) == 1:
        targets = torch.cat([target for _, target in filled])  # a few may be all zero, or sum to one, by chance
        return usual_loss_name(Examples(targets, targets))
    names: set[SampleLoss] = {usual_loss_name(Examples(x, target)) for x, target in filled}
    return names.pop() if len(names) == 1 else "pixel_loss"  # some batches of classes of pixels hold only two of them


def _positions(loss: MetricLoss, model: nn.Module, batches: list[tuple[Any, Any]]) -> float:
    """How many positions count in a sample, on average over all of them.

    Raises:
        ValueError: none counts.
    """
    counts, samples = 0.0, 0
    with preserved(model), torch.no_grad():
        for x, target in batches:
            parts = loss.parts(main_output(call_model(model, x)), target.value)
            counts, samples = counts + float(parts[:, 1].sum() if parts.ndim > 1 else len(parts)), samples + len(parts)
    if not counts:
        raise ValueError("expected at least one target that counts, got none; all are -100 or hidden by the mask")
    return counts / samples


def check_parameters(model: nn.Module, names: Sequence[str] | None) -> list[str]:
    """The names of the chosen parameters, in the model's order.

    Raises:
        ValueError: a name is unknown or given twice, or there are none.
        TypeError: parameters of several types or on several devices.
    """
    known = dict(model.named_parameters())
    wanted = list(known) if names is None else list(names)
    unknown = [name for name in wanted if name not in known]
    if unknown or len(set(wanted)) < len(wanted) or not wanted:
        raise ValueError(
            f"expected names of different parameters of the model, got {unknown or wanted}; choose among "
            f"{list(known)[:6]} and so on (model.named_parameters())"
        )
    kinds = {(known[name].dtype, known[name].device) for name in wanted}
    if len(kinds) > 1:
        raise TypeError(f"expected parameters of one type on one device, got {sorted(map(str, kinds))}")
    return [name for name in known if name in set(wanted)]


def read_batches(
    data: ImageSource, model: nn.Module, batch_size: int, reference: torch.Tensor
) -> list[tuple[Any, Any]]:
    """All batches, floating inputs in the parameters' type, on their device.

    Raises:
        ValueError: there are no samples.
    """
    if isinstance(data, ImageData):
        data = data.to(reference.device, reference.dtype)
    batches = [
        (_moved(x, reference), _target(target, reference))
        for x, target in as_batches(data, model, batch_size=batch_size)
    ]
    if not sum(batch_length(x) for x, _ in batches):
        raise ValueError("expected at least one sample, got none; is the iterator of batches exhausted? pass a list")
    return batches


def _target(target: Any, reference: torch.Tensor) -> Any:
    """A tensor, or a tuple or mapping of them, on the parameters' device and in its original dtype."""
    if target is None:
        raise TypeError("expected targets in each batch, got none; give pairs (input, target)")
    if isinstance(target, Mapping | tuple):
        return Structured(target, reference.device)
    return torch.as_tensor(target, device=reference.device)


class Structured:
    """Targets in a tuple or a mapping, which the loss takes as one."""

    def __init__(self, target: Any, device: torch.device) -> None:
        self.value = map_leaves(target, lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf)

    def to(self, device: torch.device) -> Structured:
        """The same on another device, as for tensors."""
        return Structured(self.value, device)


def _moved(x: Any, reference: torch.Tensor) -> Any:
    if isinstance(x, Mapping):
        return {key: _moved(value, reference) for key, value in x.items()}
    if isinstance(x, (tuple, list)):
        return map_leaves(x, lambda leaf: _moved(leaf, reference))  # named tuples too
    if x is None or isinstance(x, (bool, str)):
        return x
    value = torch.as_tensor(x, device=reference.device)
    value = value.clone() if value.is_inference() else value  # inference tensors cannot be differentiated through
    return value.to(reference.device, reference.dtype if value.is_floating_point() else None)


class _Logits(nn.Module):
    """A model whose output is only the tensor that losses take."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, x: Any) -> torch.Tensor:
        return main_output(call_model(self.model, x))


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
