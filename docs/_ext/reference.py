"""Make the API reference: one page per package of the library, without a list to maintain by hand."""

import ast
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SOURCE = Path(__file__).resolve().parents[2] / "src" / "resnet_paths"
PAGE = """# {name}

::: resnet_paths.{name}
    options:
      show_root_heading: false
      show_root_toc_entry: false
      show_submodules: false
"""
SAME = """
::: resnet_paths.{name}.{member}.{member}
    options:
      heading_level: 2
"""
INDEX = """# API reference

Generated from the docstrings. Each entry has the formula, the cost in forward passes or vector-Jacobian products, the
source, and an example that the tests run. Formulas stand as text, so that `help()` shows them too; [the
mathematics](../explanation/mathematics.md) has them typeset.

| package | contents |
|---|---|
"""


def packages() -> dict[str, str]:
    """The packages with public names, and the first line of each one's docstring."""
    found = {}
    for path in sorted(SOURCE.glob("*/__init__.py")):
        tree = ast.parse(path.read_text())
        if any(
            isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            for node in tree.body
        ):
            found[path.parent.name] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def page(name: str) -> str:
    """A package's page; a function with the same name as its file is named through the file."""
    same = [
        path.stem
        for path in sorted((SOURCE / name).glob("[!_]*.py"))
        if _defines(path, path.stem)
    ]
    return PAGE.format(name=name) + "".join(
        SAME.format(name=name, member=member) for member in same
    )


def _defines(path: Path, name: str) -> bool:
    tree = ast.parse(path.read_text())
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body)


def on_config(config: MkDocsConfig, **kwargs: Any) -> MkDocsConfig:
    """Add the pages to the navigation, as the last section."""
    pages = ["api/index.md", *(f"api/{name}.md" for name in packages())]
    config.nav = [*(config.nav or []), {"Reference": pages}]
    return config


def on_files(files: Files, config: MkDocsConfig, **kwargs: Any) -> Files:
    """Add the pages."""
    rows = "".join(f"| [{name}]({name}.md) | {line} |\n" for name, line in packages().items())
    files.append(File.generated(config, "api/index.md", content=INDEX + rows))
    for name in packages():
        files.append(File.generated(config, f"api/{name}.md", content=page(name)))
    return files
