"""Every block of code in the documentation runs, and everything that its pages name exists.

Python: the blocks of a page run in order in one namespace; a text block right after one is what it prints (``...``
stands for anything). A script for MPI runs by its launcher. Commands (``resnet-paths ...``) run in the
same folder as the page's Python, through the command line's own parser. Comments such as ``<!-- in the tests `draws=6`
is `draws=2` -->`` before a block reduce it for the tests.

Running the pages takes a twelfth of the time of all tests and covers nothing of the package that other tests do not. So
it belongs to the checks of what is published: ``python -m pytest -m pages tests/test_docs.py``, which ``.ci/run`` does.
"""

import contextlib
import doctest
import importlib
import io
import random
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from docs_pages import ROOT, Block, blocks, pages, placed
from helpers import run_by_mpi

pytestmark = pytest.mark.slow

PLAIN = {"", "text", "html", "toml", "yaml", "mermaid", "math", "bibtex"}
SHELL = {"bash", "sh", "console"}
OTHERS = re.compile(r"(python -m venv|(\S*/)?pip install|mpiexec|srun|sbatch|git|cd|export|uv) ")
"""Commands that a page may show and that are not run: they install, or need a cluster."""

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]
ELLIPSIS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [page for page in pages() if str(page.relative_to(ROOT / "docs")) not in navigation] == []


def test_functions_and_tests_named_by_the_table_of_the_mathematics_exist() -> None:
    text = (ROOT / "docs" / "explanation" / "mathematics.md").read_text()
    rows = re.findall(r"^\|.*\| `([\w.]+)` \| `([\w/.]+)::(\w+)` \|$", text, re.MULTILINE)
    assert len(rows) >= 20
    assert len(rows) == len(re.findall(r"^\| ", text, re.MULTILINE)) - 1, "a row is not read"
    for name, file, test in rows:
        module, _, attribute = name.rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute, None)), f"{name} does not exist"
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"


@pytest.mark.pages
@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page: Path, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(
        small_checkpoint, tmp_path
    )  # "small.safetensors", for commands that are expensive on the embedded network
    found = blocks(page)
    strange = {block.language for block in found} - PLAIN - SHELL - {"python"}
    assert not strange, f"blocks in languages that no test runs: {strange}"
    monkeypatch.chdir(tmp_path)
    _in_order(page, found)


@pytest.mark.pages
def test_scripts_for_mpi_run(tmp_path: Path) -> None:
    scripts = [block for page in pages() for block in blocks(page) if block.is_mpi]
    assert scripts
    for block in scripts:
        script = tmp_path / "script.py"
        script.write_text(block.code)
        run_by_mpi(script)


def _in_order(page: Path, found: list[Block]) -> None:
    import matplotlib.pyplot as plt

    names: dict[str, object] = {"__name__": "__main__", "__file__": str(page)}
    random.seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            for block in found:
                if block.language == "python" and not block.is_mpi:
                    _python(page, block, names)
                elif block.language in SHELL:
                    _shell(page, block)
        finally:
            plt.close("all")


def _python(page: Path, block: Block, names: dict[str, object]) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(placed(block), str(page), "exec"), names)
    if block.output is not None:
        _compare(page, block, printed.getvalue())


def _compare(page: Path, block: Block, printed: str) -> None:
    same = doctest.OutputChecker().check_output(block.output or "", printed, ELLIPSIS)
    assert same, f"{page.name}, line {block.line}: expected to print\n{block.output}\ngot\n{printed}"


def _shell(page: Path, block: Block) -> None:
    from resnet_paths.cli import app

    lines = re.sub(r"\\\n\s*", "", block.code).splitlines()
    for line in (line.strip() for line in lines):
        if not line or line.startswith("#"):
            continue
        words = shlex.split(line, comments=True)
        if words[0] == "resnet-paths":
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == 0, f"{page.name}: {line}\n{result.output}"
        elif words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).exists(), f"{page.name}: {line} names a file that is not there"
        else:
            assert OTHERS.match(line), f"{page.name}: {line} is neither run nor known"


@pytest.mark.pages
def test_the_cheat_sheet_is_right(small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls in Python run, in order, except for the expensive ones, whose arguments are checked; its commands
    parse.
    """
    from typer.main import get_command

    from resnet_paths.cli import app

    expensive = ("write_report", "training.train(", "export_model", "extreme_eigenvalues")
    page = ROOT / "docs" / "cheat-sheet.md"
    rows = re.findall(r"^\| (?!to \||---)(.*?) \| (?:`(.+?)` )?\| (?:`(.+?)` )?\|$", page.read_text(), re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| ", page.read_text(), re.MULTILINE)) - 1, "a row is not read"
    shutil.copy(small_checkpoint, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page):
        exec(block.code, names)
    group = get_command(app)
    for task, call, command in rows:
        if call and any(word in call for word in expensive):
            function, _, arguments = call.partition("(")
            eval(f"__import__('inspect').signature({function}).bind({arguments}", names)
        elif call:
            exec(compile(call, task, "exec"), names)
        if command:
            words = shlex.split(command)
            group.commands[words[0]].make_context(words[0], words[1:])  # an unknown option or value is an error


def test_the_mechanism_sees_wrong_output_and_broken_code(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError, match="expected to print"):
        _in_order(page, blocks(page))
    page.write_text("```python\nx = 1\n```\n\nText.\n\n```python\ny = x + undefined\n```\n")
    with pytest.raises(NameError, match="undefined"):
        _in_order(page, blocks(page))
    page.write_text("<!-- in the tests `1 + 1` is `1 + 2` -->\n```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    _in_order(page, blocks(page))
    two = "<!-- in the tests `1 +` is `4 +` -->\n<!-- in the tests `+ 1` is `+ 5` -->\n"
    page.write_text(f"{two}```python\nprint(1 + 1)\n```\n\n```text\n9\n```\n")
    _in_order(page, blocks(page))
    page.write_text("<!-- in the tests `2 + 1` is `1 + 2` -->\n```python\nprint(1 + 1)\n```\n")
    with pytest.raises(AssertionError, match="expected 2 \\+ 1 once"):
        blocks(page)
    page.write_text("```bash\nresnet-paths drop\n```\n")
    with pytest.raises(AssertionError, match="expected either --blocks or --plan"):
        _in_order(page, blocks(page))
    page.write_text("```bash\nresnet-path lesion\n```\n")
    with pytest.raises(AssertionError, match="neither run nor known"):
        _in_order(page, blocks(page))
