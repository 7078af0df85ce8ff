"""Which images search, repair, judge and certify: each role has its own images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from ..arguments import checked
from ..arguments.ranges import COUNT
from ..data import ImageData, ImageSource, InMemory, as_examples
from ..data.classes import numbered_alike

ROLES = ("search", "repair", "judge", "certify")


@checked(finalists=COUNT)
@dataclass(frozen=True, eq=False)
class ImageSplit:
    """How the images of a plan are divided: each role gets a share of the given images by weight, or its own images.

    Attributes:
        search: the images on which sets of blocks are compared.
        repair: the images on which dropped networks are repaired; unused if the repair needs none.
        judge: the images on which the best sets of each size are compared again, because the best of hundreds of sets
            on few images looks better there than it is; none by default.
        certify: the images that decide nothing before the end, on which accuracies, falls and their bounds are
            measured.
        finalists: number of sets per size that are judged.
        batch_size: images per batch; also for the batch-norm statistics if the plan recalibrates.
        seed: seed of the division and of the order of images.

    Example:
        >>> from resnet_paths.data import digits
        >>> roles = ImageSplit(search=1, repair=1, certify=digits("test")).roles(digits("train"))
        >>> {role: len(images) for role, images in roles.items()}
        {'search': 676, 'repair': 676, 'certify': 445}
    """

    search: float | ImageSource = 2.0
    repair: float | ImageSource = 1.0
    judge: float | ImageSource = 0.0
    certify: float | ImageSource = 3.0
    finalists: int = 10
    batch_size: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the weights."""
        for role in ROLES:
            weight = getattr(self, role)
            if isinstance(weight, int | float) and not 0 <= weight < math.inf:
                raise ValueError(f"expected {role} to be data or a weight of at least 0, got {weight}")

    def roles(
        self,
        images: ImageSource,
        repairs: bool = True,
        needed: tuple[str, ...] = ("search", "certify"),
        model: nn.Module | None = None,
    ) -> dict[str, InMemory]:
        """The images of each role that has any.

        Args:
            images: the images to divide.
            repairs: whether the repair needs images.
            needed: roles that must have images.
            model: the model that reads them, see :func:`~resnet_paths.data.as_examples`.

        Raises:
            ValueError: there are too few images, or none for a role that needs them.
        """
        given = {role: getattr(self, role) for role in ROLES}
        separate = {
            role: as_examples(value, model, labelled=False)
            for role, value in given.items()
            if not isinstance(value, int | float)
        }
        weights = {role: float(value) for role, value in given.items() if role not in separate and value}
        if not repairs:
            separate.pop("repair", None)
            weights.pop("repair", None)
        parts = {**separate, **_divided(as_examples(images, model, labelled=False).shuffled(self.seed), weights)}
        missing = set(needed) - set(parts)
        if missing:
            raise ValueError(f"expected data to {' and to '.join(sorted(missing))}, got a weight of 0; pass some")
        if not parts:
            return {}
        kept = [role for role in ROLES if role in parts]
        images_by_role = [part for part in parts.values() if isinstance(part, ImageData)]
        if not images_by_role:
            return {role: parts[role] for role in kept}
        if len(images_by_role) < len(parts):
            raise ValueError(
                "expected data of one kind for all roles, got images for some and other examples for others"
            )
        renumbered = numbered_alike(*(part for role in kept if isinstance(part := parts[role], ImageData)))
        return dict(zip(kept, renumbered, strict=True))

    @property
    def weights(self) -> ImageSplit:
        """The split with weight 0 for roles with their own images, which can be saved."""
        separate = [role for role in ROLES if not isinstance(getattr(self, role), int | float)]
        return replace(self, **dict.fromkeys(separate, 0.0))  # type: ignore[arg-type]


def _divided(images: InMemory, weights: dict[str, float]) -> dict[str, InMemory]:
    parts: dict[str, InMemory] = {}
    total, start = sum(weights.values()), 0
    if weights and len(images) < 2 * len(weights):
        raise ValueError(
            f"expected at least {2 * len(weights)} {images.nouns} to divide into {', '.join(weights)}, got "
            f"{len(images)}; pass more, or separate {images.nouns} for each role as ImageSplit(...)"
        )
    cumulative = 0.0
    for remaining, (role, weight) in zip(range(len(weights), 0, -1), weights.items(), strict=True):
        cumulative += weight
        stop = max(start + 2, min(round(len(images) * cumulative / total), len(images) - 2 * (remaining - 1)))
        parts[role], start = images.subset(slice(start, stop)), stop
    return parts


def check_apart(roles: Mapping[str, InMemory], one: str, others: tuple[str, ...]) -> None:
    """Refuse roles that share images: a choice looks better on the images that it was made on than it is.

    Raises:
        ValueError: the roles share more than one in a hundred images (datasets contain a few duplicates).
    """
    if one not in roles:
        return
    seen, nouns = set(roles[one].digests()), roles[one].nouns
    for other in others:
        if other in roles:
            common = sum(digest in seen for digest in roles[other].digests())
            if common > len(roles[one]) // 100:
                raise ValueError(
                    f"expected {nouns} to {one} to differ from those to {other}, got {common} in common; pass other "
                    f"{nouns} as ImageSplit({one}=...)"
                )
