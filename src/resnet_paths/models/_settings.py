"""The settings of a ResNet for small images.

The network and its blocks are built from this one list of settings, and a checkpoint stores it. They are checked
together, since most depend on others (the depth on the block and the stages, groups on widths), and a description from
a file may be wrong in any of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..choices import BlockKind, Shortcut, Stem
from .stochastic_depth import linear_decay

KERNELS: dict[str, tuple[int, ...]] = {"basic": (3, 3), "bottleneck": (1, 3, 1)}
EXPANSION: dict[str, int] = {"basic": 1, "bottleneck": 4}
MOST_PARAMETERS = 2_000_000_000
"""A limit, since a description in a file may ask for more memory than there is."""


@dataclass(frozen=True)
class Settings:
    """The checked arguments of :func:`cifar_resnet`; see there."""

    depth: int
    num_classes: int
    in_channels: int
    residual: bool
    preactivation: bool
    shortcut: Shortcut
    block: BlockKind
    widths: tuple[int, ...]
    stem: Stem
    zero_init_residual: bool
    groups: int
    group_width: int | None
    keep_last: float
    seed: int | None

    def __post_init__(self) -> None:
        choices = {"block": tuple(KERNELS), "shortcut": ("A", "B", "C", "D"), "stem": ("3x3", "7x7", "deep")}
        for name, options in choices.items():
            if getattr(self, name) not in options:
                head = ", ".join(repr(choice) for choice in options[:-1])
                raise ValueError(f"expected {name} {head} or {options[-1]!r}, got {getattr(self, name)!r}")
        numbers = {"num_classes": self.num_classes, "in_channels": self.in_channels}
        numbers |= {f"widths[{stage}]": width for stage, width in enumerate(self.widths)}
        numbers |= {"groups": self.groups, "group_width": 1 if self.group_width is None else self.group_width}
        for name, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"expected an integer of at least 1 for {name}, got {number!r}")
        most = 9 * self.depth * max(self.widths, default=1) ** 2 + max(self.widths, default=1) * self.num_classes
        if most > MOST_PARAMETERS:
            raise ValueError(
                f"expected a network with at most {MOST_PARAMETERS:,} parameters, got about {most:.1e} from depth "
                f"{self.depth} and widths up to {max(self.widths)}"
            )
        if not self.widths:
            raise ValueError("expected the width of at least one stage, got widths=()")
        if self.zero_init_residual and not self.residual:
            raise ValueError("expected residual=True with zero_init_residual: without shortcuts its output is constant")
        self._check_depth()
        self._check_groups()
        if self.keep_last != 1 and not self.residual:
            raise ValueError(
                f"expected keep_last=1 with residual=False, got {self.keep_last}: nothing bypasses a branch"
            )
        linear_decay(1, self.keep_last)

    def _check_groups(self) -> None:
        if self.block != "bottleneck" and (self.groups, self.group_width) != (1, None):
            raise ValueError(
                f"expected groups only with block='bottleneck', got groups={self.groups} and "
                f"group_width={self.group_width} with {self.block!r}; a grouped block of two layers is just a wider, "
                "sparser one (Xie et al. 2017, section 3.3)"
            )
        for stage in range(len(self.widths)):
            if self.middle(stage) % self.groups:
                raise ValueError(
                    f"expected widths divisible by {self.groups} groups, got {self.middle(stage)} in stage {stage + 1}"
                    "; change widths, groups or group_width"
                )

    def _check_depth(self) -> None:
        step = len(KERNELS[self.block]) * len(self.widths)
        if isinstance(self.depth, int) and self.depth >= step + 2 and (self.depth - 2) % step == 0:
            return
        below = max(1, int(self.depth - 2) // step)
        raise ValueError(
            f"expected a depth of {step} k + 2 for {self.block} blocks in {len(self.widths)} stages, got "
            f"{self.depth}; the nearest are {step * below + 2} and {step * (below + 1) + 2}"
        )

    @property
    def blocks(self) -> int:
        """The number of blocks per stage."""
        return (self.depth - 2) // (len(KERNELS[self.block]) * len(self.widths))

    def middle(self, stage: int) -> int:
        """The channels of the 3x3 convolution in a stage's bottlenecks."""
        width = self.widths[stage]
        return width if self.group_width is None else self.groups * self.group_width * width // self.widths[0]
