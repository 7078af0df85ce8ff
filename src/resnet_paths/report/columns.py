"""Descriptions of the columns of the page's tables, shown on hover over a header.

The files that the page offers have
the same headers, which are names for programs; these are the descriptions for people. A name that means different
things in two tables is defined per table.
"""

from __future__ import annotations

from ..nouns import plural
from .measure import Measure

_MEANINGS = {
    "accuracy": "share of {nouns} that are classified correctly",
    "accuracy_high": "upper end of the 95 % interval of the accuracy",
    "accuracy_low": "lower end of the 95 % interval of the accuracy",
    "block": "index of the block, from the input on, counted from 0",
    "branch_parameters": "number of parameters in the branch, which are removed when the block is dropped",
    "deleted": "number of deleted blocks",
    "draw": "number of the random set among those of its size",
    "dropped": "numbers of the deleted blocks",
    "error": "share of {nouns} that are classified wrongly",
    "high": "upper end of the 95 % interval",
    "length": "number of branches on the path",
    "loss": "mean cross-entropy, in nats",
    "low": "lower end of the 95 % interval",
    "macs": "multiply-adds of a forward pass of one {noun}",
    "median": "median over the draws",
    "name": "name of the block in the model",
    "ninetieth": "ninetieth percentile over the draws",
    "parameters": "number of parameters",
    "shortcut": "kind of the shortcut",
    "standard_error": "standard error over {nouns}",
    "swaps": "number of random swaps of two blocks of equal shape",
    "tau": "Kendall's rank correlation of the order with the original one",
    "tenth": "tenth percentile over the draws",
    # per table, in the order of the page: names that mean something else there, or occur only there
    "classes.class": "number of the class",
    "classes.examples": "number of {nouns} of the class",
    "classes.images": "number of {nouns} of the class",
    "whole.constant_answer": "the same for the best answer that does not look at the {nouns}; empty if it is not known",
    "whole.examples": "number of {nouns}",
    "blocks.droppable": "whether the block can be dropped without reshaping anything",
    "blocks.input_shape": "shape of the block's input, for one {noun}",
    "blocks.post": "what follows the sum of shortcut and branch",
    "lesion.damage": "rise of the {metric} when the block is deleted",
    "lesion.damage_high": "upper end of the 95 % interval of the damage",
    "lesion.damage_low": "lower end of the 95 % interval of the damage",
    "lesion.error": "{metric} with the block deleted",
    "lesion.newly_right": "{nouns} that are right only with the block deleted",
    "lesion.newly_wrong": "{nouns} that are wrong only with the block deleted",
    "lesion.p_value": "of the test that the damage is zero",
    "lesion.significant": "whether the damage differs from zero, corrected for the number of blocks",
    "lengths.count": "number of paths of this length",
    "lengths.log_probability": "natural logarithm of the share of all paths that have this length",
    "lengths.probability": "share of all paths that have this length",
    "gradient_by_length.cosine": "cosine between the gradient through paths of this length and the full gradient",
    "gradient_by_length.example": "number of the {noun}",
    "gradient_by_length.norms": "norm of the gradient through all paths of this length",
    "gradient_by_length.share": "projection of the gradient through these paths on the full gradient, as a share of it",
    "gradient_shares.median_norm": "median over {nouns} of the norm of the gradient through paths of this length",
    "gradient_shares.share": "mean over {nouns} of the share of the full gradient",
    "gradient_shares.share_up_to": "running sum of the shares",
    "effective_paths.count_share": "share of all paths that have this length",
    "effective_paths.norm": "gradient norm of one path of this length, averaged over {nouns}",
    "effective_paths.share": "share of this length in the gradients of all paths: their number times the norm of one",
    "effective_paths.standard_error": "standard error of the norm",
    "reordering_by_swaps.high": "upper end of the 95 % interval of the median",
    "reordering_by_swaps.low": "lower end of the 95 % interval of the median",
    "contributions.mean": "what the source adds directly, averaged over {nouns}",
    "contributions.source": "what adds to the outputs: stem, bias, a block, or a remainder",
    "lens.after": "the last block that is run before the head",
    "logit_lens.accuracy": "accuracy of the head at the stream after this block",
    "logit_lens.after": "the last block that is run before the head",
    "logit_lens.probability": "probability of the true class, averaged over {nouns}",
    "block_values.leave_one_out": "rise of the {game} when this block alone is deleted",
    "block_values.value": "Shapley value: how much the block lowers the {game}, averaged over all orders",
    "interactions.interaction": "how much more the two help together than each by itself; negative: they overlap",
    "interactions.one": "a block",
    "interactions.other": "another block",
    "frontier.accuracy": "accuracy with the repair, on held-out {nouns}",
    "frontier.accuracy_interval": "95 % interval of the accuracy",
    "frontier.chosen": "whether this set is recommended",
    "frontier.count": "number of dropped blocks",
    "frontier.disagreement": "share of {nouns} that the full network answers differently",
    "frontier.disagreement_at_most": "upper bound of the disagreement, with 95 % confidence",
    "frontier.estimated": "share of the time estimated from the times of single blocks",
    "frontier.fall": "fall in accuracy from the full network",
    "frontier.fall_at_most": "upper bound of the fall, with 95 % confidence",
    "frontier.latency": "seconds of a forward pass",
    "frontier.loss": "what the search minimised, on its own {nouns}",
    "frontier.metric": "name of the metric whose rise is bounded, if there is one",
    "frontier.names": "names of the dropped blocks",
    "frontier.plain": "accuracy without the repair",
    "frontier.plain_interval": "95 % interval of the metric without the repair",
    "frontier.plain_value": "value of the metric without the repair",
    "frontier.reason": "why this repair was used",
    "frontier.repair": "what was done to the remaining network",
    "frontier.rise": "rise of the metric from the full network",
    "frontier.rise_at_most": "upper bound of the rise, with 95 % confidence",
    "frontier.share": "share of the full network's time",
    "frontier.share_interval": "95 % interval of the share of the time",
    "frontier.value": "value of the metric",
    "frontier.value_interval": "95 % interval of the value",
    "curvature_extremes.largest": "largest eigenvalue of the Hessian",
    "curvature_extremes.products": "products of the Hessian with a vector that were computed",
    "curvature_extremes.ratio": "magnitude of the smallest eigenvalue over that of the largest",
    "curvature_extremes.samples": "number of {nouns}",
    "curvature_extremes.smallest": "smallest eigenvalue of the Hessian",
    "curvature_density.density": "share of the eigenvalues per unit of eigenvalue",
    "curvature_density.eigenvalue": "where the density is estimated",
    "curvature_density.standard_error": "standard error over random vectors",
    "surface.error_se": "standard error of the error over {nouns}",
    "surface.finished": "whether the cell was computed on all {nouns}",
    "surface.loss_se": "standard error of the loss over {nouns}",
    "surface.x": "step along the first direction; the trained weights are at 0",
    "surface.y": "step along the second direction; the trained weights are at 0",
    "surface_roughness.cells": "number of inner cells counted",
    "surface_roughness.convex": "share of inner cells at which the surface is convex",
    "surface_roughness.deviation": "root of 1 - R² of the best quadratic: 0 for a quadratic surface",
    "surface_roughness.left_out": "number of inner cells without a value, or next to one",
    "surface_roughness.negative": "strength of negative curvature over the strongest: 0 for a bowl, 1 for a summit",
    "surface_roughness.undecided": "share of inner cells whose smallest curvature cannot be distinguished from zero",
}


def meaning(table: str, column: str, measure: Measure, noun: str = "image") -> str:
    """What a column contains, in a few words; "" for an unknown column.

    Args:
        table: the name of the table.
        column: the name of the column.
        measure: the metric of the page, whose name columns may have.
        noun: what one example is called.

    Example:
        >>> meaning("frontier", "share", Measure.of("error"))
        "share of the full network's time"
        >>> meaning("lesion", "damage", Measure.of("perplexity"), "sequence")
        'rise of the perplexity when the block is deleted'
    """
    text = _MEANINGS.get(f"{table}.{column}", _MEANINGS.get(column, ""))
    if not text and column == measure.name:
        return measure.meaning
    game = "loss" if measure.name == "error" else measure.words  # the block game's metric
    return text.format(noun=noun, nouns=plural(noun), metric=measure.words, game=game)
