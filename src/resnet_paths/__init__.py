"""See inside residual networks as ensembles of 2^n paths, and make them cheaper."""

from .unroll import UnrolledNetwork, unroll

__all__ = ["UnrolledNetwork", "unroll"]

__version__ = "0.1.0"
