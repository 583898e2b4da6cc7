"""Every table in the documents is what its CSV gives, and each kind of table is worked by hand."""

import shutil
from pathlib import Path

import pytest

from benchmarks import (
    cores,
    datasets,
    first_run,
    growth,
    handwriting,
    killed,
    knobs,
    large,
    reading,
    rows,
    tables,
    training,
    whole,
    workers,
)

ROOT = Path(__file__).parent.parent
MEASURED = [
    {"round": "1", "seed": "42", "candidate": training.FIT, "seconds": "40", "accuracy": "0.98"},
    {"round": "1", "seed": "42", "candidate": "default", "seconds": "20", "accuracy": "0.99"},
    {"round": "1", "seed": "42", "candidate": "recipe fast", "seconds": "10", "accuracy": "0.97"},
    {"round": "2", "seed": "43", "candidate": training.FIT, "seconds": "50", "accuracy": "0.99"},
    {"round": "2", "seed": "43", "candidate": "default", "seconds": "30", "accuracy": "0.99"},
    {"round": "2", "seed": "43", "candidate": "recipe fast", "seconds": "10", "accuracy": "0.98"},
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


def test_every_table_in_the_documents_is_what_its_csv_gives(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)

    assert tables.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", ["benchmarks/README.md", "recipes/fast.yaml"])
def test_a_changed_number_fails_the_check_and_is_written_again(project, capsys, name):
    document = project / name
    tables.main([])
    good = document.read_text(encoding="utf-8")
    changed = good.replace("n = ", "n = 1", 1)
    assert changed != good
    document.write_text(changed, encoding="utf-8")

    assert tables.main(["--check"]) == 1
    assert f"error: {name}: is not what the CSVs give" in capsys.readouterr().err
    assert document.read_text(encoding="utf-8") == changed

    tables.main([])
    assert document.read_text(encoding="utf-8") == good


def test_a_recipe_says_what_its_rows_say(project):
    tables.main([])

    told = training.cost_and_result(rows.read("training"), "fast")
    text = (project / "recipes/fast.yaml").read_text(encoding="utf-8")
    assert f"\n# Cost and result: {told}\n" in text


def test_a_table_without_its_csv_is_an_error_and_the_others_are_written(project, capsys):
    (project / "README.md").write_text("<!-- table: knobs -->\n<!-- end -->\n", encoding="utf-8")
    (project / "handwriting").mkdir(exist_ok=True)
    (project / "handwriting/README.md").write_text("<!-- table: reading -->\n<!-- end -->\n")
    (project / "benchmarks/results/knobs.csv").unlink()

    assert tables.main([]) == 1
    told = "README.md: benchmarks/results/knobs.csv: is missing; run 'python -m benchmarks.knobs'"
    assert f"error: {told}\n" in capsys.readouterr().err
    assert "import tensorflow" in (project / "handwriting/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<!-- table: nothing -->\n<!-- end -->\n", "no table 'nothing'; there are cores"),
        ("<!-- table: whole -->\nold\n", "the table 'whole' has no line '<!-- end -->'"),
        (
            "<!-- table: whole -->\n<!-- table: knobs -->\n<!-- end -->\n",
            "the table 'whole' has no line '<!-- end -->'",
        ),
    ],
)
def test_a_marker_that_is_wrong_is_refused(project, refusal, text, told):
    assert told in refusal(tables.document, text)


def test_a_csv_of_another_form_is_refused(project, refusal):
    (project / "benchmarks/results/whole.csv").write_text("round,seconds\n1,2\n", encoding="utf-8")

    message = refusal(tables.document, "<!-- table: whole -->\n<!-- end -->\n")
    assert "benchmarks/results/whole.csv: is not what 'python -m benchmarks.whole'" in message


def test_text_around_a_table_stays():
    text = "before\n`<!-- table: NAME -->`\n\n<!-- end -->\nafter\n"

    assert tables.document(text) == text


