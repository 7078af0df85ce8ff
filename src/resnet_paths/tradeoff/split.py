"""Which images search, repair, judge and certify: each role has its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..arguments import checked
from ..arguments.ranges import COUNT
from ..data import ImageData, ImageSource, as_data
from ..data.classes import numbered_alike

ROLES = ("search", "repair", "judge", "certify")


@checked(finalists=COUNT)
@dataclass(frozen=True, eq=False)
class ImageSplit:
    """How the images of a plan are divided: parts by weight of those given, or images of their own.

    Attributes:
        search: on which sets of blocks are compared.
        repair: on which dropped networks are repaired; none where the repair needs none.
        judge: on which of each size the best sets of the search are compared again, as the best of hundreds of sets on
            few images looks better there than it is; none by default.
        certify: which decide nothing before the end; accuracies, falls and their bounds are of these.
        finalists: sets of each size that are judged.
        batch_size: images per batch; also those of which batch norms take statistics where the plan recalibrates.
        seed: of the division and of the order of images.

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
        """Refuse weights that are none."""
        for role in ROLES:
            weight = getattr(self, role)
            if isinstance(weight, int | float) and not 0 <= weight < math.inf:
                raise ValueError(f"expected {role} as images or a weight of at least 0, got {weight}")

    def roles(
        self, images: ImageSource, repairs: bool = True, needed: tuple[str, ...] = ("search", "certify")
    ) -> dict[str, ImageData]:
        """The images of each role that has any.

        Args:
            images: those to divide.
            repairs: whether any are needed for repair.
            needed: roles that must have some.

        Raises:
            ValueError: too few images, or none for a role that needs some.
        """
        given = {role: getattr(self, role) for role in ROLES}
        own = {
            role: as_data(value, labelled=False) for role, value in given.items() if not isinstance(value, int | float)
        }
        weights = {role: float(value) for role, value in given.items() if role not in own and value}
        if not repairs:
            own.pop("repair", None)
            weights.pop("repair", None)
        parts = {**own, **_divided(as_data(images, labelled=False).shuffled(self.seed), weights)}
        missing = set(needed) - set(parts)
        if missing:
            raise ValueError(f"expected images to {' and to '.join(sorted(missing))}, got a weight of 0; give some")
        if not parts:
            return {}
        kept = [role for role in ROLES if role in parts]
        alike = numbered_alike(*(parts[role] for role in kept))
        return dict(zip(kept, alike, strict=True))

    @property
    def weights(self) -> ImageSplit:
        """The same with a weight of 0 for images of their own: what can be written down."""
        own = [role for role in ROLES if not isinstance(getattr(self, role), int | float)]
        return replace(self, **dict.fromkeys(own, 0.0))  # type: ignore[arg-type]


def _divided(images: ImageData, weights: dict[str, float]) -> dict[str, ImageData]:
    total, parts, start = sum(weights.values()), {}, 0
    if weights and len(images) < 2 * len(weights):
        raise ValueError(
            f"expected at least {2 * len(weights)} images to divide into {', '.join(weights)}, got {len(images)}; give "
            "more, or images for each as ImageSplit(...)"
        )
    reached = 0.0
    for left, (role, weight) in zip(range(len(weights), 0, -1), weights.items(), strict=True):
        reached += weight
        stop = max(start + 2, min(round(len(images) * reached / total), len(images) - 2 * (left - 1)))
        parts[role], start = images.subset(slice(start, stop)), stop
    return parts


def check_apart(roles: dict[str, ImageData], one: str, others: tuple[str, ...]) -> None:
    """Refuse roles that share images: what chose among many looks better on its own images than it is.

    Raises:
        ValueError: more than one in a hundred in common (data sets hold a few images twice).
    """
    if one not in roles:
        return
    seen = set(_digests(roles[one]))
    for other in others:
        if other in roles:
            common = sum(digest in seen for digest in _digests(roles[other]))
            if common > len(roles[one]) // 100:
                raise ValueError(
                    f"expected images to {one} apart from those to {other}, got {common} in common; give other images "
                    f"as ImageSplit({one}=...)"
                )


def _digests(data: ImageData) -> Iterator[bytes]:
    """16 bytes that stand for each image."""
    for image in data.images.cpu():
        yield hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()
