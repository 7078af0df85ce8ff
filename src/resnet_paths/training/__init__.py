"""Training the networks of the family."""

from .augment import augment
from .recipe import Recipe
from .train import error_rate, train

__all__ = ["Recipe", "augment", "error_rate", "train"]
