"""Candidates run in turn, tables are what the rows give, and every table is what its CSV gives."""

import shutil
from pathlib import Path

import pytest

from benchmarks import commands, cores, datasets, handwriting, harness, tables, training
from tests.helpers.clones import ROOT

MEASURED = [
    dict(zip(("round", "seed", "candidate", "seconds", "accuracy"), line.split(","), strict=True))
    for line in (
        f"1,42,{training.FIT},40,0.98",
        "1,42,default,20,0.99",
        "1,42,recipe fast,10,0.97",
        f"1,42,{training.ARITHMETIC},5,",
        f"2,43,{training.FIT},50,0.99",
        "2,43,default,30,0.99",
        f"2,43,{training.ARITHMETIC},5,",
    )
]


def lines(table: str) -> list[list[str]]:
    """Return the cells of a Markdown table's lines, without its titles, and the text after it."""
    head, _, text = table.partition("\n\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in head.splitlines()]
    assert len({len(line) for line in cells}) == 1
    return [*cells[2:], [text]]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A copy of the documents, the recipes and the CSVs, and the current folder."""
    for pattern in (*tables.DOCUMENTS, tables.RECIPES, "benchmarks/results/*.csv"):
        for path in ROOT.glob(pattern):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def candidates(calls: list[str], times: int = 1) -> list[harness.Candidate]:
    """Return a, b and c; the last takes part in the first round only."""

    def candidate(name: str) -> harness.Candidate:
        def run(number: int) -> dict[str, object] | None:
            calls.append(f"{name}{number}")
            return None if name == "c" and number > 1 else {"seconds": times * number}

        return {"candidate": name}, run

    return [candidate(name) for name in "abc"]


def test_each_candidate_runs_once_per_round_in_an_order_that_turns(project, refusal):
    calls = []
    rows = harness.measure("x", candidates(calls), rounds=3)

    assert calls == ["a1", "b1", "c1", "b2", "c2", "a2", "c3", "a3", "b3"]
    assert rows == harness.read("x")
    assert [row["candidate"] for row in rows] == [*"abc", *"ab", *"ab"]
    assert "'d' in its name: a; b; c" in refusal(harness.measure, "x", candidates([]), 1, "d")


def test_what_is_measured_again_alone_leaves_the_rows_of_the_others(project):
    harness.measure("x", candidates([]), rounds=2)
    rows = harness.measure("x", candidates([], times=10), rounds=1, only="b")

    assert rows == harness.read("x")
    assert [harness.of(rows, name, "seconds") for name in "abc"] == [[1, 2], [10], [1]]


def test_a_row_is_written_after_each_run(project):
    def broken(number: int) -> dict[str, object]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harness.measure("x", [*candidates([])[:1], ({"candidate": "d"}, broken)], rounds=1)
    assert harness.names(harness.read("x")) == ["a"]


def test_ratios_are_taken_round_by_round_and_of_one_there_is_no_range():
    ratios = harness.ratios(MEASURED, "default", training.FIT)
    assert ratios == [20 / 40, 30 / 50]
    assert harness.ranged(ratios) == "0.55 (0.50 to 0.60)"
    assert harness.ratios(MEASURED, training.FIT, "recipe fast") == [4]  # in the second is none
    assert harness.ranged([4.0]) == "4.00"
    assert harness.spread([0.98, 0.99]) == "98.50 ± 0.71 %"  # √½ of a point
    assert harness.spread([0.98]) == "98.00 %"


def test_every_table_in_the_documents_is_what_its_csv_gives(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)

    assert tables.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", ["README.md", "recipes/fast.yaml"])
def test_a_changed_number_fails_the_check_and_is_written_again(project, capsys, name):
    document = project / name
    tables.main([])
    good = document.read_text(encoding="utf-8")
    changed = good.replace("99.2", "99.9", 1)
    assert changed != good
    document.write_text(changed, encoding="utf-8")

    assert tables.main(["--check"]) == 1
    assert f"error: {name}: is not what the CSVs give" in capsys.readouterr().err
    assert document.read_text(encoding="utf-8") == changed

    tables.main([])
    assert document.read_text(encoding="utf-8") == good


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "is missing"),
        ("shards,cores\n", "has no rows"),
        ("round,seconds\n1,2\n", "is not what 'python -m benchmarks.cores' writes"),
        ("round,shards,cores,milliseconds\n1,4,1,x\n", "is not what 'python -m benchmarks.cores'"),
    ],
)
def test_a_csv_that_is_missing_or_damaged_is_one_line_and_the_others_are_written(
    project, capsys, content, problem
):
    (project / "README.md").write_text("<!-- table: cores -->\n<!-- end -->\n")
    (project / "handwriting/README.md").write_text("<!-- table: datasets -->\n<!-- end -->\n")
    path = project / "benchmarks/results/cores.csv"
    path.unlink() if content is None else path.write_text(content)

    assert tables.main([]) == 1
    error = f"error: README.md: benchmarks/results/cores.csv: {problem}"
    assert sum(line.startswith(error) for line in capsys.readouterr().err.splitlines()) == 1
    assert "| Fashion-MNIST |" in (project / "handwriting/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<!-- table: nothing -->\n<!-- end -->\n", "no table 'nothing'; there are cores"),
        ("<!-- table: cores -->\nold\n", "the table 'cores' has no line '<!-- end -->'"),
        ("<!-- table: cores -->\n<!-- table: cores -->\n<!-- end -->\n", "has no line '<!-- end"),
    ],
)
def test_a_marker_that_is_wrong_is_refused_and_text_around_it_stays(
    project, refusal, text, problem
):
    assert problem in refusal(tables.document, text)
    mention = "before\n`<!-- table: NAME -->`\n\n<!-- end -->\nafter\n"
    assert tables.document(mention) == mention


def test_the_table_of_the_training_and_the_line_of_a_recipe(refusal):
    assert lines(training.table(MEASURED))[:3] == [
        ["Keras' `fit`", "2", "45.0", "1.00 (1.00 to 1.00)", "11 %", "98.50 ± 0.71 %"],
        ["default", "2", "25.0", "0.55 (0.50 to 0.60)", "20 %", "99.00 ± 0.00 %"],
        ["`make fast`", "1", "10.0", "0.25", "", "97.00 %"],
    ]
    line = "0.25 of the time of Keras' fit; 97.00 % (n = 1 seeds)."
    assert training.cost_and_result(MEASURED, "fast") == line
    assert "has no row of 'recipe slow'" in refusal(training.cost_and_result, MEASURED, "slow")


def test_the_table_of_cores():
    took = {"2": (("18", "9"), ("20", "16")), "4": (("20", "8"), ("20", "10"))}
    measured = [
        {"round": str(number), "shards": shards, "cores": served, "milliseconds": milliseconds}
        for shards, rounds in took.items()
        for number, pair in enumerate(rounds)
        for served, milliseconds in zip("12", pair, strict=True)
    ]
    assert lines(cores.table(measured))[:2] == [
        ["2", "19.0", "0.95 (0.90 to 1.00)", "1.62 (1.25 to 2.00)"],
        ["4", "20.0", "1.00 (1.00 to 1.00)", "2.25 (2.00 to 2.50)"],
    ]


def test_the_table_of_handwriting():
    measured = [
        {"digits": "large", "n": "100", "model": "default", "accuracy": "0.9", "refused": "1"},
        {"digits": "small", "n": "1797", "model": "other", "accuracy": "0.91234", "refused": "0"},
    ]
    *found, (text,) = lines(handwriting.table(measured))
    assert found == [["large", "100", "0.9000", "", "1"], ["small", "1,797", "", "0.9123", "0"]]
    assert "a standard error of at most 0.030" in text  # √(0.9 × 0.1 / 100)


def test_the_table_and_the_line_of_the_data_sets(refusal):
    measured = [
        {"dataset": "fashion_mnist", "seed": seed, "accuracy": accuracy, "log_loss": "0.25"}
        for seed, accuracy in (("42", "0.91"), ("43", "0.93"))
    ]
    assert lines(datasets.table(measured)) == [
        ["Fashion-MNIST", "2", "92.00 ± 1.41 %", "91.00 to 93.00 %", "0.2500"],
        ["n is the number of seeds, 42 to 43."],
    ]
    line = "that of the default; 92.00 ± 1.41 % (n = 2 seeds)."
    assert datasets.cost_and_result(measured, "fashion_mnist") == line
    assert "has no row of 'mnist'" in refusal(datasets.cost_and_result, measured, "mnist")


def test_a_stage_has_the_flags_of_dvc_yaml_and_fails_in_one_line(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(ROOT)
    commands.write_params(tmp_path / "params.yaml", prepare={"raw": "missing"})

    words = commands.stage_command("fetch", tmp_path, {"--raw": tmp_path / "other.npz"})
    assert words[1:3] == ["-m", "stages.fetch"]
    assert words[words.index("--raw") + 1] == str(tmp_path / "other.npz")
    assert "missing" in words  # ${prepare.raw}
    assert "no --other" in refusal(commands.stage_command, "fetch", tmp_path, {"--other": tmp_path})
    assert refusal(commands.run_stage, "prepare", tmp_path).endswith("failed (exit code 1)")


def test_the_picture_of_the_training_is_drawn_from_rows(tmp_path):
    from PIL import Image

    training.draw(MEASURED, tmp_path / "training.png")

    assert Image.open(tmp_path / "training.png").width <= 900
