"""The raw images are normalized and split; the summary says what they are."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cnn.data import splits
from cnn.data.sets import fingerprints, load
from cnn.published.datasets import ARRAYS, PUBLISHED, to_idx
from stages import prepare

ROOT = Path(__file__).parent.parent
SPLITS = splits.NAMES


@pytest.fixture
def published(raw, monkeypatch):
    """The small raw data as the published MNIST."""
    digests = tuple(hashlib.sha256(b"".join(to_idx(raw[name]))).hexdigest() for name in ARRAYS)
    monkeypatch.setitem(PUBLISHED, "mnist", PUBLISHED["mnist"]._replace(sha256=digests))


@pytest.fixture
def run_prepare(tmp_path, tiny):
    """Run the stage on raw data with some parameters; return its three sets and its summary."""

    def call(raw: Path, **changed):
        params = tmp_path / "params.yaml"
        params.write_text(yaml.safe_dump({"prepare": tiny["prepare"] | changed}))
        folder = tmp_path / "prepared"
        prepare.main(flags(raw, folder, params))
        about = json.loads((folder / "data.json").read_text())
        return [load(folder / f"{split}.npz") for split in SPLITS], about

    return call


def flags(raw: Path, folder: Path, params: Path) -> list[str]:
    paths = [f"--{split}={folder / split}.npz" for split in SPLITS]
    return [f"--params={params}", f"--raw={raw}", *paths, f"--summary={folder / 'data.json'}"]


def test_a_published_set_is_split_in_its_order_as_keras_splits_it(
    published, run_prepare, raw_npz, raw
):
    (train, validation, test), about = run_prepare(raw_npz)

    expected = [
        (raw["x_train"][:450], raw["y_train"][:450]),
        (raw["x_train"][450:], raw["y_train"][450:]),
        (raw["x_test"], raw["y_test"]),
    ]
    for found, (images, labels) in zip((train, validation, test), expected, strict=True):
        np.testing.assert_array_equal(found.images[..., 0], images / np.float32(255))
        np.testing.assert_array_equal(found.labels, labels)
        assert found.classes.tolist() == list("0123456789")
    assert about["title"] == "MNIST"
    assert about["validation"] == "0.1 of the training images, the last ones"
    assert [about[f"{split}_images"] for split in SPLITS] == [450, 50, 200]
    assert about["images_by_class"]["7"]["test"] == (raw["y_test"] == 7).sum()
    assert not any(isinstance(value, list) for value in about.values())  # DVC would draw it


def test_ones_own_images_are_drawn_from_each_class(run_prepare, tmp_path):
    """The labels lie in order, as those of a folder do: the last ones would be of one class."""
    labels = np.repeat(np.arange(4), [100, 50, 20, 10])
    images = np.random.default_rng(0).integers(0, 99, (180, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels)

    found, about = run_prepare(tmp_path / "mine.npz", test_share=0.2, validation_share=0.25)

    counts = [np.bincount(each.labels).tolist() for each in found]
    assert counts == [[60, 30, 12, 6], [20, 10, 4, 2], [20, 10, 4, 2]]
    every = np.concatenate([each.images for each in found]).reshape(180, -1)
    assert len(np.unique(every, axis=0)) == 180
    assert about["test"] == "0.2 of all images, drawn by class with seed 42"
    assert (about["height"], about["width"], about["channels"]) == (8, 8, 3)


def test_most_images_that_were_drawn_are_drawn_again_when_more_arrive_by_the_same_seed(
    run_prepare, tmp_path
):
    """So two versions of the data share most of the smaller test set, and nothing leaks."""
    images = np.random.default_rng(0).integers(0, 99, (900, 8, 8), dtype=np.uint8)
    labels = np.arange(900) % 3
    tests = []
    for n in (600, 900):
        np.savez(tmp_path / "mine.npz", x_train=images[:n], y_train=labels[:n])
        tests.append(set(fingerprints(run_prepare(tmp_path / "mine.npz")[0][2].images)))

    assert [len(test) for test in tests] == [120, 180]
    assert len(tests[0] & tests[1]) > 100
    other, again = (run_prepare(tmp_path / "mine.npz", seed=seed)[0][2].images for seed in (1, 42))
    assert set(fingerprints(again)) == tests[1]
    assert set(fingerprints(other)) != tests[1]


def test_what_is_nearly_mnist_is_not_called_so_and_what_repeats_is_counted(
    published, run_prepare, raw, tmp_path, capsys
):
    x_test = raw["x_test"].copy()
    x_test[:3] = raw["x_train"][:3]
    np.savez(tmp_path / "mine.npz", **(raw | {"x_test": x_test}))

    _, about = run_prepare(tmp_path / "mine.npz")

    assert about["test_images_also_in_training"] == 3
    assert (about["title"], about["licence"]) == ("Own images", "")
    assert "MNIST" not in json.dumps(about)
    assert "3 of the latter are in training too, to the bit" in capsys.readouterr().out


def test_images_that_dvc_does_not_track_are_a_warning(run_prepare, raw, tmp_path, capsys):
    path = tmp_path / "mine.npz"
    np.savez(path, **raw)

    run_prepare(path)
    untracked = capsys.readouterr().err
    Path(f"{path}.dvc").touch()
    run_prepare(path)

    assert untracked == (
        f"warning: {path}: is no published data and is not tracked; run 'dvc add {path}', "
        "under a name of its own if fetch writes this one\n"
    )
    assert capsys.readouterr().err == ""


def test_validation_starts_where_keras_lets_it_start(tf):
    from keras.src.trainers.data_adapters.array_slicing import train_validation_split

    for n in (10, 997, 60_000):
        for share in (0.1, 0.15, 0.2, 0.3, 1 / 3, 0.7):
            (training, _), _ = train_validation_split((np.arange(n), np.arange(n)), share)
            assert len(splits.last(n, share)[0]) == len(training), (n, share)


@pytest.mark.parametrize("share", [1e-17, 0.9999])
def test_a_share_that_leaves_a_split_empty_is_refused(
    published, run_prepare, raw_npz, refusal, share
):
    message = refusal(run_prepare, raw_npz, validation_share=share)

    shares = f"prepare.validation_share {share:g} and prepare.test_share 0.2"
    assert message.startswith(f"{shares} leave no ")


def test_one_image_of_a_class_is_too_few(run_prepare, tmp_path, refusal):
    labels = np.array([0] * 20 + [1] * 2)
    np.savez(tmp_path / "m.npz", x_train=np.full((22, 8, 8), 9, np.uint8), y_train=labels)

    assert "leave no train image of class 1" in refusal(run_prepare, tmp_path / "m.npz")


def test_bad_input_leaves_nothing(run_prepare, raw, tmp_path, refusal):
    path = tmp_path / "mine.npz"
    np.savez(path, **(raw | {"y_train": raw["y_train"] + 1.0}))

    assert refusal(run_prepare, path).startswith(f"{path}: y_train is float64")
    assert not (tmp_path / "prepared").exists()


def test_the_stage_gives_the_same_bytes_again_and_does_not_import_tensorflow(
    tmp_path, prepared, raw_npz, tiny_yaml
):
    for module in ("tensorflow", "keras"):
        (tmp_path / f"{module}.py").write_text(f"raise RuntimeError('{module} was imported')")

    subprocess.run(
        [sys.executable, "-m", "stages.prepare", *flags(raw_npz, tmp_path, tiny_yaml)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=True,
    )

    for split in SPLITS:
        assert (tmp_path / f"{split}.npz").read_bytes() == (prepared / f"{split}.npz").read_bytes()


LIMITED = """
import re, resource, sys
from pathlib import Path
from stages import prepare

own = re.search(r"VmData:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
most = 1024 * int(own[1]) + 40 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
prepare.main(sys.argv[1:])
"""


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_the_memory_does_not_grow_with_the_images(write, tmp_path, tiny_yaml):
    """50 MB of raw images, 200 MB when they are normalized, with 40 MB to work in."""
    images = np.zeros((800, 250, 250), np.uint8)
    images[:, 0, :2] = np.arange(800)[:, None] % [251, 241]
    write(tmp_path / "mine.npz", x_train=images, y_train=np.arange(800) % 4)

    subprocess.run(
        [sys.executable, "-c", LIMITED, *flags(tmp_path / "mine.npz", tmp_path, tiny_yaml)],
        cwd=ROOT,
        check=True,
    )

    sets = [load(tmp_path / f"{split}.npz") for split in SPLITS]
    found = np.concatenate([np.rint(each.images[:, 0, :2, 0] * 255) for each in sets])
    expected = np.sort(images[:, 0, :2].astype(int) @ [256, 1])
    np.testing.assert_array_equal(np.sort(found.astype(int) @ [256, 1]), expected)
