"""The documents are true: what they show runs or says why not, and what they name is there.

A block that is not marked as shown runs in test_pipeline.py, where there is a clone with results.
"""

import contextlib
import os
import re
import shlex
from pathlib import Path

import pytest

from tests.clones import ROOT
from tests.documents import (
    DOCUMENTS,
    blocks,
    check_output,
    figures,
    inline_commands,
    is_among,
    numbers_in,
    paragraphs,
    parts,
    read,
)

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def test_the_blocks_are_found():
    assert len(blocks()) == sum(
        len(re.findall(r"^```(?:console|python)$", read(path), re.MULTILINE)) for path in DOCUMENTS
    )
    run = {block.path for block in blocks() if block.shown is None}
    assert run >= {"README.md", "docs/experiments.md"}


@pytest.mark.parametrize("block", [each for each in blocks() if each.shown is not None], ids=str)
def test_a_block_that_does_not_run_says_why_and_the_tests_it_names_are_there(block):
    assert len(block.shown.split()) > 1 or "::" in block.shown
    for path, test in re.findall(r"(tests/\w+\.py)(?:::(\w+))?", block.shown):
        source = read(path)
        assert not test or f"def {test}(" in source, f"{path}::{test}"


@pytest.mark.parametrize(
    ("expected", "told", "fits"),
    [
        (["a 1.5"], "a   -2", True),
        (["a"], "b", False),
        (["a"], "", False),
        (["a", "b"], "a\nc\nb", False),
        (["a", "...", "b"], "a\nc\nb", True),
        (["...", "b", "c"], "a\nb\nd\nc", False),
        (["..."], "", True),
        ([], "anything", True),
    ],
)
def test_what_counts_as_printed(expected, told, fits):
    if fits:
        check_output(expected, told, "x")
    else:
        with pytest.raises(AssertionError):
            check_output(expected, told, "x")


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    text = FENCED.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {each.strip().replace(" ", "-") for each in words}


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_lead_to_what_is_there(path):
    for match in LINK.finditer(FENCED.sub("", read(path))):
        target, _, anchor = match["target"].partition("#")
        if target.startswith(("http:", "https:", "../../")):  # a page of the project's host
            continue
        file = (ROOT / path).parent / target if target else ROOT / path
        assert os.path.exists(file), match[0]
        assert not anchor or anchor in anchors(file), match[0]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_a_symbol_that_is_named_is_defined_where_the_link_leads(path):
    for match in LINK.finditer(read(path)):
        symbol = re.fullmatch(r"`(\w+)`", match["text"])
        if not symbol or not match["target"].endswith(".py"):
            continue
        source = read(os.path.normpath(f"{Path(path).parent}/{match['target']}"))
        defined = rf"^\s*(?:(?:def|class) {symbol[1]}\b|{symbol[1]}\b.*=)"
        assert re.search(defined, source, re.MULTILINE), match[0]


def paths(source: str) -> list[str]:
    """Return the files of a source: their names, or the module of a command."""
    if command := re.fullmatch(r"python -m (\S+).*", source):
        return [f"{command[1].replace('.', '/')}.py"]
    return source.split(", ")


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path != "CHANGELOG.md"])
def test_each_figure_has_a_source_and_agrees_with_it(path):
    for text, source in paragraphs(read(path)):
        found = figures(text)
        assert source or not found, f"no source of {found}"
        if not source:
            continue
        assert all((ROOT / file).is_file() for file in paths(source)), source
        if not source.startswith("python -m "):
            known = set().union(*(numbers_in(ROOT / file) for file in paths(source)))
            assert [each for each in found if not is_among(*each, known)] == [], source


def test_figures_are_measured_numbers_and_are_found_rounded(tmp_path):
    text = "in 2013, 28 x 28, `0.5 s`, 2.5 GB, 3 % and 0.1 at 127.0.0.1, Python 3.11"
    assert figures(text) == [("2.5", "GB"), ("3", "%"), ("0.1", "")]
    assert is_among("2.5", "GB", {2_480_000_000.0})
    assert is_among("3", "%", {0.03})
    assert not is_among("3", "%", {0.04})
    (tmp_path / "a.py").write_text("A = 64 * 2**20\n")
    assert is_among("64", "MB", numbers_in(tmp_path / "a.py"))


@pytest.fixture(scope="module")
def dvc_parser():
    from dvc.cli.parser import get_main_parser

    return get_main_parser()


OURS = ("stages", "tools", "benchmarks", "handwriting")


def check_command(words: list[str], dvc_parser) -> None:
    """Fail if a command names a target, variable, module, flag or DVC command that is not there."""
    makefile = read("Makefile")
    if words[0] == "make":
        rules = re.findall(r"^([a-z.][\w ./-]*):(?!=)", makefile, re.MULTILINE)
        targets = {target for rule in rules for target in rule.split()}
        for word in words[1:]:
            variable, is_set, _ = word.partition("=")
            known = rf"\$\([^)]*\b{variable}\b"
            assert re.search(known, makefile) if is_set else word in targets, words
    elif words[:2] == ["python", "-m"] and words[2].split(".")[0] in OURS:
        source = read(f"{words[2].replace('.', '/')}.py") + read("benchmarks/rows.py")
        for flag in re.findall(r"--[a-z-]+", " ".join(words[3:])):
            assert flag in source, words
    elif words[0] == "dvc":
        with contextlib.redirect_stderr(None):
            dvc_parser.parse_args(words[1:])


@pytest.mark.parametrize("path", DOCUMENTS)
def test_each_command_is_one_that_there_is(path, dvc_parser):
    """Also where it is only shown, and in running text, where those of DVC are often cut short."""
    text = read(path)
    consoles = [block for block in blocks() if block.path == path and block.language == "console"]
    told = [command for block in consoles for command, _ in parts(block.text)]
    inline = [command for command in inline_commands(text) if not command.startswith("dvc ")]
    for command in told + inline:
        for one in command.split("&&"):
            words = shlex.split(re.sub(r"[][]", "", one), comments=True)
            if words and "..." not in words:
                check_command(words, dvc_parser)


def test_each_page_of_docs_is_linked_from_the_readme():
    linked = {match["target"].partition("#")[0] for match in LINK.finditer(read("README.md"))}
    assert {path for path in DOCUMENTS if path.startswith("docs/")} <= linked
