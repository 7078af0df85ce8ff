"""Pull rows of cotangents back through a piece of a recorded pass: batched, in chunks, often without autograd.

Why not just ``autograd.grad(is_grads_batched=True)``? Its engine runs each operation under vmap, which on a CPU takes
1.6 to 1.9 times as long for the branches of convolutional networks as :class:`Chain`, which derives such a branch from
the recorded graph. Why in chunks? Rows beyond the cache are pulled back more slowly (by up to a half on a CPU), and on
a GPU rows beyond its memory not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .chain import Chain, chain_between

CACHE_BYTES = (
    2**20
)  # for the largest value; a product holds about four of that size, which together should fit a CPU's cache


class Puller:
    """Pulls rows back from a value to earlier values that it depends on.

    Args:
        max_bytes: memory for the values of one batched product; None chooses it automatically.
        hooked: whether the pass put hooks on tensors or nodes; only autograd's engine calls those.

    Attributes:
        vjps: number of rows pulled back, by kind of piece.
        looped: pieces whose rows were pulled back one by one because an operation has no batching rule, with the
            reason.
    """

    def __init__(self, max_bytes: int | None, hooked: bool) -> None:
        self.max_bytes = max_bytes
        self.vjps: Counter[str] = Counter()
        self.looped: dict[str, str] = {}
        self._most_rows: int | None = None
        self._chains: dict[tuple[int, int], Chain | None] = {}
        self._hooked = hooked

    def chunks(self, rows: int, *values: torch.Tensor) -> list[slice]:
        """Slices of the rows for one batched product each, the last rows first."""
        size = self._rows_at_once(*values)
        return [slice(max(0, stop - size), stop) for stop in range(rows, 0, -size)]

    def _rows_at_once(self, *values: torch.Tensor) -> int:
        """The number of rows to pull back at once, from the memory budget and earlier out-of-memory errors."""
        row = 4 * max(value.numel() * value.element_size() for value in values)
        device = values[0].device
        budget = self.max_bytes
        if budget is None and device.type == "cuda":
            budget = torch.cuda.mem_get_info(device)[0] // 4
        if budget is None:
            budget = 4 * CACHE_BYTES
        size = max(1, budget // max(row, 1))
        return size if self._most_rows is None else min(size, self._most_rows)

    def chain(self, output: torch.Tensor, start: torch.Tensor) -> Chain | None:
        """The piece between two values as a chain of convolutions, norms and ReLUs; None if it is not one."""
        between = id(output), id(start)  # both values live as long as the record, so ids are not reused
        if between not in self._chains:
            self._chains[between] = None if self._hooked else chain_between(output, start)
        return self._chains[between]

    def pull(
        self, piece: str, output: torch.Tensor, inputs: list[torch.Tensor], rows: torch.Tensor
    ) -> list[torch.Tensor]:
        """Pull rows (rows, batch, ...) at a value back to earlier values that it depends on."""
        pulled: list[torch.Tensor | None] | None = None
        if self._most_rows is None or len(rows) <= self._most_rows:
            try:
                pulled = self._pull_once(piece, output, inputs, rows)
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                self._most_rows = len(rows) // 2
        if pulled is None:
            halves = [self.pull(piece, output, inputs, half) for half in rows.split(self._most_rows or 1)]
            return [torch.cat(parts) for parts in zip(*halves, strict=True)]
        return [row_zeros(rows, value) if grad is None else grad for grad, value in zip(pulled, inputs, strict=True)]

    def _pull_once(
        self, piece: str, output: torch.Tensor, inputs: list[torch.Tensor], rows: torch.Tensor
    ) -> list[torch.Tensor | None]:
        if not output.requires_grad:
            return [None] * len(inputs)
        rows = rows.to(output.dtype)
        chain = self.chain(output, inputs[0]) if len(inputs) == 1 else None
        if chain is not None:
            return [chain.pull(rows)]
        rows = _stored_as(rows, output)
        if len(rows) > 1 and piece not in self.looped:
            try:
                return gradients(output, inputs, rows, batched=True)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                single = [gradients(output, inputs, row) for row in rows]
                self.looped[piece] = str(error)
                return _stacked(single)
        return _stacked([gradients(output, inputs, row) for row in rows])


def gradients(
    output: torch.Tensor, inputs: Sequence[torch.Tensor], cotangent: torch.Tensor | None, batched: bool = False
) -> list[torch.Tensor | None]:
    """Autograd's gradients with respect to the inputs, None for an input without one; the graph is retained."""
    grad: Callable[..., Any] = torch.autograd.grad
    by_input: tuple[torch.Tensor | None, ...] = grad(
        output, inputs, cotangent, retain_graph=True, allow_unused=True, is_grads_batched=batched
    )
    return list(by_input)


def zeros_for(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Zeros with the memory layout of the given rows: products of rows with another layout take far longer."""
    row = torch.empty_like(rows[0], device="meta") if len(rows) else rows.new_empty(rows.shape[1:], device="meta")
    return rows.new_empty(0).new_empty_strided((count, *row.shape), (row.numel(), *row.stride())).zero_()


def row_zeros(rows: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Zeros with the shape of `value`, one per row."""
    return value.new_zeros((len(rows), *value.shape))


def reduced(rows: torch.Tensor, term: torch.Tensor) -> torch.Tensor:
    """Rows at a sum, reduced to the shape of one of its terms if that was broadcast."""
    if rows.shape[1:] == term.shape:
        return rows
    return torch.stack([row.sum_to_size(term.shape) for row in rows])


def _stored_as(rows: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Rows with the memory layout of the value that they are gradients of, as autograd itself provides them.

    For another layout, PyTorch 2.15's batch norm (CPU) reads a batch of one in the wrong order.
    """
    if rows.stride()[1:] == value.stride():
        return rows
    if not value.is_contiguous() and torch.empty_like(value, device="meta").stride() != value.stride():
        return rows.contiguous()  # the value is a view with gaps or repetitions
    return rows.new_empty(0).new_empty_strided(rows.shape, (value.numel(), *value.stride())).copy_(rows)


def _stacked(rows: list[list[torch.Tensor | None]]) -> list[torch.Tensor | None]:
    stacked: list[torch.Tensor | None] = []
    for column in zip(*rows, strict=True):
        parts = [part for part in column if part is not None]
        if not parts:
            stacked.append(None)
        elif len(parts) == 1:
            stacked.append(parts[0][None])
        else:
            stacked.append(torch.stack(parts))
    return stacked
