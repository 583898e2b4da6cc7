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

from cnn.data import fingerprints, load
from cnn.published import ARRAYS, PUBLISHED, to_idx
from stages import prepare

ROOT = Path(__file__).parent.parent
SPLITS = ("train", "validation", "test")


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
        return [load(folder / f"{split}.npz") for split in SPLITS], json.loads(
            (folder / "data.json").read_text()
        )

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
    for part, (images, labels) in zip((train, validation, test), expected, strict=True):
        np.testing.assert_array_equal(np.rint(part.images[..., 0] * 255), images)
        np.testing.assert_array_equal(part.labels, labels)
        assert part.classes.tolist() == list("0123456789")
    assert about["title"] == "MNIST"
    assert about["validation"] == "0.1 of the training images, the last ones"
    assert (about["train_images"], about["validation_images"], about["test_images"]) == (
        450,
        50,
        200,
    )
    assert about["images_by_class"]["7"]["test"] == (raw["y_test"] == 7).sum()


def test_other_images_at_the_same_place_are_not_called_mnist(published, run_prepare, raw, tmp_path):
    np.savez(tmp_path / "published.npz", **(raw | {"x_train": raw["x_train"] ^ 1}))

    _, about = run_prepare(tmp_path / "published.npz")

    assert about["title"] == "Own images"
    assert about["licence"] == ""
    assert "MNIST" not in json.dumps(about)


def test_ones_own_images_are_drawn_from_each_class(run_prepare, tmp_path):
    """The labels lie in order, as those of a folder do: the last ones would be of one class."""
    labels = np.repeat(np.arange(4), [100, 50, 20, 10])
    images = np.random.default_rng(0).integers(0, 99, (180, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels)

    parts, about = run_prepare(tmp_path / "mine.npz", test_share=0.2, validation_share=0.25)

    counts = [np.bincount(part.labels).tolist() for part in parts]
    assert counts == [[60, 30, 12, 6], [20, 10, 4, 2], [20, 10, 4, 2]]
    every = np.concatenate([part.images for part in parts]).reshape(180, -1)
    assert len(np.unique(every, axis=0)) == 180
    assert about["test"] == "0.2 of all images, drawn by class with seed 42"
    assert (about["height"], about["width"], about["channels"]) == (8, 8, 3)


def test_most_images_that_were_drawn_are_drawn_again_when_more_arrive(run_prepare, tmp_path):
    """So two versions of the data share most of the smaller test set, and nothing leaks."""
    images = np.random.default_rng(0).integers(0, 99, (900, 8, 8), dtype=np.uint8)
    labels = np.arange(900) % 3
    tests = []
    for n in (600, 900):
        np.savez(tmp_path / "mine.npz", x_train=images[:n], y_train=labels[:n])
        tests.append(set(fingerprints(run_prepare(tmp_path / "mine.npz")[0][2].images)))

    assert [len(test) for test in tests] == [120, 180]
    assert len(tests[0] & tests[1]) > 100


def test_another_seed_draws_others_and_the_same_seed_the_same(run_prepare, tmp_path):
    images = np.random.default_rng(0).integers(0, 99, (80, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=np.arange(80) % 4)

    first, again, other = (
        run_prepare(tmp_path / "mine.npz", seed=seed)[0][2].images for seed in (1, 1, 2)
    )

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_repeats_in_training_and_test_is_counted_and_said(run_prepare, raw, tmp_path, capsys):
    x_test = raw["x_test"].copy()
    x_test[:3] = raw["x_train"][:3]
    np.savez(tmp_path / "mine.npz", **(raw | {"x_test": x_test}))

    _, about = run_prepare(tmp_path / "mine.npz")

    assert about["test_images_also_in_training"] == 3
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


def test_the_summary_has_no_list_since_dvc_would_draw_it(run_prepare, raw_npz):
    _, about = run_prepare(raw_npz)

    assert not any(isinstance(value, list) for value in about.values())


def test_normalizing_divides_by_255():
    raw_images = np.zeros((1, 28, 28, 1), np.uint8)
    raw_images[0, 0, :3, 0] = 0, 51, 255

    images = prepare.normalize(raw_images)

    np.testing.assert_array_equal(images[0, 0, :3, 0], np.array([0, 0.2, 1], np.float32))


@pytest.mark.parametrize("share", [0.1, 0.15, 0.2, 0.3, 1 / 3, 0.7])
@pytest.mark.parametrize("n", [10, 997, 60_000])
def test_validation_starts_where_keras_lets_it_start(tf, n, share):
    from keras.src.trainers.data_adapters.array_slicing import train_validation_split

    (training, _), _ = train_validation_split((np.arange(n), np.arange(n)), share)

    assert len(prepare.last(n, share)[0]) == len(training)


@pytest.mark.parametrize("share", [1e-17, 0.9999])
def test_a_share_that_leaves_a_part_empty_is_refused(
    published, run_prepare, raw_npz, refusal, share
):
    message = refusal(run_prepare, raw_npz, validation_share=share)

    assert message.startswith(
        f"prepare.validation_share {share:g} and prepare.test_share 0.2 leave"
    )


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

    parts = [load(tmp_path / f"{split}.npz") for split in SPLITS]
    found = np.concatenate([np.rint(part.images[:, 0, :2, 0] * 255) for part in parts])
    expected = np.sort(images[:, 0, :2].astype(int) @ [256, 1])
    np.testing.assert_array_equal(np.sort(found.astype(int) @ [256, 1]), expected)
