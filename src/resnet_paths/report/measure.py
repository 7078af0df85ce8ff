"""How a page refers to a metric: its name in prose, and its values in percent where they are shares of answers."""

from __future__ import annotations

from dataclasses import dataclass

from ..data import ExampleMetric
from ..data.metrics import METRICS, Metric, metric_named
from ..nouns import plural
from .words import number, percent, points, signed

_WORDS = {
    "error": "error",
    "loss": "loss",
    "top5_error": "top-5 error",
    "soft_error": "probability of a wrong answer",
    "disagreement": "disagreement with the full network",
    "divergence": "divergence from the full network",
    "soft_disagreement": "total variation from the full network's prediction",
    "next_token_loss": "loss per token",
    "perplexity": "perplexity",
    "next_token_error": "share of wrong tokens",
    "pixel_loss": "loss per {position}",
    "pixel_error": "share of wrong {position}s",
    "iou_error": "IoU error",
    "squared_error": "mean squared error",
    "absolute_error": "mean absolute error",
    "multilabel_error": "share of wrong labels",
    "multilabel_loss": "loss per label",
    "cosine_distance": "cosine distance from the full network",
    "embedding_distance": "relative distance from the full network",
}
_MEANING = {
    "error": "Share of {nouns} that are classified wrongly.",
    "loss": "The cross-entropy of the softmax of the outputs with the true class, in nats.",
    "top5_error": "Share of {nouns} whose class is not among the five largest outputs.",
    "soft_error": "One minus the probability that the model gives to the true class.",
    "disagreement": "Share of answers that differ from the full network's.",
    "divergence": "The Kullback-Leibler divergence of the predicted distribution from the full network's, in nats.",
    "soft_disagreement": "Half of the summed absolute differences of the predicted probabilities from the full "
    "network's.",
    "next_token_loss": "The cross-entropy of the prediction with the next token, in nats, on average over all tokens.",
    "perplexity": "The exponential of the mean cross-entropy of the prediction with the next token.",
    "next_token_error": "Share of tokens other than the one predicted as most probable from the tokens before.",
    "pixel_loss": "The cross-entropy of the prediction with the class of each {position}, in nats.",
    "pixel_error": "Share of {position}s that are classified wrongly.",
    "iou_error": "One minus the mean, over the classes, of intersection over union of predicted and true {position}s.",
    "squared_error": "The squared difference of output and target, on average over all numbers.",
    "absolute_error": "The absolute difference of output and target, on average over all numbers.",
    "multilabel_error": "Share of labels that the sign of the output gets wrong.",
    "multilabel_loss": "The binary cross-entropy of the output with each label, in nats.",
    "cosine_distance": "One minus the cosine of the angle between the output and the full network's.",
    "embedding_distance": "The length of the difference of the output from the full network's, relative to that.",
}
_POSITIONS = {"image": "pixel", "series": "step", "volume": "voxel", "sequence": "token"}


@dataclass(frozen=True)
class Measure:
    """A metric in words.

    Attributes:
        name: the metric's name, as columns of tables have it.
        words: its name in prose.
        meaning: a sentence for the glossary.
        share: whether it is a share of some answers, which is written in percent.
        is_own: whether it is a function of the user's.
    """

    name: str
    words: str
    meaning: str
    share: bool
    is_own: bool = False

    @classmethod
    def of(cls, metric: str | Metric, noun: str = "image") -> Measure:
        """The words for a metric.

        Args:
            metric: a name or a function, see :func:`resnet_paths.lesion.metric_named`.
            noun: what one example is called.

        Example:
            >>> Measure.of("pixel_error", "series").words, Measure.of("perplexity", "sequence").share
            ('share of wrong steps', False)
        """
        name, function = metric_named(metric)
        share = isinstance(function, ExampleMetric) and function.share
        if METRICS.get(name) is not function:
            return cls(name, name.replace("_", " "), "Your own metric; lower is better.", share, True)
        spoken = {"position": _POSITIONS.get(noun, "position"), "nouns": plural(noun)}
        words, meaning = (text[name].format(**spoken) for text in (_WORDS, _MEANING))
        return cls(name, words, meaning, share)

    @property
    def title(self) -> str:
        """The words at the beginning of a title or a sentence."""
        return self.words[:1].upper() + self.words[1:]

    def value(self, value: float) -> str:
        """A value.

        Example:
            >>> Measure.of("error").value(0.25), Measure.of("perplexity").value(12.345)
            ('25 %', '12.3')
        """
        return percent(value) if self.share else number(value)

    def change(self, difference: float) -> str:
        """A difference of two values, with its sign.

        Example:
            >>> Measure.of("error").change(0.25), Measure.of("perplexity").change(12.345)
            ('+25.0 points', '+12.3')
        """
        return points(difference) if self.share else signed(difference)

    def amount(self, difference: float) -> str:
        """A difference of two values, without a plus sign."""
        return self.change(difference).removeprefix("+")
