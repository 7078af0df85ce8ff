"""The page docs/coverage.md from the records of `trial.py`."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

Record = dict[str, Any]
EXACT = 1e-12
DISTRIBUTIONS = {"segmentation_models_pytorch": "segmentation-models-pytorch", "vit_pytorch": "vit-pytorch",
                 "x_transformers": "x-transformers", "super_image": "super-image"}  # fmt: skip

_PARTS = (
    "the stream consists of parts ({}) that branch and shortcut each concatenate separately, so no single value is the "
    "block's entry"
)
_CELL = (
    "all blocks share a recurrent cell, and the sums W x + U h at its entry have the form of a block: a projection of "
    "the state, and a longer route from the same state. They can be gated but not dropped. All of the authors' blocks "
    "are found"
)
REASONS = {
    "transformers/TimesformerModel": _PARTS.format("class token and patches"),
    "torchaudio/Emformer": _PARTS.format("right context and utterance"),
    "pytorchcv/diaresnet20_cifar10": _CELL,
    "pytorchcv/diapreresnet20_cifar10": _CELL,
    "pytorchcv/octresnet10_ad2": (
        "the stream is a pair of values, of high and of low frequency. Where the shape changes, a block's shortcut "
        "mixes the two, so no single value is its entry"
    ),
    "pytorchcv/enet_cityscapes": (
        "these shortcuts upsample with the indices of an earlier pooling, a second value beside the block's entry"
    ),
    "pytorchcv/resattnet56": (
        "the hourglasses add two long routes from the same value, each a sequence of residual blocks, so neither is a "
        "shortcut. Further in, x + f(x) + g(x) is found as one block with two routes in its branch, where the code "
        "nests two. The gradient is that badly conditioned: rounding the input changes it by 2.5e-10 in the model "
        "itself"
    ),
    "pytorchcv/revnet38": (
        "the reversible blocks are computed within an `autograd.Function` of the model's own, which is run as it is"
    ),
}
"""Why some models fail, from reading their code."""

INTRODUCTION = """\
Made by `python analysis/coverage/make_table.py` with {versions}. Every model has random weights (small configurations
for transformers; nothing is downloaded) and is tested in float64. Norms, biases, layer scales and weights that are
initialised to zero are randomised, so that no comparison passes trivially.

- **blocks**: the number of blocks that `unroll` found, and the number expected. The expected number does not come
  from this library: the model is run once, and every addition of two of its tensors is recorded with the module whose
  forward makes it. `analysis/coverage/rules.py` says for each class, from reading its code, which of these additions
  are blocks ("source" names the modules). Found and expected blocks are matched module by module, not by their
  number. Some additions have the form of a block, but their authors do not call them one (merges of a feature
  pyramid, the hierarchy within a Res2Net block). They count as right whether they are found or not, so a model can
  have more blocks than expected.
- **other batch**: the largest difference from the model, relative to the largest output. The network is unrolled on a
  batch of two and compared on a batch of one. **gradient**: the same for the gradient of a random sum of the output
  with respect to the input (for tokens, to all weights).
- **dropped**: the middle one of the droppable blocks, removed by `drop_blocks`, compared with a gate of 0. **gone**:
  the number of parameters removed with it, and the number that the table of blocks states if it differs.
- **droppable**: how many blocks `drop_blocks` can remove. The others only have gates, because something inside their
  branch is read from outside; the table of blocks says what.
- **pickle**: whether the smaller model is the same after saving and loading ("as model": the original cannot be
  pickled either).
