"""Every option once: its words, its choices, and its default where all commands share it.

Options that belong together are the fields of a class, which a command takes as one argument; `_app` shows them one by
one. Nothing here imports PyTorch, so that help and completion are there at once.
"""

from __future__ import annotations

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
    """Marks an option as a name that is written to.

    Attributes:
        folder: of a folder, or else of a file.
    """

    folder: bool


def path_option(*names: str, help: str) -> Any:
    """An option that names a file or a folder; an empty name would be this folder to Python."""
    return typer.Option(*names, help=help, parser=_path, metavar="<path>")


def _path(text: str | Path) -> Path:
    if not str(text).strip():
        raise typer.BadParameter(f"expected a name, got {str(text)!r}; leave the option out for the default")
    return Path(text)


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="embedded, cifar-resnet56, resnet50 (torchvision), timm:NAME, hf:CLASS, a checkpoint file, NAME@FILE, "
        "package.module:function or file.py:function.",
    ),
]
Limit = Annotated[int | None, typer.Option(help="Use at most this many images.")]
BatchSize = Annotated[int, typer.Option(help="Images at a time.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed of everything drawn at random.")]
Out = Annotated[Path, path_option("--out", "-o", help="Folder for pictures and tables."), Place(folder=True)]
Json = Annotated[bool, typer.Option("--json", help="Print the numbers as JSON and nothing else.")]
Twin = Annotated[str | None, typer.Option(help="A second model to compare with, in the forms of --model.")]
Repair = Annotated[
    Literal["refit", "recalibrate", "none"],
    typer.Option(
        help="refit: fit the last layers of the kept blocks again by least squares; recalibrate: measure batch-norm "
        "statistics again; none."
    ),
]


@dataclass(frozen=True)
class Subject:
    """Which model, on which images."""

    model: Model = "embedded"
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="digits, cifar10[:FOLDER], a folder of class folders (also in train, val, test), a .zip of such, a "
            ".npz, package.module:function or file.py:function.",
        ),
    ] = "digits"
    size: Annotated[
        int | None,
        typer.Option(
            help="Resize images of folders and zip files to this (default: the model's own, where they differ)."
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            help="Mean of each channel, such as 0.5,0.5,0.5 (default: as the model says, or else ImageNet's)."
        ),
    ] = None
    std: Annotated[str | None, typer.Option(help="Standard deviation of each channel; likewise.")] = None
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu"


@dataclass(frozen=True)
class Trained(Subject):
    """Which model to train, on which images."""

    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="cifar-resnetDEPTH with the options below; or resnet50 (torchvision), timm:NAME, hf:CLASS, "
            "package.module:function, file.py:function; or weights to go on from: embedded, a checkpoint file, "
            "NAME@FILE.",
        ),
    ] = "cifar-resnet20"


@dataclass(frozen=True)
class Family:
    """A network of the CIFAR family, as `resnet_paths.cifar_resnet` builds it."""

    residual: Annotated[bool, typer.Option("--residual/--plain", help="With shortcuts, or the plain twin.")] = True
    preactivation: Annotated[bool, typer.Option(help="Norm and activation before each convolution.")] = False
    shortcut: Annotated[Shortcut, typer.Option(help="A (zeros), B, C (projections) or D (pooled projections).")] = "A"
    block: Annotated[BlockKind, typer.Option(help="Kind of block.")] = "basic"
    widths: Annotated[str, typer.Option(help="Channels of each stage, joined by commas.")] = "16,32,64"
    stem: Annotated[Stem, typer.Option(help="First convolution; deep: three of 3x3.")] = "3x3"
    zero_init_residual: Annotated[bool, typer.Option(help="Branches start at zero.")] = False
    groups: Annotated[int, typer.Option(help="Groups of the 3x3 convolution in bottlenecks (ResNeXt).")] = 1
    group_width: Annotated[int | None, typer.Option(help="Channels of a group in the first stage.")] = None
    keep_last: Annotated[float, typer.Option(help="Stochastic depth: survival of the last branch; 1 is none.")] = 1.0


@dataclass(frozen=True)
class Training:
    """How it is trained: the fields of `resnet_paths.training.Recipe`."""

    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 100
    batch_size: Annotated[int, typer.Option(help="Images in one step.")] = 128
    learning_rate: Annotated[float, typer.Option(help="The highest rate.")] = 0.1
    momentum: Annotated[float, typer.Option(help="Momentum of SGD.")] = 0.9
    nesterov: Annotated[bool, typer.Option(help="Nesterov's momentum.")] = True
    weight_decay: Annotated[float, typer.Option(help="Weight decay of SGD.")] = 1e-4
    decay_vectors: Annotated[bool, typer.Option(help="Decay biases and norms too.")] = True
    warmup: Annotated[float, typer.Option(help="Epochs over which the rate rises from 0.")] = 1.0
    schedule: Annotated[Schedule, typer.Option(help="How the rate falls; step: to a tenth at 1/2 and 3/4.")] = "cosine"
    label_smoothing: Annotated[float, typer.Option(help="Share of the target spread over all classes.")] = 0.0
    mixup: Annotated[float, typer.Option(help="Alpha of mixup; 0 is none.")] = 0.0
    shift: Annotated[
        int | None, typer.Option(help="Move images by up to this many pixels (default: an eighth of the side).")
    ] = None
    flip: Annotated[bool | None, typer.Option(help="Mirror images (default: not for digits).")] = None
    precision: Annotated[Precision, typer.Option(help="Type of the computation; 16 bits by autocast.")] = "float32"
    seed: Annotated[int, typer.Option(help="Seed of initial values, order and augmentation.")] = 0


