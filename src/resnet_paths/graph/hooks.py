"""A user's hooks on a module that is traced through, as two operations of the graph.

They look up the hooks in each run, so hooks that the user adds or removes later take effect.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has forward hooks, so that its class does not say all that its call does."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


class PreHooks:
    """Runs the forward pre-hooks that a module has at the time of the call; returns its positional arguments."""

    __name__ = "forward_pre_hooks"

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The positional arguments after all hooks."""
        for key, hook in list(self.module._forward_pre_hooks.items()):
            if key in self.module._forward_pre_hooks_with_kwargs:
                result = hook(self.module, args, kwargs)
                if result is not None:
                    args, kwargs = result
                continue
            result = hook(self.module, args)
            if result is not None:
                args = result if isinstance(result, tuple) else (result,)
        return args


class PostHooks:
    """Runs the forward hooks that a module has at the time of the call; returns its output."""

    __name__ = "forward_hooks"

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output after all hooks."""
        for key, hook in list(self.module._forward_hooks.items()):
            if key in self.module._forward_hooks_with_kwargs:
                result = hook(self.module, args, kwargs, output)
            else:
                result = hook(self.module, args, output)
            output = output if result is None else result
        return output
