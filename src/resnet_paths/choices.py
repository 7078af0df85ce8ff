"""The words that options accept, defined once for functions and commands.

Without any import of PyTorch, because the command line reads them to build its parser.
"""

from typing import Literal

Split = Literal["train", "val", "test"]
"""Part of a data set."""

Shortcut = Literal["A", "B", "C", "D"]
"""Shortcuts where the shape changes: zeros, projections, projections everywhere, pooled projections."""
BlockKind = Literal["basic", "bottleneck"]
"""Blocks of two 3x3 convolutions, or of a 1x1, a 3x3 and a 1x1 convolution."""
Stem = Literal["3x3", "7x7", "deep"]
"""First layers: one 3x3 convolution (CIFAR), one 7x7 (ImageNet), or three 3x3."""

Schedule = Literal["cosine", "step"]
"""How the learning rate decreases."""
Precision = Literal["float32", "bfloat16", "float16"]
"""Number format of a training step."""
Keep = Literal["last", "all"]
"""Which checkpoints of a training run are kept."""

Normalise = Literal["filter", "layer", "model", "none"]
"""Which parts of a random direction are scaled to the norm of the weights."""
NormStatistics = Literal["frozen", "recalibrated", "batch"]
"""Batch norm statistics at a cell of a loss surface."""

Runtime = Literal["eager", "compile", "export", "onnx", "openvino"]
"""Runtimes in which latency can be measured."""

MetricName = Literal[
    "error", "loss", "top5_error", "disagreement", "divergence", "soft_error", "soft_disagreement",
    "next_token_loss", "perplexity", "next_token_error", "pixel_loss", "pixel_error", "iou_error",
    "squared_error", "absolute_error", "multilabel_error", "multilabel_loss", "cosine_distance",
    "embedding_distance",
]  # fmt: skip
"""Metrics of the outputs for each example (``resnet_paths.data.metrics.METRICS``)."""

Linearisation = Literal["frozen", "tangent"]
"""Linear maps in place of curved operations: the map that reproduces the value, or the derivative."""

Attribution = Literal["integrated_gradients", "ablation", "shapley"]
"""Captum methods that attribute outputs to blocks."""

ComparedPart = Literal["contributions", "effective", "recommended", "shapley", "surface", "curvature", "latency"]
"""What a comparison of models measures beyond its metric, blocks, deletions and gradients."""