@dataclass(frozen=True)
class Axes:
    """Along what a surface is drawn, and where."""

    to: Annotated[
        str | None, typer.Option(help="A checkpoint of the same model: the line from --model (0) to it (1).")
    ] = None
    gates: Annotated[
        str | None, typer.Option(help="Blocks for the axes: 'layer1.0' or '3' for a line, '3,layer2.1' for two.")
    ] = None
    line: Annotated[bool, typer.Option("--line", help="One direction instead of two.")] = False
    points: Annotated[int, typer.Option(help="Coordinates an axis.", min=1, max=10_000)] = 21
    span: Annotated[
        str | None, typer.Option("--range", help="Coordinates of x and y, LOW:HIGH (default -1:1; for gates 0:1).")
    ] = None
    y_span: Annotated[
        str | None, typer.Option("--y-range", help="Coordinates of y, where they differ from those of x.")
    ] = None
    normalise: Annotated[
        Normalise,
        typer.Option(help="Directions get the norm of each filter, of each layer, of the whole model, or none."),
    ] = "filter"
    seed: Annotated[int, typer.Option(help="Seed of the random directions.")] = 0

    @property
    def flat(self) -> bool:
        """Whether there is one axis."""
        return self.line or self.to is not None or (self.gates is not None and "," not in self.gates)


@dataclass(frozen=True)
class Cells:
    """How each cell of a surface is computed: the fields of `resnet_paths.landscape.CellSettings`, and on what."""

    batchnorm: Annotated[NormStatistics, typer.Option(help="Statistics of batch norms.")] = "frozen"
    batch_size: Annotated[int | None, typer.Option(help="Images at a time (default: what suits the cache).", min=1)] = (
        None
    )
    dtype: Annotated[
        Literal["bfloat16", "float32", "float64"] | None,
        typer.Option(help="Compute in this type instead of the model's own."),
    ] = None
    journal: Annotated[
        Path | None,
        path_option("--journal", help="Keep finished cells here; the same command goes on from them."),
        Place(folder=False),
    ] = None
    workers: Annotated[int, typer.Option(help="Processes (default: this one).", min=0)] = 0


@dataclass(frozen=True)
class Planning:
    """A goal, how blocks are searched for it, how the network is repaired after, and how latency is measured."""

    latency: Annotated[float | None, typer.Option(help="Share of the full network's time to reach, such as 0.8.")] = (
        None
    )
    accuracy_drop: Annotated[float | None, typer.Option(help="Fall of accuracy allowed, such as 0.01.")] = None
    disagreement: Annotated[float | None, typer.Option(help="Share of answers that may change; needs no labels.")] = (
        None
    )
    count: Annotated[int | None, typer.Option(help="Number of blocks to drop.")] = None
    confidence: Annotated[float, typer.Option(help="With which the goal is shown to be reached.")] = 0.95
    search: Annotated[
        Literal["greedy", "beam", "exact"],
        typer.Option(help="How sets are searched; exact tries all, of at most 16 blocks."),
    ] = "greedy"
    metric: Annotated[
        MetricName | None,
        typer.Option(help="What the search minimises (default: soft_error; without labels soft_disagreement)."),
    ] = None
    max_blocks: Annotated[int | None, typer.Option(help="Drop at most this many blocks.")] = None
    repair: Repair = "refit"
    finetune_epochs: Annotated[
        int, typer.Option(help="Fine-tune the chosen network for this many epochs, the full one as teacher.", min=0)
    ] = 0
    finetune_rate: Annotated[float | None, typer.Option(help="Learning rate of fine-tuning.", show_default="0.01")] = (
        None
    )
    finetune_limit: Annotated[
        int | None, typer.Option(help="Fine-tune on at most this many training images (default: all).")
    ] = None
    runtime: Annotated[
        Runtime,
        typer.Option(help="In which latency is measured; onnx is ONNX Runtime."),
    ] = "eager"
    latency_batch: Annotated[int, typer.Option(help="Images in the input on which latency is measured.", min=1)] = 32
    latency_seconds: Annotated[float, typer.Option(help="How long each network is timed, at least.")] = 0.5
    threads: Annotated[int | None, typer.Option(help="CPU threads for that (default: as torch is set).", min=1)] = None
    limit: Limit = 1000
    batch_size: BatchSize = 100
    seed: Seed = 0

    def __post_init__(self) -> None:
        """Refuse what would be passed over."""
        given = {"--finetune-rate": self.finetune_rate, "--finetune-limit": self.finetune_limit}
        if not self.finetune_epochs and (named := [name for name, value in given.items() if value is not None]):
            raise ValueError(
                f"expected --finetune-epochs beside {' and '.join(named)}, got none, and so no fine-tuning; give both"
            )
