"""The explorer in a notebook, where the network is at hand.

The page shows what was measured before it was written, and estimates of the rest. In a notebook a set of blocks that
was only estimated is measured when the reader selects it: the page's module sends the set, and gets the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from ..arguments import checked
from ..data import ImageData, ImageSource, as_data
from ..imports import first_import
from ..lesion import Exploration, StudyOptions, explore, measure_sets
from ..network import UnrolledNetwork
from .explorer import explorer_data
from .page import explorer_module, own_file


@checked
def explore_widget(
    net: UnrolledNetwork,
    data: ImageSource,
    exploration: Exploration | None = None,
    *,
    model_code: str = "model",
    **options: Unpack[StudyOptions],
) -> Any:
    """The explorer as a widget for notebooks: switch blocks off and see what the network predicts without them.

    Args:
        net: the network, in eval mode.
        data: labelled images; anything that :func:`~resnet_paths.data.as_data` reads.
        exploration: of these images, if there is one already; None: by :func:`resnet_paths.lesion.explore`.
        model_code: the expression for the model in the line of code.
        **options: how to run, see :class:`~resnet_paths.lesion.StudyOptions`.

    Returns:
        An ``anywidget.AnyWidget``; its trait ``dropped`` holds the indices of the blocks that are off.

    Raises:
        ImportError: anywidget is not installed.

    Cost: that of the exploration; then half a forward pass on the images for each set that was not measured before.

    Example:
        >>> from resnet_paths import cifar_resnet, unroll
        >>> from resnet_paths.data import digits
        >>> net = unroll(cifar_resnet(8, in_channels=1, seed=0).eval())
        >>> widget = explore_widget(net, digits("test").subset(slice(0, 20)))  # doctest: +SKIP
    """
    images = as_data(data, labelled=True)
    try:
        with first_import("anywidget"):
            import anywidget
            import traitlets
    except ImportError as error:
        raise ImportError("expected anywidget to be installed; run: pip install 'resnet-paths[notebook]'") from error
    record = explore(net, images, **options) if exploration is None else exploration

    class ExplorerWidget(anywidget.AnyWidget):  # type: ignore[misc]  # here: the base class is an extra
        _esm = explorer_module()
        _css = own_file("explorer.css")
        data = traitlets.Unicode().tag(sync=True)
        live = traitlets.Bool().tag(sync=True)
        dropped = traitlets.List(traitlets.Int()).tag(sync=True)

    text = explorer_data(net, images, record, model_code=model_code, in_page=False)
    widget = ExplorerWidget(data=text, live=not record.exhaustive, dropped=[])
    widget.on_msg(lambda _, asked, __: widget.send(measured(net, images, record, asked)))
    return widget


def measured(net: UnrolledNetwork, data: ImageData, record: Exploration, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a message of the explorer.

    Args:
        net: the network.
        data: the images of the exploration.
        record: the exploration.
        asked: ``id`` and, for each block that can be switched, whether it is kept.

    Returns:
        The same ``id``, which answers are ``wrong``, and the mean ``loss``; or ``error``, for what cannot be answered.
    """
    kept = np.array(asked.get("kept", []), bool)
    if kept.shape != (len(record.blocks),):
        return {"id": asked.get("id"), "error": f"expected {len(record.blocks)} switches, got {kept.shape}"}
    losses, wrong = measure_sets(net, data, kept[None], record.blocks, progress=False)
    return {"id": asked.get("id"), "wrong": wrong[0].tolist(), "loss": float(losses[0].mean(dtype=np.float64))}