- **seconds**: processor time of one call of `unroll` with an example input, on one thread of a busy machine.
"""


def page(records: Sequence[Record], code: str) -> str:
    """The page: what was tested, totals by library, known failures, and one row per model.

    Args:
        records: one of each model.
        code: fingerprint of the code as it is, to count the records that an earlier state of it made (`--keep`).
    """
    tried = [record for record in records if record["status"] not in ("not tried", "too slow")]
    skipped = [record for record in records if record["status"] in ("not tried", "too slow")]
    lines = ["# Coverage", "", INTRODUCTION.format(versions=_versions(tried)), *_summary(tried), ""]
    lines += [_states(records, code), ""]
    lines += ["## By library", "", *_totals(tried), ""]
    wrong = [(record, problems(record)) for record in tried if problems(record)]
    lines += ["## Known failures", "", *[_line(record, said) for record, said in wrong], ""]
    if skipped:
        lines += ["## Not tried", "", *[f"- {_name(r)}: {_cell(r['reason'])}" for r in skipped], ""]
    return "\n".join([*lines, "## All models", "", *_rows(tried), ""])


def _line(record: Record, said: Sequence[str]) -> str:
    reason = REASONS.get(f"{record['library']}/{record['name']}")
    return f"- {_name(record)}: {'; '.join(said)}." + (f" Reason: {reason}." if reason else "")


def _states(records: Sequence[Record], code: str) -> str:
    """How many records were made by which state of the code, by its fingerprint."""
    counts = Counter(record["code"] for record in records)
    now = counts.pop(code, 0)
    earlier = ", ".join(f"{count} by `{state}`" for state, count in counts.most_common(4))
    rest = sum(counts.values()) - sum(count for _, count in counts.most_common(4))
    if not counts:
        return f"All {len(records)} records were made by one version of the code, `{code}`."
    more = f" and {rest} by others" if rest else ""
    return (
        f"Of {len(records)} records, {now} were made by the version of the code that wrote this page (`{code}`), the "
        f"others by earlier versions: {earlier}{more}."
    )


def all_blocks(record: Record) -> bool:
    """Every expected block was found and no other."""
    if record["status"] == "refused":
        return bool(record["expected"] == 0)
    return record["status"] == "unrolled" and not record["missing"] and not record["further"]


def problems(record: Record) -> list[str]:
    """Whatever the record shows that should be otherwise."""
    if record["status"] != "unrolled":
        return [] if all_blocks(record) else [f"{record['status']}: {_cell(record['reason'])[:300]}"]
    said = []
    if record["missing"]:
        said.append(f"{len(record['missing'])} blocks missing ({_few(record['missing'])})")
    if record["further"]:
        said.append(f"{len(record['further'])} extra blocks ({_few(record['further'])})")
    for key, words in (("difference", "output differs"), ("gradient", "gradient differs"), ("drop difference",
                       "dropped differs from the gate of 0")):  # fmt: skip
        if record.get(key, 0.0) > EXACT:
            said.append(f"{words} by {record[key]:.1e}")
    said += [f"{key}: {_cell(record[key])[:300]}" for key in record if "error in" in key]
    if "parameters gone" in record and record["parameters gone"] != record["branch parameters"]:
        gone, promised = record["parameters gone"], record["branch parameters"]
        said.append(f"{record['dropped']}: {gone:,} parameters removed, {promised:,} expected")
    if record.get("pickle", "yes") not in ("yes", "as the model"):
        said.append(f"pickle: {_cell(record['pickle'])[:200]}")
    if record.get("output varies") is False:
        said.append("the model's output does not depend on its input, so the comparison shows nothing")
    if record.get("drop changes") is False:
        said.append("a gate of 0 changes nothing")
    return said


def _summary(tried: Sequence[Record]) -> list[str]:
    unrolled = [record for record in tried if record["status"] == "unrolled"]
    residual = [record for record in tried if record["expected"] or record["status"] == "unrolled"]
    right = sum(map(all_blocks, tried))
    refused = sum("difference" not in record for record in unrolled)
    raw = sum(record["status"] == "raw error" or any(key.startswith("raw error") for key in record) for record in tried)
    return [
        f"**{len(tried)} models**, {len(residual)} of them with residual blocks: in {right} models exactly the "
        f"expected blocks are found ({right / max(len(tried), 1):.1%}; models without any are refused, with the "
        f"reason). Of the {len(unrolled)} that unroll, {sum(r.get('difference', 0.0) > EXACT for r in unrolled)} "
        f"differ from the model and {sum(r.get('gradient', 0.0) > EXACT for r in unrolled)} from its gradient (by more "
        f"than {EXACT:g}); {refused} {'is' if refused == 1 else 'are'} refused "
        f"on another batch, with the reason. {raw} raise an error other than the library's own."
    ]


def _totals(tried: Sequence[Record]) -> list[str]:
    heads = ("library", "models", "all blocks", "exact", "gradient", "dropped = gate 0", "parameters gone", "pickle",
             "raw errors", "median seconds")  # fmt: skip
    libraries = list(dict.fromkeys(record["library"] for record in tried))
    rows = [_total(name, [r for r in tried if r["library"] == name]) for name in libraries]
    return _table(heads, [*rows, _total("all", tried)])


def _total(name: str, records: Sequence[Record]) -> list[Any]:
    unrolled = [record for record in records if record["status"] == "unrolled"]
    dropped = [record for record in unrolled if record.get("droppable")]

    def share(among: Sequence[Record], holds: Callable[[Record], bool]) -> str:
        return f"{sum(map(holds, among))} of {len(among)}"

    raw = sum(r["status"] == "raw error" or any(key.startswith("raw error") for key in r) for r in records)
    times = [record["seconds"] for record in unrolled if "wall seconds" in record]
    return [
        name,
        len(records),
        share(records, all_blocks),
        share(unrolled, lambda r: r.get("difference", 1.0) <= EXACT),
        share(unrolled, lambda r: r.get("gradient", 1.0) <= EXACT),
        share(dropped, lambda r: r.get("drop difference", 1.0) <= EXACT),
        share(dropped, lambda r: r.get("parameters gone", -1) == r.get("branch parameters")),
        share(dropped, lambda r: r.get("pickle") in ("yes", "as the model")),
        raw,
        f"{statistics.median(times):.2f}" if times else "",
    ]


def _rows(tried: Sequence[Record]) -> list[str]:
    heads = ("library", "model", "blocks", "expected", "source", "other batch", "gradient", "droppable", "dropped",
             "gone", "pickle", "seconds")  # fmt: skip
    return _table(heads, [_row(record) for record in tried])


def _row(record: Record) -> list[Any]:
    start = [record["library"], record["name"], record["found"], record["expected"], record["source"]]
    if record["status"] != "unrolled":
        return [*start, *[""] * 7]
    gone = f"{record['parameters gone']:,}" if "parameters gone" in record else ""
    if gone and record["parameters gone"] != record["branch parameters"]:
        gone += f" of {record['branch parameters']:,}"
    seconds = f"{record['seconds']:.2f}" if "wall seconds" in record else ""
    pickled = record.get("pickle", "")
    return [
        *start,
        _number(record.get("difference")),
        _number(record.get("gradient")),
        record.get("droppable", ""),
        _number(record.get("drop difference")),
        gone,
        "as model" if pickled == "as the model" else pickled.partition(":")[0],
        seconds,
    ]


def _number(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.0e}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    written = [[_cell(str(value)) for value in row] for row in rows]
    rule = ["---" if head in ("library", "model", "source") else "---:" for head in heads]
    return [f"| {' | '.join(cells)} |" for cells in (list(heads), rule, *written)]


def _few(names: Sequence[str], most: int = 3) -> str:
    shown = [name or "the model itself" for name in dict.fromkeys(names)]
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")


def _name(record: Record) -> str:
    return f"{record['library']}/{record['name']}"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("<", "&lt;").replace("\n", " ")


def _versions(records: Sequence[Record]) -> str:
    found = []
    for library in dict.fromkeys(["torch", *(record["library"] for record in records)]):
        try:
            found.append(f"{library} {version(DISTRIBUTIONS.get(library, library)).partition('+')[0]}")
        except PackageNotFoundError:
            found.append(library)
    return ", ".join(found)
