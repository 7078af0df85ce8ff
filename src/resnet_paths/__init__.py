"""See inside residual networks as ensembles of 2^n paths, and make them cheaper."""

__version__ = "0.1.0"
