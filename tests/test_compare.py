import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml

from cnn.errors import run
from tests.recorded import make_repository, record
from tests.revisions import PROJECT, commit, git, make_history
from tools import compare, groups

HEADER = "index,image,actual,predicted,probability"


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    root = tmp_path_factory.mktemp("history")
    make_history(root)
    return root


@pytest.fixture
def inside(history, monkeypatch):
    monkeypatch.chdir(history)
    return history


def predictions(actual, *changes):
    """Return a model's readings of `actual`: right but for the (position, digit) in `changes`."""
    predicted = np.array(actual)
    for position, digit in changes:
        predicted[position] = digit
    return predicted


def readings(only_a, only_b, n=100):
    """Return (actual, a, b) of n images, all ones: how many just A and just B reads."""
    actual = np.ones(n, dtype=np.int64)
    a, b = actual.copy(), actual.copy()
    b[:only_a] = 7
    a[only_a : only_a + only_b] = 7
    return actual, a, b


def test_a_table_worked_by_hand():
    actual = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    a = predictions(actual, (0, 6), (2, 7), (3, 7), (9, 8))  # wrong: a 0, both 1s, a 4
    b = predictions(actual, (0, 5), (4, 7))  # wrong: the same 0 as another digit, a 2
    result = compare.compare(actual, a, b)
    assert (result["images"], result["a"]["wrong"], result["b"]["wrong"]) == (10, 4, 2)
    assert (result["a"]["accuracy"], result["b"]["accuracy"]) == (0.6, 0.8)
    assert (result["only_a_right"], result["only_b_right"], result["read_differently"]) == (1, 3, 5)
    # Of 4 images that one alone reads correctly: 2 (C(4,0) + C(4,1)) / 2^4 = 10/16.
    assert result["p_value"] == pytest.approx(0.625)
    # Wilson, z = 1.959964, 6 of 10: (0.6 + z²/20 ± z sqrt(0.024 + z²/400)) / (1 + z²/10).
    assert result["a"]["interval_95"] == pytest.approx((0.3127, 0.8318), abs=1e-4)
    assert result["classes"][0] == {"class": 1, "images": 2, "only_a_right": 0, "only_b_right": 2}
    assert sum(row["only_b_right"] for row in result["classes"]) == 3


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (9, 14, "B is better on 14 images and worse on 9; a difference this small is expected by "
                "chance (p = 0.40)."),
        (14, 9, "A is better on 14 images and worse on 9; a difference this small is expected by "
                "chance (p = 0.40)."),
        (5, 14, "B is better on 14 images and worse on 5; a difference this small may well be "
                "chance (p = 0.064)."),
        (4, 14, "B is better on 14 images and worse on 4; a difference this large is hardly chance "
                "(p = 0.031)."),
        (0, 40, "B is better on 40 images and worse on 0; a difference this large is hardly chance "
                "(p < 0.0001)."),
        (9, 10, "B is better on 10 images and worse on 9; a difference this small is expected by "
                "chance (p = 1.0)."),
        (9, 9, "Each reads 9 images correctly that the other does not: neither is better."),
        (0, 0, "A and B read all 100 images alike: nothing tells them apart."),
    ],
)  # fmt: skip
def test_the_sentence(only_a, only_b, expected):
    assert compare.sentence(compare.compare(*readings(only_a, only_b))) == expected


def test_mistakes_that_differ_are_not_called_alike():
    actual = np.array([1, 2, 3])
    result = compare.compare(actual, np.array([1, 2, 4]), np.array([1, 2, 5]))
    expected = "Each reads no image correctly that the other does not: neither is better."
    assert compare.sentence(result) == expected


