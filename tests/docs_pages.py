"""Reads the pages of the documentation: their blocks of code, and the expected output of each."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r"^( *)```([\w-]*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_MPI = re.compile(r"<!-- a script for mpi4py\.futures -->\s*\Z")
_SMALLER = re.compile(r"<!-- in the tests `(.+?)` is `(.+?)` -->\s*")
_ALL_SMALLER = re.compile(rf"(?:{_SMALLER.pattern})+\Z")  # right before a block


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: as the fence says.
        code: the text, without indentation.
        line: where its code begins on the page.
        output: its expected output: the text block that directly follows; None without one.
        is_mpi: whether it is a separate script for MPI, as a comment before it says; other code runs in order with the
        rest of the page.
    """

    language: str
    code: str
    line: int
    output: str | None = None
    is_mpi: bool = False


def pages() -> list[Path]:
    """All pages."""
    return sorted((ROOT / "docs").rglob("*.md"))


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, each with the output that follows it."""
    text = page.read_text()
    found: list[Block] = []
    end = 0
    for fence in _FENCE.finditer(text):
        indent, language, body = fence.groups()
        code = re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) if indent else body
        if language == "text" and found and not text[end : fence.start()].strip():
            last = found.pop()
            found.append(replace(last, output=code))
        else:
            line = text.count("\n", 0, fence.start(3)) + 1
            before = text[end : fence.start()]
            found.append(Block(language, _smaller(code, before, page), line, is_mpi=bool(_MPI.search(before))))
        end = fence.end()
    return found


def _smaller(code: str, before: str, page: Path) -> str:
    """The code with the reductions in the comments before it, where the output does not depend on them."""
    comments = _ALL_SMALLER.search(before)
    for written, instead in _SMALLER.findall(comments[0]) if comments else ():
        assert code.count(written) == 1, f"{page.name}: expected {written} once in the block after its comment"
        code = code.replace(written, instead)
    return code


def placed(block: Block) -> str:
    """The code after as many empty lines as needed for tracebacks to name the page's own lines."""
    return "\n" * (block.line - 1) + block.code
