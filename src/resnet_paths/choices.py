"""The words that options take, once for functions and commands; the latter read them without importing PyTorch."""

from typing import Literal

Split = Literal["train", "val", "test"]
"""Part of a data set."""

Shortcut = Literal["A", "B", "C", "D"]
"""Shortcuts where the shape changes: zeros, projections, projections everywhere, pooled projections."""
BlockKind = Literal["basic", "bottleneck"]
Stem = Literal["3x3", "7x7", "deep"]

Schedule = Literal["cosine", "step"]
"""How the learning rate falls."""
Precision = Literal["float32", "bfloat16", "float16"]
Keep = Literal["last", "all"]
"""Which checkpoints a training leaves."""

Normalise = Literal["filter", "layer", "model", "none"]
"""What of a random direction gets the norm of the weights."""
NormStatistics = Literal["frozen", "recalibrated", "batch"]
"""Statistics of batch norms at a cell of a loss surface."""

Runtime = Literal["eager", "compile", "export", "onnx", "openvino"]
"""In which latency is measured."""

Budget = Literal["quick", "full"]

MetricName = Literal["error", "loss", "top5_error", "disagreement", "divergence", "soft_error", "soft_disagreement"]
"""What is measured of each image's logits (``resnet_paths.lesion.METRICS``)."""

Attribution = Literal["integrated_gradients", "ablation", "shapley"]
"""How much a report measures."""
