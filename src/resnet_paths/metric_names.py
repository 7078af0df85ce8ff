"""The names of metrics that options accept, apart from the other words because there are many."""

from typing import Literal

MetricName = Literal[
    "error", "loss", "top5_error", "disagreement", "divergence", "soft_error", "soft_disagreement",
    "next_token_loss", "perplexity", "next_token_error", "pixel_loss", "pixel_error", "iou_error",
    "squared_error", "absolute_error", "multilabel_error", "cosine_distance", "embedding_distance",
]  # fmt: skip
"""Metrics of the outputs for each example (``resnet_paths.data.metrics.METRICS``)."""
