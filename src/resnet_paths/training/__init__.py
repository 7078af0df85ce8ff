"""Training the networks of the family."""

from .train import Recipe, augment, error_rate, train

__all__ = ["Recipe", "augment", "error_rate", "train"]