def test_the_table_of_the_training():
    ratios = "0.55 (0.50 to 0.60)"
    assert lines(training.table(MEASURED)) == [
        ["Keras' `fit`", "2", "45.0", "1.00 (1.00 to 1.00)", "98.50 ± 0.71 %"],
        ["default", "2", "25.0", ratios, "99.00 ± 0.00 %"],
        ["`make fast`", "2", "10.0", "0.23 (0.20 to 0.25)", "97.50 ± 0.71 %"],
        ["n rounds, each with another seed (42 to 43)."],
    ]


def test_the_table_of_the_training_says_what_is_arithmetic():
    operations = training.FLOP_PER_IMAGE * training.IMAGES
    speeds = [{"precision": "float32", "flops": str(operations / s)} for s in (4, 5, 6)]

    found = lines(training.table(MEASURED, speeds))
    assert [line[4] for line in found[:3]] == ["11 %", "20 %", ""]  # 5 s of 45 s and of 25 s
    assert "(5.0 s in float32)" in found[3][0]


def test_the_line_of_a_recipe(refusal):
    assert training.cost_and_result(MEASURED, "fast") == (
        "0.23 (0.20 to 0.25) of the time of Keras' fit; 97.50 ± 0.71 % (n = 2 seeds)."
    )
    assert "has no row of 'recipe slow'" in refusal(training.cost_and_result, MEASURED, "slow")


def test_the_table_of_the_knobs():
    measured = [
        {"round": "1", "candidate": "all", "seconds": "30", "accuracy": "0.995"},
        {"round": "1", "candidate": "shift", "seconds": "20", "accuracy": "0.993"},
        {"round": "2", "candidate": "all", "seconds": "20", "accuracy": "0.995"},
        {"round": "2", "candidate": "shift", "seconds": "20", "accuracy": "0.997"},
    ]
    assert lines(knobs.table(measured)) == [
        ["`shift`", "+0.00 (-0.20 to +0.20)", "x 1.25 (1.00 to 1.50)"],
        ["With all of them 99.50 ± 0.00 %; n = 2 seeds."],
    ]


def test_the_table_of_the_whole_pipeline():
    measured = [
        {"round": "1", "candidate": whole.PLAIN, "seconds": "50", "accuracy": "0.987"},
        {"round": "1", "candidate": whole.REPRO, "seconds": "40", "accuracy": "0.993"},
    ]
    assert lines(whole.table(measured)) == [
        ["plain script", "50.0", "1.00", "98.70 %"],
        ["`dvc repro --force`", "40.0", "0.80", "99.30 %"],
        ["n = 1 rounds."],
    ]


def test_the_table_of_growth():
    size = growth.SIZE
    measured = [
        {"round": "1", "copies": "1", "seconds": "5", "peak_bytes": str(5 * size)},
        {"round": "1", "copies": "8", "seconds": "40", "peak_bytes": str(26 * size)},
    ]
    assert lines(growth.table(measured)) == [
        ["54,000", "5.0", f"{5 * size / 1e6:.0f}", "5.0"],
        ["432,000", "40.0", f"{26 * size / 1e6:,.0f}", "3.2"],
        [
            "From the first row to the last, 54,000 images more take 5.0 s, and a byte of images "
            "more 3.00 bytes of memory; n = 1 rounds."
        ],
    ]


