"""A device that needs no hardware and is as strict as a GPU; its tensors hold tensors of the CPU.

PyTorch reserves a slot for one third-party back end (``PrivateUse1``); this fills it in Python. Its tensors report the
device ``pretend:0``. It refuses what a GPU refuses:

- a tensor of the CPU beside one of the device, unless it is a single number in elementwise arithmetic, or an index;
- ``.numpy()`` and whatever calls it, as matplotlib and ``np.asarray`` do;
- a generator of the CPU for numbers on the device.

Copies from one to the other are made where they are requested (``to``, ``cpu``, ``copy_``, ``item``, ``tolist``).

What it cannot test: which kernels a GPU has, in which dtypes, and how exact they are; asynchronous results; autocast on
the device.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing

NAME = "pretend"
IS_POSSIBLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
"""Whether this PyTorch allows a back end without C++."""

aten = torch.ops.aten
_INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


class OtherDeviceError(RuntimeError):
    """Something is on the CPU that must be on the device."""


class Pretend(torch.Tensor):
    """A tensor on the device.

    Attributes:
        held: the numbers, on the CPU.
    """

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Pretend:
        made: Pretend = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    def __init__(self, held: torch.Tensor) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"Pretend({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Pretend:
        made = Pretend(self.held.detach().clone()).requires_grad_(self.requires_grad)
        made.__dict__.update({key: copy.deepcopy(value, memo) for key, value in vars(self).items() if key != "held"})
        if self.grad is not None:
            made.grad = copy.deepcopy(self.grad, memo)
        return memo.setdefault(id(self), made)

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Pretend) -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held

    # what PyTorch does for its own devices, but not for tensors that wrap others

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy; call .cpu() first")
        return self.detach().cpu().numpy()


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Refuse what a device refuses, then run the operation on the CPU tensors."""
    func = aten.zeros.default if func is aten._efficientzerotensor.default else func  # has no memory
    given: list[Any] = []
    _each((args, kwargs), given.append)
    _check_devices(func, args, given)

    out = func(*_each(args, _held), **_each(kwargs, _held))

    schema = _facts(func)
    written = [args[place] for place in schema.places if place < len(args)]
    written += [kwargs[name] for name in schema.names if name in kwargs]
    if func is aten.copy_.default or (written and not any(isinstance(value, Pretend) for value in written)):
        return written[0]
    asked = [value.type for value in given if isinstance(value, torch.device)]
    if asked and NAME not in asked:
        return out
    # a view of an ordinary tensor is an ordinary tensor, in inference mode too
    with torch.inference_mode(
        torch.is_inference_mode_enabled() and not (schema.is_view and not args[0].is_inference())
    ):
        out = _each(out, lambda value: Pretend(value) if isinstance(value, torch.Tensor) else value)
    return return_and_correct_aliasing(func, args, kwargs, out) if written else out


class _Facts:
    """The facts in an operation's schema.

    Attributes:
        names: of the arguments that it writes to.
        places: theirs.
        is_view: its result shares memory with the first argument.
        takes_numbers: a single number on the CPU may stand beside tensors of the device.
    """

    def __init__(self, func: Any) -> None:
        schema = func._schema
        self.places = [place for place, argument in enumerate(schema.arguments) if argument.is_write]
        self.names = [schema.arguments[place].name for place in self.places]
        self.is_view = any(value.alias_info and not value.alias_info.is_write for value in schema.returns)
        self.takes_numbers = torch.Tag.pointwise in func.tags or func in _INDEXED


@functools.cache
def _facts(func: Any) -> _Facts:
    return _Facts(func)


def _each(value: Any, apply: Callable[[Any], Any]) -> Any:
    """The same nest with every leaf applied."""
    if isinstance(value, list | tuple):
        return type(value)([_each(item, apply) for item in value])
    if isinstance(value, dict):
        return {key: _each(item, apply) for key, item in value.items()}
    return apply(value)


def _held(value: Any) -> Any:
    """What an argument is on the CPU."""
    if isinstance(value, torch.device) and value.type == NAME:
        return torch.device("cpu")
    return value.held if isinstance(value, Pretend) else value


def _check_devices(func: Any, args: tuple[Any, ...], given: list[Any]) -> None:
    """Refuse tensors and generators of the CPU beside the device.

    Raises:
        OtherDeviceError: there are such.
    """
    if any(isinstance(value, torch.Generator) for value in given):
        raise OtherDeviceError(f"expected a {NAME!r} generator for {func}, got one of the CPU")
    others = [value for value in given if isinstance(value, torch.Tensor) and not isinstance(value, Pretend)]
    if not others or func is aten.copy_.default or not any(isinstance(value, Pretend) for value in given):
        return
    facts = _facts(func)
    if func in _INDEXED:
        others = [value for value in others if not any(value is index for index in args[1])]
    if facts.takes_numbers:
        written = args[0] if facts.places else None
        others = [value for value in others if value.ndim or value is written]
    if others:
        shapes = [tuple(value.shape) for value in others]
        raise OtherDeviceError(
            f"expected all tensors on one device, but {func} got some on {NAME}:0 and of {shapes} on the CPU"
        )


_libraries: list[Any] = []


def make_available() -> None:
    """Register the device in this process, once; before its first backward pass, when PyTorch counts devices."""
    if _libraries or not IS_POSSIBLE:
        return

    class Hooks(torch._C._acc.PrivateUse1Hooks):  # type: ignore[misc, name-defined]
        """The device is there but is not ``torch.accelerator``, or timings on the CPU would wait for it."""

        def is_available(self) -> bool:
            return False

        def has_primary_context(self, dev_id: int) -> bool:
            return True

        def is_built(self) -> bool:
            return True

    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module(), Hooks())
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(_makes_one, "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    copies = torch.library.Library("aten", "IMPL")
    copies.impl("_copy_from", _copied, "PrivateUse1")
    _libraries.extend([everything, copies])


class _Module:
    """The module ``torch.pretend``."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def _makes_one(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Functions that are called without a tensor of the device, such as ``torch.empty``."""
    return _run(func, args, kwargs)


def _copied(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """What ``torch.tensor(numbers, device=...)`` calls past everything else."""
    _held(target).copy_(_held(source))
    return target
