"""Follow every model of the catalogue with torch.export, to see how it would do as a front end.

    python analysis/coverage/export_front_end.py [--only PREFIX ...] [--limit 60] [--sample 100]

Each model runs in its own process, as in `make_table.py`: exported from a batch of two with the batch dimension dynamic
(torch decides which dimensions it has to fix), then compared with the model on a batch of three. Recording is tried
beside it, on the same example. Writes export_front_end.md; an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import random
import statistics
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from catalogue import ALL, Entry
from make_table import code, read, run
from torch import nn
from torch.export import Dim
from torch.utils._pytree import tree_map
from trial import Record, batch_of, difference, randomised, said

from resnet_paths.graph.recording import record as recorded

HERE = Path(__file__).parent
EXACT = 1e-9
"""In float64: rounding of another order of sums stays far below, a frozen batch size or branch far above."""


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An input of the catalogue as positional and keyword arguments."""
    if isinstance(example, dict):
        return (), example
    return (tuple(example) if isinstance(example, tuple) else (example,)), {}


def try_export(entry: Entry) -> Record:
    """The results of torch.export and recording for one model. Errors are recorded, not raised."""
    warnings.simplefilter("ignore")
    record: Record = {"library": entry.library, "name": entry.name, "status": "tried"}
    if importlib.util.find_spec(entry.package) is None:
        return {**record, "status": "not tried", "reason": f"{entry.package} is not installed"}
    try:
        torch.manual_seed(0)
        model = randomised(entry.build())
        args, kwargs = arguments(batch_of(entry, 2, 1))
        other_args, other_kwargs = arguments(batch_of(entry, 3, 2))
        with torch.no_grad():
            expected = model(*other_args, **other_kwargs)
    except Exception as error:  # the model itself does not run here
        return {**record, "status": "not tried", "reason": said(error)}
    start = time.process_time()
    try:
        recorded(model, batch_of(entry, 2, 1))
        record["record_seconds"] = time.process_time() - start
    except Exception as error:
        record["record_reason"] = said(error)
    start = time.process_time()
    try:
        program = exported(model, args, kwargs)
        record["export_seconds"] = time.process_time() - start
        with torch.no_grad():
            record["export_difference"] = difference(program(*other_args, **other_kwargs), expected)
    except Exception as error:
        record["export_reason"] = said(error)
    return record


def exported(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    """The exported program as a module. Its batch dimension is dynamic wherever torch can keep it so."""
    names = list(inspect.signature(model.forward).parameters)
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    dynamic = tree_map(lambda leaf: {0: Dim.AUTO} if isinstance(leaf, torch.Tensor) and leaf.ndim else None, given)
    with torch.no_grad():
        return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=False).module()


def reason(text: str) -> str:
    """The kind of an error: its type, and the start of its message."""
    return text[:70].replace("|", "/")


def page(records: list[Record]) -> str:
    """The finding, as Markdown."""
    versions = Counter(record["code"] for record in records).most_common()
    tried = [record for record in records if record["status"] == "tried"]
    by_export = [record for record in tried if "export_seconds" in record]
    right = [record for record in by_export if record.get("export_difference", 1.0) <= EXACT]
    by_record = [record for record in tried if "record_seconds" in record]
    both = [record for record in by_export if "record_seconds" in record]
    only = [record for record in by_record if record not in right]
    wrong = [record for record in by_export if record not in right]
    seconds = {
        way: statistics.median(record[f"{way}_seconds"] for record in both) if both else float("nan")
        for way in ("export", "record")
    }
    is_sample = len(records) < len(ALL)
    sampled = f" --sample {len(records)}" if is_sample else ""
    which = f"among {len(records)} drawn at random of the {len(ALL)} " if is_sample else ""
    lines = [
        "# torch.export as a front end",
        "",
        f"Made by `python analysis/coverage/export_front_end.py{sampled}` with torch {torch.__version__} and the code "
        f"{' and '.join(f'`{name}` ({count} models)' for name, count in versions)}. Each model {which}of "
        "[the coverage page](../../docs/coverage.md) that runs alone is exported from a batch of two, with a dynamic "
        "batch, and compared with the model on a batch of three (float64).",
        "",
        f"Of {len(tried)} models, torch.export follows {len(by_export)}, {len(right)} of them exactly at the other "
        f"batch size. Recording follows {len(by_record)}; {len(only)} of these torch.export does not follow exactly. "
        f"Where both succeed, the median processor time is {seconds['export']:.1f} s for export and "
        f"{seconds['record']:.2f} s for recording.",
        "",
        "| library | models | exported | exact at another batch size | recorded |",
        "|---|---:|---:|---:|---:|",
    ]
    for library in dict.fromkeys(record["library"] for record in tried):
        counts = [sum(one["library"] == library for one in part) for part in (tried, by_export, right, by_record)]
        lines.append(f"| {library} | {' | '.join(map(str, counts))} |")
    lines += ["", "## Why torch.export fails", "", "| error | models |", "|---|---:|"]
    kinds = Counter(reason(record["export_reason"]) for record in tried if "export_reason" in record)
    lines += [f"| {text} | {count} |" for text, count in kinds.most_common(20)]
    names = [f"{record['library']}/{record['name']}" for record in wrong if "export_reason" not in record]
    lines += ["", f"Exported, but different at another batch size: {', '.join(names) or 'none'}."]
    missed = [f"{record['library']}/{record['name']}" for record in tried if "record_reason" in record]
    lines += ["", f"Not recorded: {', '.join(missed) or 'none'}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journal", type=Path, default=Path("results/export_front_end.jsonl"))
    parser.add_argument("--only", nargs="+", default=[""], metavar="PREFIX")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one model")
    parser.add_argument("--sample", type=int, help="that many models, drawn at random (seed 0); all if not given")
    given = parser.parse_args()
    given.journal.parent.mkdir(parents=True, exist_ok=True)
    of, done = code(), read(given.journal, None)
    matching = [entry for entry in ALL if entry.key.startswith(tuple(given.only))]
    if given.sample is not None:
        matching = random.Random(0).sample(matching, given.sample)
    wanted = [entry for entry in matching if entry.key not in done]
    run(wanted, given.journal, of, given.processes, given.limit, try_export)
    records = read(given.journal, None)
    (HERE / "export_front_end.md").write_text(page([records[e.key] for e in ALL if e.key in records]))


if __name__ == "__main__":
    main()