def test_the_table_of_large(refusal):
    same = {"steps": "100", "faults": "0", "digest": "aa", "group_peak": ""}
    few = {"images": "1000", "preparing": "0.02", "loading": "0.01", "training": "1", "cpu": "2"}
    held = few | {"images": "4000", "preparing": "", "training": "1.1", "own": "9e9"}
    mapped = held | {"preparing": "0.12", "training": "1.2", "faults": "150", "group_peak": "2e9"}
    measured = [
        {"round": "1", "candidate": name, **same, **row}
        for name, row in (("few", few | {"own": "4e8"}), ("held", held), ("mapped", mapped))
    ]
    few, held, mapped = large.TITLES.values()
    assert lines(large.table(measured)) == [
        [few, "1,000", "20", "10", "10.0", "1.00", "20.0", "400", "0.0"],
        [held, "4,000", "", "2", "11.0", "1.10", "20.0", "9,000", "0.0"],
        [mapped, "4,000", "30", "2", "12.0", "1.20", "20.0", "9,000", "1.5"],
        [
            "Steps timed: 100, each of images from all over the file; n = 1 rounds. All of them, "
            "in memory or mapped, give the same bytes. The group used 2.00 GB at most, the "
            "kernel's cache of files included."
        ],
    ]
    measured[2]["digest"] = "bb"
    assert "mapped gives other bytes" in refusal(large.table, measured)


def test_the_table_of_first_run():
    with_ = {"cores": "2", "python": "3.13.5"}
    measured = [
        {"what": "make a", "seconds": "90", "megabytes": "640", "disk": "3260000000", **with_},
        {"what": "make b", "seconds": "45", "megabytes": "0", "disk": "40000000", **with_},
    ]
    assert lines(first_run.table(measured)) == [
        ["make a", "1.5 min", "0.6 GB", "3.3 GB"],
        ["make b", "0.8 min", "–", "–"],
        ["On 2 cores, with Python 3.13.5 and nothing in pip's cache."],
    ]


def test_the_table_of_killed():
    first = {"recipe": "accurate", "run": "undisturbed", "seconds": "300", "lost": "", "model": "a"}
    measured = [
        first,
        first | {"run": "killed", "seconds": "100", "lost": "2", "model": ""},
        first | {"run": "killed", "seconds": "50", "lost": "5", "model": ""},
        first | {"run": "last", "seconds": "180"},
    ]
    assert lines(killed.table(measured)) == [
        ["undisturbed", "300 s", ""],
        ["killed 2 times", "330 s", "3.5 s (2.0 to 5.0)"],
        ["The models are the same to the bit; an epoch takes 10 s."],
    ]


def test_the_table_of_delays_of_workers():
    measured = [
        {"workers": "2", "delay": delay, "milliseconds": took, "model": "a"}
        for delay, took in (("0", "15"), ("1", "20.4"), ("20", "105"))
    ]
    (line, (text,)) = lines(workers.table_of_delays(measured))
    assert line == ["2", "15", "20", "105", "4.5"]
    assert text.startswith("The models are the same to the bit. ")


def test_the_table_of_faults_of_workers():
    kinds = ("stopped", "1.25", ""), ("stopped", "3", "other bytes"), ("cut", "15", "")
    measured = [dict(zip(("fault", "seconds", "problem"), kind, strict=True)) for kind in kinds]

    assert lines(workers.table_of_faults(measured))[:2] == [
        ["stopped", "2", "1", "1.2 to 3.0 s"],
        ["cut", "1", "1", "15.0 to 15.0 s"],
    ]


def test_the_table_of_reading():
    measured = [
        {"round": "1", "candidate": reading.BASE, "seconds": "4", "peak_bytes": "7e8"},
        {"round": "1", "candidate": reading.ONE, "seconds": "3", "peak_bytes": "6e8"},
        {"round": "1", "candidate": reading.MANY, "seconds": "6", "peak_bytes": "6.5e8"},
    ]
    assert lines(reading.table(measured)) == [
        ["`import tensorflow`", "4.0", "1.00", "700"],
        [reading.ONE, "3.0", "0.75", "600"],
        [reading.MANY, "6.0", "1.50", "650"],
        ["999 pictures more take 3.0 s (3.0 to 3.0) more; n = 1 rounds."],
    ]


