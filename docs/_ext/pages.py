"""What pages get from the site: their weight in its search, and links to the repository once that has an address."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

CITATION = Path(__file__).resolve().parents[2] / "CITATION.cff"
WEIGHTS = {
    "how-to/": 3.0,
    "how-to/own-model": 6.0,
    "how-to/data-and-checkpoints": 6.0,
    "tutorial": 3.0,
    "faq": 2.0,
    "api/": 0.3,
    "public-cases": 0.3,
    "coverage": 0.3,
}
"""Of pages whose path begins so, the later line before the earlier. A guide answers a question better than the longest
page with its words."""


WIDE = ("coverage", "cheat-sheet")
"""Pages whose tables need the room of the table of contents."""


@cache
def repository() -> str:
    """The address in CITATION.cff, which a release fills in; empty until then."""
    line = re.search(
        r"^repository-code: *[\"']?(https://[^\s\"']+?)/?[\"']?$",
        CITATION.read_text(),
        re.MULTILINE,
    )
    return line[1] if line else ""


def on_config(config: MkDocsConfig, **kwargs: Any) -> MkDocsConfig:
    """The repository's link in the head of each page, and "edit" beside its title."""
    if repository():
        config.repo_url, config.repo_name = repository(), "/".join(repository().split("/")[-2:])
        config.edit_uri = "edit/main/docs/"
        config.theme["features"] = [*config.theme["features"], "content.action.edit"]
    return config


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Weigh the page, and let the words "open an issue" lead there."""
    for start, weight in WEIGHTS.items():
        if page.file.src_uri.startswith(start):
            page.meta["search"] = {"boost": weight}
    if page.file.src_uri.startswith(WIDE):
        page.meta["hide"] = ["toc"]
    return (
        markdown.replace("open an issue", f"[open an issue]({repository()}/issues)")
        if repository()
        else markdown
    )
