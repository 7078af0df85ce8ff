"""Every option, defined once: help text, choices, and the default if all commands share it.

Related options are the fields of a class, which a command takes as one argument; `_app` shows them one by one.
Nothing here imports PyTorch, so that help and completion are immediate.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..choices import (
    BlockKind,
    MetricName,
    Normalise,
    NormStatistics,
    Precision,
    Runtime,
    Schedule,
    Shortcut,
    Stem,
)


@dataclass(frozen=True)
class Place:
    """Marks an option as an output path.

    Attributes:
        folder: whether it is a folder rather than a file.
    """

    folder: bool


def path_option(*names: str, help: str) -> Any:
    """An option that names a file or a folder; to Python, an empty name would be the working directory."""
    return typer.Option(*names, help=help, parser=_path, metavar="<path>")


def _path(text: str | Path) -> Path:
    if not str(text).strip():
        raise typer.BadParameter(f"expected a name, got {str(text)!r}; leave the option out for the default")
    return Path(os.path.expanduser(text))  # a shell leaves the ~ of --out=~/results as it is


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="embedded, cifar-resnet56, resnet50 (torchvision), timm:NAME, hf:CLASS, a checkpoint file, NAME@FILE, "
        "package.module:function or file.py:function.",
    ),
]
Limit = Annotated[int | None, typer.Option(help="Maximum number of images to use.")]
BatchSize = Annotated[int, typer.Option(help="Batch size.", min=1)]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Out = Annotated[Path, path_option("--out", "-o", help="Folder for plots and tables."), Place(folder=True)]
Json = Annotated[bool, typer.Option("--json", help="Print only the numbers, as JSON.")]
Repair = Annotated[
    Literal["refit", "recalibrate", "none"],
    typer.Option(
        help="refit: fit the last layers of the kept blocks by least squares; recalibrate: estimate batch-norm "
        "statistics again; none."
    ),
]


@dataclass(frozen=True)
class Subject:
    """The model and the images."""

    model: Model = "embedded"
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="digits, cifar10[:FOLDER], a folder with one subfolder per class (optionally in train, val, test), "
            "a .zip of such, a .npz, package.module:function or file.py:function.",
        ),
    ] = "digits"
    size: Annotated[
        int | None,
        typer.Option(
            help="Resize images of folders and zip files to this size (default: the model's own size, if sizes differ)."
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            help="Mean of each channel, such as 0.5,0.5,0.5 (default: the model's own, otherwise ImageNet's)."
        ),
    ] = None
    std: Annotated[str | None, typer.Option(help="Standard deviation of each channel, in the same form.")] = None
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu"


@dataclass(frozen=True)
class Trained(Subject):
    """The model to train, and the images."""

    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="cifar-resnetDEPTH with the options below; resnet50 (torchvision), timm:NAME, hf:CLASS, "
            "package.module:function, file.py:function; or weights to start from: embedded, a checkpoint file, "
            "NAME@FILE.",
        ),
    ] = "cifar-resnet20"


@dataclass(frozen=True)
class Family:
    """A network of the CIFAR family, as `resnet_paths.cifar_resnet` builds it."""

    residual: Annotated[bool, typer.Option("--residual/--plain", help="Train with shortcuts, or the plain twin.")] = (
        True
    )
    preactivation: Annotated[bool, typer.Option(help="Norm and activation before each convolution.")] = False
    shortcut: Annotated[Shortcut, typer.Option(help="A (zeros), B, C (projections) or D (pooled projections).")] = "A"
    block: Annotated[BlockKind, typer.Option(help="Type of block.")] = "basic"
    widths: Annotated[str, typer.Option(help="Comma-separated channels of each stage.")] = "16,32,64"
    stem: Annotated[Stem, typer.Option(help="Type of the stem; deep: three 3x3 convolutions.")] = "3x3"
    zero_init_residual: Annotated[bool, typer.Option(help="Initialise branches to zero.")] = False
    groups: Annotated[int, typer.Option(help="Groups of the 3x3 convolution in bottlenecks (ResNeXt).")] = 1
    group_width: Annotated[int | None, typer.Option(help="Channels per group in the first stage.")] = None
    keep_last: Annotated[
        float, typer.Option(help="Stochastic depth: survival probability of the last branch; 1 turns it off.")
    ] = 1.0


@dataclass(frozen=True)
class Training:
    """The training recipe: the fields of `resnet_paths.training.Recipe`."""

    epochs: Annotated[int, typer.Option(help="Number of epochs.")] = 100
    batch_size: Annotated[int, typer.Option(help="Batch size.")] = 128
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 0.1
    momentum: Annotated[float, typer.Option(help="SGD momentum.")] = 0.9
    nesterov: Annotated[bool, typer.Option(help="Use Nesterov momentum.")] = True
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = 1e-4
    decay_vectors: Annotated[bool, typer.Option(help="Also decay biases and norms.")] = True
    warmup: Annotated[float, typer.Option(help="Number of warm-up epochs.")] = 1.0
    schedule: Annotated[Schedule, typer.Option(help="Learning-rate schedule; step: divide by 10 at 1/2 and 3/4.")] = (
        "cosine"
    )
    label_smoothing: Annotated[float, typer.Option(help="Label smoothing.")] = 0.0
    mixup: Annotated[float, typer.Option(help="Mixup alpha; 0 turns it off.")] = 0.0
    shift: Annotated[
        int | None, typer.Option(help="Maximum random shift, in pixels (default: an eighth of the side).")
    ] = None
    flip: Annotated[bool | None, typer.Option(help="Random horizontal flips (default: not for digits).")] = None
    precision: Annotated[Precision, typer.Option(help="Numeric precision; 16 bits by autocast.")] = "float32"
    seed: Annotated[int, typer.Option(help="Seed of initialisation, order and augmentation.")] = 0


@dataclass(frozen=True)
class Axes:
    """The axes of a surface, and its grid."""

    to: Annotated[
        str | None, typer.Option(help="A checkpoint of the same model; the line runs from --model (0) to it (1).")
    ] = None
    gates: Annotated[
        str | None, typer.Option(help="Blocks for the axes: 'layer1.0' or '3' for a line, '3,layer2.1' for two.")
    ] = None
    line: Annotated[bool, typer.Option("--line", help="One direction instead of two.")] = False
    points: Annotated[int, typer.Option(help="Grid points per axis.", min=1, max=10_000)] = 21
    span: Annotated[
        str | None, typer.Option("--range", help="Range of x and y, LOW:HIGH (default -1:1; for gates 0:1).")
    ] = None
    y_span: Annotated[str | None, typer.Option("--y-range", help="Range of y, if it differs from that of x.")] = None
    normalise: Annotated[
        Normalise,
        typer.Option(help="Normalise directions per filter, per layer, over the full model, or not at all."),
    ] = "filter"
    seed: Annotated[int, typer.Option(help="Seed of the random directions.")] = 0

    @property
    def flat(self) -> bool:
        """Whether the surface is a line (one axis)."""
        return self.line or self.to is not None or (self.gates is not None and "," not in self.gates)


@dataclass(frozen=True)
class Cells:
    """What is measured at each cell and how: `resnet_paths.landscape.CellOptions` and the fields of `CellSettings`."""

    loss: Annotated[
        MetricName | None, typer.Option(help="What is plotted (default: the loss that fits the targets).")
    ] = None
    batchnorm: Annotated[NormStatistics, typer.Option(help="Batch-norm statistics.")] = "frozen"
    batch_size: Annotated[int | None, typer.Option(help="Batch size (default: fits the cache).", min=1)] = None
    dtype: Annotated[
        Literal["bfloat16", "float32", "float64"] | None,
        typer.Option(help="Compute in this dtype instead of the model's own."),
    ] = None
    journal: Annotated[
        Path | None,
        path_option("--journal", help="Save finished cells here; the same command resumes from them."),
        Place(folder=False),
    ] = None
    workers: Annotated[int, typer.Option(help="Number of processes (default: this one).", min=0)] = 0


@dataclass(frozen=True)
class Planning:
    """A goal, the search for it, the repair after it, and how latency is measured."""

    latency: Annotated[
        float | None, typer.Option(help="Target latency, as a share of the full network's, such as 0.8.")
    ] = None
    accuracy_drop: Annotated[float | None, typer.Option(help="Allowed fall in accuracy, as a share, such as 0.01.")] = (
        None
    )
    disagreement: Annotated[float | None, typer.Option(help="Allowed share of changed answers; needs no labels.")] = (
        None
    )
    rise: Annotated[
        float | None,
        typer.Option(help="Allowed rise of --metric, for data of any form, such as 0.5 of perplexity."),
    ] = None
    count: Annotated[int | None, typer.Option(help="Number of blocks to drop.")] = None
    confidence: Annotated[float, typer.Option(help="Confidence with which the goal must be met.")] = 0.95
    search: Annotated[
        Literal["greedy", "beam", "exact"],
        typer.Option(help="Search strategy; exact tries all sets, for at most 16 blocks."),
    ] = "greedy"
    metric: Annotated[
        MetricName | None,
        typer.Option(
            help="What the search minimises (default: soft_error; without labels soft_disagreement; for other data, "
            "what fits the targets); with --rise, what may rise."
        ),
    ] = None
    max_blocks: Annotated[int | None, typer.Option(help="Maximum number of blocks to drop.")] = None
    repair: Repair = "refit"
    finetune_epochs: Annotated[
        int, typer.Option(help="Epochs of fine-tuning, with the full network as teacher.", min=0)
    ] = 0
    finetune_rate: Annotated[float | None, typer.Option(help="Learning rate for fine-tuning.", show_default="0.01")] = (
        None
    )
    finetune_limit: Annotated[
        int | None, typer.Option(help="Maximum number of training images for fine-tuning (default: all).")
    ] = None
    runtime: Annotated[
        Runtime,
        typer.Option(help="Runtime in which latency is measured; onnx is ONNX Runtime."),
    ] = "eager"
    latency_batch: Annotated[int, typer.Option(help="Batch size for measuring latency.", min=1)] = 32
    latency_seconds: Annotated[float, typer.Option(help="Minimum time to measure each network, in seconds.")] = 0.5
    threads: Annotated[
        int | None, typer.Option(help="CPU threads for measuring latency (default: PyTorch's setting).", min=1)
    ] = None
    limit: Limit = 1000
    batch_size: BatchSize = 100
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Refuse options that would be ignored."""
        given = {"--finetune-rate": self.finetune_rate, "--finetune-limit": self.finetune_limit}
        if not self.finetune_epochs and (named := [name for name, value in given.items() if value is not None]):
            raise ValueError(
                f"expected --finetune-epochs beside {' and '.join(named)}, got none; pass both, or leave out both"
            )