def test_images_that_both_have_are_compared_wherever_they_stand():
    """Equal images count as often as both have them; a corrected label is another question."""
    a = compare.parse(f"{HEADER}\n0,aa,x,x,1\n1,bb,x,y,1\n2,bb,x,x,1\n3,cc,y,y,1\n", "A")
    b = compare.parse(f"{HEADER}\n0,cc,x,y,1\n1,bb,x,x,1\n2,dd,y,y,1\n3,aa,x,y,1\n", "B")

    actual, predicted_a, predicted_b = compare.shared(a, b)

    assert actual.tolist() == ["x", "x"]  # aa and the first bb; cc was relabelled
    assert predicted_a.tolist() == ["x", "y"]
    assert predicted_b.tolist() == ["y", "x"]


def test_revisions_of_every_kind(inside, capsys):
    git(inside, "tag", "--annotate", "--message", "x", "v1", "good")
    baseline, poor = git(inside, "rev-parse", "good"), git(inside, "rev-parse", "poor")
    git(inside, "update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/wild-idea", poor)
    sentences = set()
    for a, b in [("good", "poor"), ("v1", "wild-idea"), (baseline[:8], poor), ("HEAD~2", "HEAD")]:
        compare.main([a, b])
        output = capsys.readouterr().out
        assert all(len(line) <= 80 for line in output.splitlines()[:-1])
        sentences.add(output.splitlines()[-1])
    compare.main(["good"])
    assert "B: workspace" in (output := capsys.readouterr().out)
    sentences.add(output.splitlines()[-1])
    assert len(sentences) == 1
    assert sentences.pop().startswith("A is better on ")
    assert git(inside, "status", "--porcelain") == ""


def test_a_revision_against_itself(inside, capsys):
    compare.main(["poor", "HEAD"])
    assert "read all 10,000 images alike" in capsys.readouterr().out


