"""Formulas become MathML while the site is built: browsers typeset it themselves, without a script or another host.

The pages write TeX between dollar signs and in blocks called ``math``, as GitHub reads it. Arithmatex (of PyMdown
Extensions) marks them; here each is translated.
"""

import re
from html import unescape
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page

_MARKED = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: MkDocsConfig, **kwargs: Any) -> MkDocsConfig:
    """Ask for the translator before anything is built."""
    try:
        import latex2mathml.converter  # noqa: F401
    except ImportError as error:
        raise PluginError(
            "formulas need latex2mathml: pip install 'resnet-paths[docs]'"
        ) from error
    return config


def on_page_content(html: str, page: Page, **kwargs: Any) -> str:
    """Translate the page's formulas."""
    return _MARKED.sub(
        lambda marked: mathml(unescape(marked[3].strip()), marked[2] == "[", page.file.src_path),
        html,
    )


def mathml(tex: str, display: bool, where: str) -> str:
    """A formula as MathML.

    Raises:
        PluginError: the translator does not know a command.
    """
    from latex2mathml.converter import convert

    made: str = convert(tex, display="block" if display else "inline")
    unknown = re.search(r"\\\w+", made)
    if unknown:
        raise PluginError(f"{where}: {unknown[0]} in the formula {tex!r} is not translated")
    return made
