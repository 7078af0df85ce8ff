"""See inside residual networks as ensembles of 2^n paths, and make them cheaper.

Everything is imported on first use (PEP 562): ``import resnet_paths`` does not import PyTorch, and
``resnet_paths.landscape`` imports that package and those that it depends on.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Block",
    "ImageData",
    "UnrolledNetwork",
    "block_contributions",
    "block_values",
    "cifar_resnet",
    "compare",
    "drop_blocks",
    "effective_paths",
    "for_inference",
    "gradient_by_length",
    "lesioned",
    "load_data",
    "load_model",
    "logits_by_length",
    "measure_latency",
    "path_energy",
    "path_lengths",
    "plan_drop",
    "random_deletions",
    "recalibrate_batchnorm",
    "reorder_blocks",
    "sample_path_gradients",
    "single_deletions",
    "unroll",
]

if TYPE_CHECKING:  # read only by type checkers and editors, which cannot follow the function below
    from . import (  # noqa: F401
        arguments,
        callbacks,
        checkpoints,
        cli,
        comparison,
        data,
        graph,
        landscape,
        lesion,
        models,
        network,
        paths,
        plot,
        records,
        report,
        statistics,
        surgery,
        sweep,
        tradeoff,
        training,
    )
    from .comparison import compare
    from .data import ImageData, load_data
    from .lesion import block_values, random_deletions, single_deletions
    from .models import cifar_resnet, load_model
    from .network import Block, UnrolledNetwork, for_inference, unroll
    from .paths import (
        block_contributions,
        effective_paths,
        gradient_by_length,
        logits_by_length,
        path_energy,
        path_lengths,
        sample_path_gradients,
    )
    from .surgery import drop_blocks, lesioned, recalibrate_batchnorm, reorder_blocks
    from .tradeoff import measure_latency, plan_drop
else:
    _PACKAGES = (
        "arguments",
        "callbacks",
        "checkpoints",
        "cli",
        "comparison",
        "data",
        "graph",
        "landscape",
        "lesion",
        "models",
        "network",
        "paths",
        "plot",
        "records",
        "report",
        "statistics",
        "surgery",
        "sweep",
        "tradeoff",
        "training",
    )
    _PUBLIC = {
        "comparison": ("compare",),
        "data": ("ImageData", "load_data"),
        "lesion": ("block_values", "random_deletions", "single_deletions"),
        "models": ("cifar_resnet", "load_model"),
        "network": ("Block", "UnrolledNetwork", "for_inference", "unroll"),
        "paths": (
            "block_contributions",
            "effective_paths",
            "gradient_by_length",
            "logits_by_length",
            "path_energy",
            "path_lengths",
            "sample_path_gradients",
        ),
        "surgery": ("drop_blocks", "lesioned", "recalibrate_batchnorm", "reorder_blocks"),
        "tradeoff": ("measure_latency", "plan_drop"),
    }
    _HOME = {name: package for package, names in _PUBLIC.items() for name in names}

    def __getattr__(name: str) -> Any:
        """A subpackage, or a public name of one, imported on first use."""
        if name in _PACKAGES:
            return import_module(f".{name}", __name__)
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_PACKAGES, *_HOME})
