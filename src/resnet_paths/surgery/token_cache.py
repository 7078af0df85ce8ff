"""A warning for language models that count cached tokens by one attention layer, if that layer is dropped.

Hugging Face models ask their cache for its length, which is the length of its layer 0. Without the attention that fills
that layer, they treat every further token as the first one. ``generate`` passes the positions itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..graph.blocks import Cut
from ..graph.program import ModuleCall, Program
from ..graph.trees import leaves
from ..warned import warn


def warn_of_token_count(program: Program, cuts: Iterable[Cut]) -> None:
    """Warn if a dropped block's attention fills layer 0 of a token cache."""
    inside = set().union(*(cut.branch_nodes for cut in cuts))
    for call in program.root.walk():
        if not (getattr(call.module, "layer_idx", None) == 0 and _fills_cache(call)):
            continue
        if any(inside.intersection(part.nodes) for part in call.walk()):
            warn(
                f"the model counts cached tokens by {call.path}, which is dropped: if you feed tokens with a cache by "
                "hand, pass position_ids and attention_mask too (generate does), or keep this block",
            )
            return


def _fills_cache(call: ModuleCall) -> bool:
    return any(hasattr(leaf, "get_seq_length") for leaf in leaves((call.args, call.kwargs)))
