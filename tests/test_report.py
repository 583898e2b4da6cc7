"""Every prediction is a row, and the card is made of what the other stages wrote."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from cnn.base.files import REPAIR
from cnn.base.npz import write_arrays
from cnn.base.params import read_yaml
from cnn.results import gallery, tables
from stages import report
from tests.helpers.evaluated import DATA, EXACT, TEN, WRONG, evaluated

INPUTS = ["data.json", "environment.json", "metrics.json", "scores.json", "per_class.json"]


def flags(folder) -> list[str]:
    files = {"params": "params.yaml", "predictions": "predictions.npz", "rows": "predictions.csv"}
    files |= {"pictures": "evaluate/pictures", "card": "README.md"}
    files |= {Path(name).stem.replace("_", "-"): name for name in INPUTS}
    return [f"--{flag}={folder / name}" for flag, name in files.items()]


@pytest.fixture
def run_report(tmp_path):
    """Write what the stage reads for given mistakes, run it; return its rows and its card."""

    def call(wrong=WRONG, classes=TEN, environment=EXACT, **data) -> tuple[list[dict], str]:
        labels, probabilities, found = evaluated(tuple(wrong.items()), tuple(classes))
        write_arrays(
            tmp_path / "predictions.npz",
            probabilities=probabilities,
            labels=labels,
            classes=np.array(classes),
            images=np.array([f"{index:016x}" for index in range(30)]),
        )
        tables.write(*found, tmp_path)
        captions = {name: picture.caption for name, picture in gallery.PICTURES.items()}
        pictures = tmp_path / "evaluate" / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        (pictures / "captions.json").write_text(json.dumps(captions))
        (tmp_path / "environment.json").write_text(json.dumps(environment))
        (tmp_path / "data.json").write_text(json.dumps(DATA | data))
        (tmp_path / "params.yaml").write_text(
            "train: {epochs: 010, filters: [8, 16], dense_units: [32], fill: 0.5, resume: true}\n"
        )
        report.main(flags(tmp_path))
        with open(tmp_path / "predictions.csv", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return rows, (tmp_path / "README.md").read_text(encoding="utf-8")

    return call


def test_each_image_is_a_row_with_its_fingerprint_and_class_names(run_report):
    rows, _ = run_report()

    columns = ["index", "image", "actual", "predicted", "probability"]
    assert list(rows[0]) == columns
    assert [row["index"] for row in rows] == [str(index) for index in range(30)]
    assert list(rows[0].values()) == ["0", "0000000000000000", "ant", "ant", "0.955000"]
    assert list(rows[13].values()) == ["13", "000000000000000d", "dog", "fox", "0.900000"]


def test_the_card_has_what_the_files_say_and_the_parameters_as_dvc_reads_them(run_report):
    _, card = run_report(title="Eleven animals")

    assert card.startswith("# A CNN that tells 10 classes of images apart: Eleven animals\n")
    assert "| `epochs` | 10 |" in card  # 010 in YAML 1.2
    assert "](evaluate/pictures/samples.png)" in card


def test_the_paths_of_the_committed_card_lead_to_its_pictures(pytestconfig):
    stage = read_yaml(pytestconfig.rootpath / "dvc.yaml")["stages"]["report"]["cmd"]
    reports = pytestconfig.rootpath / "reports"

    linked = re.findall(r"\]\(([\w/.]+)\)", (reports / "README.md").read_text(encoding="utf-8"))

    assert "--card reports/README.md" in stage
    assert len(linked) == 2 + len(gallery.PICTURES)  # those, and two tables
    assert all((reports / path).is_file() for path in linked)


@pytest.mark.parametrize(
    "name", [*INPUTS, "predictions.npz", "evaluate/pictures/captions.json", "params.yaml"]
)
def test_an_input_that_is_missing_or_of_another_form_is_refused(
    run_report, tmp_path, refusal, name
):
    run_report()
    (tmp_path / "README.md").unlink()
    (tmp_path / name).unlink()

    assert refusal(report.main, flags(tmp_path)).startswith(f"{tmp_path / name}: ")

    (tmp_path / name).write_text("- train\n")
    assert refusal(report.main, flags(tmp_path)).startswith(f"{tmp_path / name}: ")
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("name", INPUTS[:4])
def test_a_file_that_lacks_what_the_card_says_is_refused(run_report, tmp_path, refusal, name):
    run_report()
    (tmp_path / name).write_text("{}")

    message = refusal(report.main, flags(tmp_path))

    assert message.startswith("what the other stages wrote lacks '")
    assert message.endswith(REPAIR)
