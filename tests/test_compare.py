"""What the command prints, of models and of recipes, in Git histories of their own."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from cnn.base.program import run
from tests.helpers.recorded import make_repository, record
from tests.helpers.revisions import PROJECT, git, make_history
from tools.compare import __main__ as compare

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
        output = capsys.readouterr().out
        assert (
            "Compared on the 9,000 test images that both share (A has 10,000, B 9,000)." in output
        )
        path.write_bytes(b"\xff\xfe")
        assert "'workspace': is not text" in one_line(capsys, "good")
        path.unlink()
        assert "not in 'workspace'; `dvc repro`" in one_line(capsys, "good")
    finally:
        path.write_text(whole)


def test_it_starts_without_the_heavy_packages(inside):
    program = (
        "import sys; from tools.compare.__main__ import main; main(['good', 'poor']);"
        "assert not {'dvc', 'tensorflow', 'sklearn', 'pandas', 'matplotlib'} & set(sys.modules)"
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


def printed(capsys, *words):
    compare.main(list(words))
    output = capsys.readouterr()
    assert "--json" in words or max(map(len, output.out.splitlines())) <= 80
    assert "nan" not in output.out
    return output


def test_two_recipes_by_hand(among, capsys):
    output = printed(capsys, "slow-*", "fast-*")
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
    result = json.loads(printed(capsys, "slow-*", "more-*", "--json").out)
    assert (result["a"]["revision"], result["b"]["revision"]) == ("slow-*", "more-*")
    assert [run["name"] for run in result["b"]["runs"]] == ["more-6", "more-5"]  # by seed
    assert result["test"] == "welch"
    assert result["why"].endswith("the sets share only 1 of their 4 and 2 seeds.")
    assert list(result["difference"]) == ["accuracy", "errors"]  # what all have
    assert result["warnings"] == []
    assert result["sentence"].startswith("A is better by 2.0 of 100 images on average; ")


def test_a_run_under_two_names_counts_once(among, capsys):
    output = printed(capsys, "slow*", "fast-*")
    assert output.err == "warning: 'slow-1' is the same run as 'slow' and counts once\n"
    assert "both sets have the same 4 seeds" in output.out
    compare.main(["slow", "fast-1"])
    expected = capsys.readouterr().out
    compare.main(["slow", "fas*-1"])
    assert capsys.readouterr().out == expected
    compare.main(["slow*1", "slow"])  # each is one run
    assert "read all 100 images alike" in capsys.readouterr().out


def test_a_set_against_itself_and_against_one_run(among, capsys):
    same = printed(capsys, "slow-*", "slow-?").out
    assert "neither is better" in same
    output = printed(capsys, "slow-*", "slow")
    assert output.err == "warning: 'slow-1' of A and 'slow' of B are one run\n"
    one = " ".join(printed(capsys, "slow-*", "more-5").out.split())
    assert "Student's t-test of one run against 4, whose spread is used." in one
    assert "accuracy 97.000% ± 0.816% 96.000%" in one


def test_a_set_that_is_no_recipe_is_named(among, capsys):
    why = "train.epochs is 2 in 'odd-1' and 9 in 'odd-2'"
    warning = f"warning: not one recipe with several seeds: {why}\n"
    assert printed(capsys, "odd-*", "fast-*").err == warning


def test_sets_that_cannot_be_compared(among, capsys):
    error = one_line(capsys, "fats-*", "slow-*")
    assert "'fats-*': matches no experiment, branch or tag; 'dvc exp list --all-commits'" in error
    error = one_line(capsys, "slow-*", "small-*")
    assert "'slow-1' was tested on 100 images, 'small-1' on 50; compare runs with" in error
    assert "metrics.json: not in 'main'; `dvc repro`" in one_line(capsys, "slow-*", "main")
    assert "not in 'workspace'" in one_line(capsys, "slow-*")


def test_the_picture_of_two_sets(among, capsys, tmp_path):
    path = tmp_path / "runs.png"
    shown = printed(capsys, "slow-*", "fast-*").out
    compare.main(["slow-*", "fast-*", "--picture", str(path)])
    assert capsys.readouterr().out == f"{shown}\nThe runs are drawn in {path}\n"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "--picture is 'slow-*'; allowed: a path" in one_line(capsys, "--picture", "slow-*", "x")
    assert "--picture draws several runs" in one_line(capsys, "slow", "fast-1", "--picture")


def test_git_ignores_the_picture_where_it_goes_by_itself():
    ignored = git(PROJECT, "check-ignore", compare.PICTURE)
    assert ignored == compare.PICTURE


def test_metrics_diff_fits_a_terminal_and_shows_headlines_only(inside, capsys):
    from dvc.cli import main as dvc

    assert dvc(["metrics", "diff", "good", "poor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:2] for line in lines[1:]] == [
        ["reports/evaluate/metrics.json", name]
        for name in (
            *("accuracy", "accuracy_high", "accuracy_low"),
            *("balanced_accuracy", "balanced_high", "balanced_low"),
            *("errors", "log_loss"),
        )
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
