"""The documents are true: what they show runs or says why not, and what they name is there.

A block that is not marked as shown runs in end_to_end/test_documents_run.py, where there is a clone
with results.
"""

import contextlib
import os
import re
import shlex
from pathlib import Path

import pytest

from tests.helpers.clones import ROOT
from tests.helpers.documents import (
    DOCUMENTS,
    blocks,
    check_output,
    figures,
    inline_commands,
    is_among,
    numbers_in,
    parts,
    read,
    unfounded,
)

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
CURRENT = [path for path in DOCUMENTS if path != "CHANGELOG.md"]  # which says what once was
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
    for path, test in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", block.shown):
        source = read(path)
        assert not test or f"def {test}(" in source, f"{path}::{test}"


@pytest.mark.parametrize(
    ("expected", "printed", "fits"),
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
def test_what_counts_as_printed(expected, printed, fits):
    if fits:
        check_output(expected, printed, "x")
    else:
        with pytest.raises(AssertionError):
            check_output(expected, printed, "x")


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


@pytest.mark.parametrize("path", CURRENT)
def test_each_figure_has_a_source_and_agrees_with_it(path):
    assert unfounded(read(path)) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("<!-- figures: benchmarks/results/cores.csv -->\n\nA step takes 4.5 ms.\n", []),
        (
            "<!-- figures: benchmarks/results/cores.csv -->\n\nA step takes 240 ms.\n",
            ["240 ms is not in benchmarks/results/cores.csv"],
        ),
        ("A step takes 4.5 ms.\n", ["4.5 ms is not in any source"]),
        ("<!-- figures: gone.csv -->\n\nText.\n", ["gone.csv: is no file"]),
        ("<!-- figures: python -m x -->\n\n8 ms\n", ["python -m x: is no file", "8 ms is not in"]),
    ],
)
def test_a_figure_that_its_source_does_not_have_is_found(text, wrong):
    found = unfounded(text)
    assert len(found) == len(wrong)
    assert all(each.startswith(start) for each, start in zip(found, wrong, strict=True))


def test_a_changed_figure_of_a_document_is_found():
    text = read("docs/large-data.md")
    assert "63 MB" in text
    assert unfounded(text.replace("63 MB", "630 MB")) == [
        "630 MB is not in benchmarks/results/archive/large.csv"
    ]


def test_figures_are_measured_numbers_and_are_found_rounded(tmp_path):
    text = "in 2013, 28 x 28, `0.5 s`, 2.5 GB, 3 % and 0.1 at 127.0.0.1, Python 3.11"
    assert figures(text) == [("2.5", "GB"), ("3", "%"), ("0.1", "")]
    assert is_among("2.5", "GB", {2_480_000_000.0})
    assert is_among("3", "%", {0.03})
    assert not is_among("3", "%", {0.04})
    (tmp_path / "a.py").write_text("A = 64 * 2**20\n")
    assert is_among("64", "MB", numbers_in(tmp_path / "a.py"))
    (tmp_path / "a.lock").write_text("md5: 7e3a\nsize: 5\nempty: true\n")
    assert numbers_in(tmp_path / "a.lock") == {5}
    rows = "# 99\nround,kind,ms\n1,a,1\n1,b,10\n2,a,2\n2,b,20\n3,a,6\n3,b,60\n"
    (tmp_path / "a.csv").write_text(rows)
    assert numbers_in(tmp_path / "a.csv") == {1, 2, 3, 6, 10, 20, 30, 60}


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
        module = words[2].replace(".", "/")
        files = [f"{module}.py", f"{module}/__main__.py"]
        there = [file for file in files if (ROOT / file).is_file()]
        assert there, words
        source = "".join(map(read, [*there, "benchmarks/harness.py"]))
        for flag in re.findall(r"--[a-z-]+", " ".join(words[3:])):
            assert flag in source, words
    elif words[0] == "dvc":
        with contextlib.redirect_stderr(None):
            dvc_parser.parse_args(words[1:])


@pytest.mark.parametrize("path", CURRENT)
def test_each_command_is_one_that_there_is(path, dvc_parser):
    """Also where it is only shown, and in running text, where those of DVC are often cut short."""
    text = read(path)
    consoles = [block for block in blocks() if block.path == path and block.language == "console"]
    shown = [command for block in consoles for command, _ in parts(block.text)]
    inline = [command for command in inline_commands(text) if not command.startswith("dvc ")]
    for command in shown + inline:
        for one in command.split("&&"):
            words = shlex.split(re.sub(r"[][]", "", one), comments=True)
            if words and "..." not in words:
                check_command(words, dvc_parser)


def test_each_page_of_docs_is_linked_from_the_readme():
    linked = {match["target"].partition("#")[0] for match in LINK.finditer(read("README.md"))}
    assert {path for path in DOCUMENTS if path.startswith("docs/")} <= linked
