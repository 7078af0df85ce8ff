"""A comparison of models as one HTML file, with the look and the behaviour of a report."""

from __future__ import annotations

from pathlib import Path

from ..arguments import checked
from ..comparison import Comparison
from ..files import write_text
from .page import rendered
from .side_by_side import headline, sections


@checked
def write_comparison(record: Comparison, out: str | Path = "comparison.html") -> Path:
    """Write a comparison as one self-contained page: its finding, figures with their values, and tables to sort.

    Args:
        record: see :func:`resnet_paths.compare`.
        out: the file to write.

    Raises:
        ValueError: `out` is a folder.

    Cost: the drawing of the figures, one to two seconds.

    Example:
        >>> import tempfile
        >>> from resnet_paths import cifar_resnet, compare, load_data
        >>> models = [cifar_resnet(8, in_channels=1, widths=(2, 2, 2), seed=seed).eval() for seed in (0, 1)]
        >>> record = compare(models, load_data("digits", limit=6), draws=1, gradient_images=2, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_comparison(record, folder + "/comparison.html").name
        'comparison.html'
    """
    target = Path(out)
    if target.is_dir():
        raise ValueError(
            f"expected a file to write, got the folder {out}; pass a name such as {target / 'comparison.html'}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    page = rendered(
        "side_by_side.html",
        record=record,
        headline=headline(record),
        sections=list(sections(record)),
        named_sources=list(zip(record.models, record.sources, strict=True)),
    )
    write_text(target, page)
    return target