def test_json(inside, capsys):
    compare.main(["good", "other", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert (result["a"]["revision"], result["b"]["revision"]) == ("good", "other")
    assert result["a"]["wrong"] == result["b"]["wrong"]
    assert result["only_a_right"] == result["only_b_right"] > 0
    assert result["sentence"].endswith("neither is better.")


def one_line(capsys, *words):
    assert run(lambda: compare.main(list(words))) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err


@pytest.mark.parametrize("revision", ["nothing", "HEAD~99", "", "good:", "--", "good:reports"])
def test_an_unknown_revision(inside, capsys, revision):
    error = one_line(capsys, "--json", "--", revision)
    assert f"'{revision}': unknown Git revision" in error


def test_what_cannot_be_compared(inside, capsys):
    path = inside / "reports/predictions.csv"
    whole = path.read_text()
    try:
        path.write_text(f"{HEADER}\n0,ffff,7,7,0.9\n")
        assert "'good' and 'workspace' share no test image" in one_line(capsys, "good")
        path.write_text(whole[: whole.index("\n9000,") + 1])
        compare.main(["good"])
        told = capsys.readouterr().out
        assert "Compared on the 9,000 test images that both share (A has 10,000, B 9,000)." in told
        path.write_bytes(b"\xff\xfe")
        assert "'workspace': is not text" in one_line(capsys, "good")
        path.unlink()
        assert "not in 'workspace'; `dvc repro`" in one_line(capsys, "good")
    finally:
        path.write_text(whole)


def test_outside_of_a_project(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "not inside of a DVC repository" in one_line(capsys, "HEAD")


def test_it_starts_without_the_heavy_packages(inside):
    program = (
        "import sys; from tools.compare import main; main(['good', 'poor']);"
        "assert not {'tensorflow', 'keras', 'sklearn', 'pandas', 'matplotlib'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Experiments of two recipes, with DVC's names for a grid of seeds, and a few odd ones."""
    root = tmp_path_factory.mktemp("recipes")
    make_repository(root)
    for number, (slow, fast) in enumerate([(3, 5), (2, 3), (4, 6), (3, 6)], 1):
        record(root, f"slow-{number}", seed=41 + number, errors=slow, log_loss=slow / 50)
        settings = {"epochs": 1}
        record(root, f"fast-{number}", seed=41 + number, errors=fast, settings=settings, log_loss=1)
    record(root, "slow", seed=42, errors=3, log_loss=3 / 50)  # the same as slow-1
    record(root, "more-5", seed=50, errors=4)
    record(root, "more-6", seed=42, errors=6)
    record(root, "odd-1", seed=42, errors=3)
    record(root, "odd-2", seed=43, errors=3, settings={"epochs": 9})
    record(root, "small-1", seed=42, errors=3, images=50)
    return root


@pytest.fixture
def among(recipes, monkeypatch):
    monkeypatch.chdir(recipes)
    return recipes


def told(capsys, *words):
    compare.main(list(words))
    output = capsys.readouterr()
    assert "--json" in words or max(map(len, output.out.splitlines())) <= 80
    assert "nan" not in output.out
    return output


def test_two_recipes_by_hand(among, capsys):
    output = told(capsys, "slow-*", "fast-*")
    rows = [" ".join(line.split()) for line in output.out.splitlines()]
    assert output.err == ""
    assert rows[0] == "mean ± standard deviation A: slow-* B: fast-*"
    assert rows[1] == "runs 4 4"
    # A is wrong 3, 2, 4, 3 times, B 5, 3, 6, 6: means 3 and 5, deviations sqrt(2 / 3), sqrt(2).
    assert "accuracy 97.000% ± 0.816% 95.000% ± 1.414%" in rows
    assert "errors 3.0 ± 0.8 5.0 ± 1.4" in rows
    # B - A is 2, 1, 2, 3: deviation sqrt(2 / 3), of the mean sqrt(1 / 6); t = 2 sqrt(6), 3 degrees
    # of freedom: 95 % lie within 3.182446, so 2 ± 3.182446 sqrt(1 / 6) = 2 ± 1.299.
    assert "errors +2.0 +0.7 to +3.3 0.016" in rows
    assert "accuracy, % points -2.000 -3.299 to -0.701 0.016" in rows
    assert "log_loss +0.94000 +0.91402 to +0.96598 < 0.0001" in rows
    assert "Paired t-test: both sets have the same 4 seeds." in rows
    assert " ".join(rows).endswith(
        "A is better by 2.0 of 100 images on average; a difference this large is hardly chance "
        "(p = 0.016)."
    )


def test_sets_in_json(among, capsys):
    result = json.loads(told(capsys, "slow-*", "more-*", "--json").out)
    assert (result["a"]["revision"], result["b"]["revision"]) == ("slow-*", "more-*")
    assert [run["name"] for run in result["b"]["runs"]] == ["more-6", "more-5"]  # by seed
    assert result["test"] == "welch"
    assert result["why"].endswith("the sets share only 1 of their 4 and 2 seeds.")
    assert list(result["difference"]) == ["accuracy", "errors"]  # what all have
    assert result["warnings"] == []
    assert result["sentence"].startswith("A is better by 2.0 of 100 images on average; ")


def test_a_run_under_two_names_counts_once(among, capsys):
    output = told(capsys, "slow*", "fast-*")
    assert output.err == "warning: 'slow-1' is the same run as 'slow' and counts once\n"
    assert "both sets have the same 4 seeds" in output.out
    compare.main(["slow", "fast-1"])
    expected = capsys.readouterr().out
    compare.main(["slow", "fas*-1"])
    assert capsys.readouterr().out == expected
    compare.main(["slow*1", "slow"])  # each is one run
    assert "read all 100 images alike" in capsys.readouterr().out


def test_a_set_against_itself_and_against_one_run(among, capsys):
    same = told(capsys, "slow-*", "slow-?").out
    assert "neither is better" in same
    output = told(capsys, "slow-*", "slow")
    assert output.err == "warning: 'slow-1' of A and 'slow' of B are one run\n"
    one = " ".join(told(capsys, "slow-*", "more-5").out.split())
    assert "Student's t-test of one run against 4, whose spread is used." in one
    assert "accuracy 97.000% ± 0.816% 96.000%" in one


def test_a_set_that_is_no_recipe_is_told(among, capsys):
    why = "train.epochs is 2 in 'odd-1' and 9 in 'odd-2'"
    warning = f"warning: not one recipe with several seeds: {why}\n"
    assert told(capsys, "odd-*", "fast-*").err == warning


def test_sets_that_cannot_be_compared(among, capsys):
    error = one_line(capsys, "fats-*", "slow-*")
    assert "'fats-*': matches no experiment, branch or tag; 'dvc exp list --all-commits'" in error
    error = one_line(capsys, "slow-*", "small-*")
    assert "'slow-1' was tested on 100 images, 'small-1' on 50; compare runs with" in error
    assert "metrics.json: not in 'main'; `dvc repro`" in one_line(capsys, "slow-*", "main")
    assert "not in 'workspace'" in one_line(capsys, "slow-*")


def test_the_picture_of_two_sets(among, capsys, tmp_path):
    path = tmp_path / "runs.png"
    shown = told(capsys, "slow-*", "fast-*").out
    compare.main(["slow-*", "fast-*", "--picture", str(path)])
    assert capsys.readouterr().out == f"{shown}\nThe runs are drawn in {path}\n"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "--picture is 'slow-*'; allowed: a path" in one_line(capsys, "--picture", "slow-*", "x")
    assert "--picture draws several runs" in one_line(capsys, "slow", "fast-1", "--picture")


def test_git_ignores_the_picture_where_it_goes_by_itself():
    ignored = git(PROJECT, "check-ignore", compare.PICTURE)
    assert ignored == compare.PICTURE


def test_the_verdict_is_in_the_same_words_for_runs_and_for_sets():
    one = compare.sentence(compare.compare(*readings(4, 14)))
    assert one.endswith(f"{groups.chance(0.0309)}.")


def test_metrics_diff_fits_a_terminal_and_shows_headlines_only(inside, capsys):
    from dvc.cli import main as dvc

    assert dvc(["metrics", "diff", "good", "poor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:2] for line in lines[1:]] == [
        ["reports/evaluate/metrics.json", name]
        for name in ("accuracy", "accuracy_high", "accuracy_low", "errors", "log_loss")
    ]
    assert dvc(["metrics", "show"]) == 0
    assert "per_class" not in (shown := capsys.readouterr().out)
    assert not {"environment", "macro_f1"} & set(shown.split())
    targets = ["--targets", "reports/evaluate/per_class.json"]
    assert dvc(["metrics", "diff", "good", "poor", *targets]) == 0
    by_class = capsys.readouterr().out
    assert max(map(len, by_class.splitlines())) <= 80
    assert all(f"{digit}.f1" in by_class for digit in range(10))


def test_the_comment_on_a_pull_request(inside, tmp_path):
    """Run the step of the workflow that writes the comment, as a runner does."""
    workflow = yaml.safe_load((PROJECT / ".github/workflows/pull-request.yml").read_text())
    step = next(
        step for step in workflow["jobs"]["compare"]["steps"] if "comment.md" in step.get("run", "")
    )
    summary = tmp_path / "summary.md"
    environment = os.environ | {
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "GITHUB_STEP_SUMMARY": str(summary),
        "HEAD_REPOSITORY": "someone/fork",
        "BASE_SHA": git(inside, "rev-parse", "good"),
        "HEAD_SHA": git(inside, "rev-parse", "poor"),
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    comment = summary.read_text()
    (inside / "comment.md").unlink()
    assert "| reports/evaluate/metrics.json | accuracy " in comment
    assert "A is better on " in comment
    url = f"https://raw.githubusercontent.com/someone/fork/{environment['HEAD_SHA']}/reports/evaluate/pictures/"
    assert f"![confusion]({url}confusion.png)" in comment
    for line in comment.splitlines():
        if line.startswith("!["):
            assert (
                inside / "reports/evaluate/pictures" / line.rpartition("/")[2].rstrip(")")
            ).exists()


def test_a_revision_without_predictions(inside, capsys):
    git(inside, "checkout", "--quiet", "-b", "bare")
    (inside / "reports/predictions.csv").unlink()
    commit(inside, "without")
    git(inside, "checkout", "--quiet", "main")
    assert "reports/predictions.csv: not in 'without'" in one_line(capsys, "without", "good")