def test_the_table_of_cores():
    measured = [
        {"round": number, "shards": shards, "cores": served, "milliseconds": taken}
        for number, shards, served, taken in (
            ("1", "2", "1", "18"), ("1", "2", "2", "9"),
            ("1", "4", "1", "20"), ("1", "4", "2", "8"),
            ("2", "2", "1", "20"), ("2", "2", "2", "16"),
            ("2", "4", "1", "20"), ("2", "4", "2", "10"),
        )
    ]  # fmt: skip
    *found, (text,) = lines(cores.table(measured))
    assert found == [
        ["2", "19.0", "0.95 (0.90 to 1.00)", "1.62 (1.25 to 2.00)"],
        ["4", "20.0", "1.00 (1.00 to 1.00)", "2.25 (2.00 to 2.50)"],
    ]
    assert text.startswith("Median and range, n = 2 rounds.")


def test_the_table_of_handwriting():
    measured = [
        {"digits": "large", "n": "100", "model": "default", "accuracy": "0.9", "refused": "1"},
        {"digits": "large", "n": "100", "model": "other", "accuracy": "0.95", "refused": "1"},
        {"digits": "small", "n": "1797", "model": "default", "accuracy": "0.91234", "refused": "0"},
    ]
    *found, (text,) = lines(handwriting.table(measured))
    assert found == [
        ["large", "100", "0.9000", "0.9500", "1"],
        ["small", "1,797", "0.9123", "", "0"],
    ]
    assert "a standard error of at most 0.030" in text  # √(0.9 × 0.1 / 100)


def test_the_table_and_the_line_of_the_data_sets(refusal):
    columns = ("dataset", "seed", "accuracy", "log_loss")
    measured = [
        dict(zip(columns, line.split(","), strict=True))
        for line in (
            "mnist,42,0.99,0.02",
            "fashion_mnist,42,0.91,0.25",
            "fashion_mnist,43,0.93,0.27",
        )
    ]
    assert lines(datasets.table(measured)) == [
        ["MNIST", "1", "99.00 %", "99.00 to 99.00 %", "0.0200"],
        ["Fashion-MNIST", "2", "92.00 ± 1.41 %", "91.00 to 93.00 %", "0.2600"],
        ["n is the number of seeds, 42 to 43."],
    ]
    line = "that of the default; 92.00 ± 1.41 % (n = 2 seeds)."
    assert datasets.cost_and_result(measured, "fashion_mnist") == line
    assert "has no row of 'mnist'" in refusal(datasets.cost_and_result, measured[1:], "mnist")


def test_a_stage_has_the_flags_of_dvc_yaml(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(ROOT)
    rows.write_params(tmp_path / "params.yaml", prepare={"raw": "a folder"})

    words = rows.stage_command("fetch", tmp_path, {"--raw": tmp_path / "other.npz"})
    assert words[1:3] == ["-m", "stages.fetch"]
    assert words[words.index("--raw") + 1] == str(tmp_path / "other.npz")
    assert words[words.index("--wanted") + 1] == "a folder"
    assert "no --other" in refusal(rows.stage_command, "fetch", tmp_path, {"--other": tmp_path})


def test_a_stage_writes_into_its_folder_and_its_failure_is_told(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(ROOT)
    rows.write_params(tmp_path / "params.yaml", prepare={"raw": "missing"})

    rows.stage("fetch", tmp_path)  # nothing to fetch: a file without arrays
    assert (tmp_path / "data/raw/published.npz").stat().st_size < 100
    assert refusal(rows.stage, "prepare", tmp_path) == "stage 'prepare' failed (exit code 1)"


def test_the_picture_of_the_training_is_drawn_from_rows(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt
    from PIL import Image

    monkeypatch.setattr(plt, "close", lambda figure: None)
    training.draw(MEASURED, tmp_path / "training.png")

    assert Image.open(tmp_path / "training.png").width <= 900
    figure = plt.gcf()
    texts = figure.axes[0].get_yticklabels()
    assert [text.get_text() for text in texts] == [
        "Keras' fit",
        "default",
        "make fast",
    ]
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for a in boxes for b in boxes if a is not b)
    assert {text.get_rotation() for text in texts} == {0}
    monkeypatch.undo()
    plt.close("all")
