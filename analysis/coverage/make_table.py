"""Write docs/coverage.md: test each model of `catalogue` in its own process.

    python analysis/coverage/make_table.py                       # all not yet tested with this code
    python analysis/coverage/make_table.py --only timm/ monai/   # keys with these prefixes
    python analysis/coverage/make_table.py --processes 8 --limit 300

Every finished model is one line of JSON in the journal, so an interrupted run resumes. A line only counts for the
code that made it, unless --keep is given. A model whose package is missing is listed as not tried.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from page import page
from trial import ALL, Entry, Record, trial

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = {
    "transformers": "transformers.models.llama.modeling_llama",
    "pytorchcv": "pytorchcv.model_provider",
    "monai": "monai.networks.nets",
    "torchvision": "torchvision.models",
    "torchaudio": "torchaudio.models",
}


DECIDING = (
    "graph/*.py",
    "network/*.py",
    "surgery/drop.py",
    "surgery/edit.py",
    "surgery/changed_modules.py",
    "surgery/class_text.py",
    "surgery/written_class.py",
    "surgery/token_cache.py",
)
"""The files of the library that determine the records."""


def code() -> str:
    """A fingerprint of everything that determines the records: these files, without comments, docstrings and layout."""
    digest = hashlib.sha256()
    for pattern in DECIDING:
        for path in sorted((ROOT / "src" / "resnet_paths").glob(pattern)):
            digest.update(_without_words(path.read_text()).encode())
    return digest.hexdigest()[:12]


def _without_words(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def read(journal: Path, of: str | None) -> dict[str, Record]:
    """The last record of each model, made by the code `of` (None: by any)."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    records = [json.loads(line) for line in lines]
    return {f"{r['library']}/{r['name']}": r for r in records if of is None or r["code"] == of}


def run(
    entries: Iterable[Entry],
    journal: Path,
    of: str,
    processes: int,
    limit: float,
    test: Callable[[Entry], Record] = trial,
) -> None:
    """Test each model in its own process, several in parallel, and write each record as soon as it is available."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    waiting = list(entries)
    running: dict[Any, tuple[Entry, Any, float]] = {}
    while waiting or running:
        while waiting and len(running) < processes:
            entry = waiting.pop(0)
            with contextlib.suppress(ImportError):  # once here, and not in every process
                importlib.import_module(PRELOADED.get(entry.package, entry.package))
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(test, entry, there))
            process.start()
            there.close()
            running[here] = entry, process, time.monotonic() + limit
        ready = wait(list(running), timeout=1.0)
        for here, (entry, process, deadline) in list(running.items()):
            if here in ready or time.monotonic() > deadline:
                record = _received(here, entry) if here in ready else _failed(entry, "too slow", f"over {limit:g} s")
                process.kill()
                process.join()
                del running[here]
                with journal.open("a") as file:
                    file.write(json.dumps({**record, "code": of}) + "\n")
                print(entry.key, record["status"], record.get("found"), "of", record.get("expected"), flush=True)


def _child(test: Callable[[Entry], Record], entry: Entry, there: Connection) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    there.send(test(entry))


def _received(here: Connection, entry: Entry) -> Record:
    try:
        received: Record = here.recv()
        return received
    except EOFError:
        return _failed(entry, "raw error", "the process died")


def _failed(entry: Entry, status: str, reason: str) -> Record:
    return {"library": entry.library, "name": entry.name, "status": status, "reason": reason}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journal", type=Path, default=Path("results/coverage.jsonl"))
    parser.add_argument("--only", nargs="+", default=[""], metavar="PREFIX", help="models whose names have this prefix")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one model")
    parser.add_argument("--keep", action="store_true", help="also count records made by other code")
    parser.add_argument("--again", action="store_true", help="try these models again")
    given = parser.parse_args()
    given.journal.parent.mkdir(parents=True, exist_ok=True)
    of = code()
    done = read(given.journal, None if given.keep else of)
    wanted = [entry for entry in ALL if entry.key.startswith(tuple(given.only))]
    run([e for e in wanted if given.again or e.key not in done], given.journal, of, given.processes, given.limit)
    records = read(given.journal, None if given.keep else of)
    (ROOT / "docs" / "coverage.md").write_text(page([records[e.key] for e in ALL if e.key in records], of))


if __name__ == "__main__":
    main()
