"""The commands, with the same names as in Python.

No module here imports PyTorch, or anything as slow, before a command runs: help and completion appear at once.
"""

# in the order of the help
from . import unroll, lesion, paths, compare, plan, drop, shrink, landscape, train, report, reproduce  # noqa: F401, I001
from ._app import app as app


def main() -> None:
    """Run the command line."""
    app()
