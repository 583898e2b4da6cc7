"""The raw images are normalized and split; the summary says what they are."""

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from cnn.data import splits
from cnn.data.raw import SPLITS
from cnn.data.sets import fingerprints, load
from cnn.published.datasets import ARRAYS, PUBLISHED, to_idx
from stages import prepare

ROOT = Path(__file__).parent.parent


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
    untracked = capsys.readouterr().err.splitlines()
    Path(f"{path}.dvc").touch()
    run_prepare(path)

    assert untracked[-1] == (
        f"warning: {path}: is no published data and is not tracked; run 'dvc add {path}', "
        "under a name of its own if fetch writes this one"
    )
    assert capsys.readouterr().err.splitlines() == untracked[:-1]


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


@pytest.mark.parametrize("counts", [(20, 2), (20, 1), (1, 1)])
def test_an_image_or_two_of_a_class_are_too_few(run_prepare, tmp_path, refusal, counts):
    """One of each class was a traceback, `need at least one array to concatenate`."""
    images = np.arange(64 * sum(counts), dtype=np.uint16).reshape(-1, 8, 8).astype(np.uint8)
    np.savez(tmp_path / "m.npz", x_train=images, y_train=np.repeat([0, 1], counts))

    message = refusal(run_prepare, tmp_path / "m.npz")

    assert f"leave no train image of class {int(counts[0] > 1)}; choose others" in message


def test_padded_ellipses_keep_their_proportions(run_prepare, tmp_path):
    """90 x 30 and 30 x 90 pixels: stretched to squares nothing tells them apart."""
    for name, size in {"wide": (90, 30), "high": (30, 90)}.items():
        (tmp_path / "ellipses" / name).mkdir(parents=True)
        for number in range(5):
            image = Image.new("L", size, number)
            ImageDraw.Draw(image).ellipse((2, 2, size[0] - 3, size[1] - 3), fill=200)
            image.save(tmp_path / "ellipses" / name / f"{number}.png")

    shares = {}
    for fit in ("pad", "stretch"):
        found, about = run_prepare(tmp_path / "ellipses", image_size=28, fit=fit)
        assert about["description"].endswith(
            {"pad": "each padded to 28 x 28 pixels.", "stretch": "stretched to 28 x 28 pixels."}[
                fit
            ]
        )
        ink = found[0].images[..., 0] > 0.5
        shares[fit] = ink.any(axis=2).sum(axis=1) / ink.any(axis=1).sum(axis=1)  # height to width
        assert found[0].classes.tolist() == ["high", "wide"]
        high = found[0].labels == 0

    np.testing.assert_allclose(shares["stretch"], 1, atol=0.15)
    assert (np.where(high, shares["pad"], 1 / shares["pad"]) > 2.5).all()


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


def test_given_validation_images_are_used_as_they_came(run_prepare, raw, tmp_path):
    given = {"x_val": raw["x_test"][:90], "y_val": raw["y_test"][:90]}
    np.savez(tmp_path / "mine.npz", **(raw | given))

    (train, validation, test), about = run_prepare(tmp_path / "mine.npz")

    np.testing.assert_array_equal(train.labels, raw["y_train"])
    np.testing.assert_array_equal(validation.images[..., 0], given["x_val"] / np.float32(255))
    np.testing.assert_array_equal(test.labels, raw["y_test"])
    assert (about["validation"], about["test"]) == ("as it came", "as it came")


def test_groups_stay_together_and_the_summary_says_so_and_how_images_became_squares(
    run_prepare, tmp_path
):
    """Each group's images are of one value, which is how they are told apart afterwards."""
    groups = np.arange(240) // 6
    images = np.broadcast_to((groups * 6 + 5)[:, None, None], (240, 12, 8)).astype(np.uint8)
    arrays = {"x_train": images, "y_train": np.arange(240) % 3, "groups": groups}
    np.savez(tmp_path / "mine.npz", **arrays)

    found, about = run_prepare(tmp_path / "mine.npz", groups=True, image_size=8, fit="stretch")

    values = [set(np.unique(each.images).tolist()) for each in found]
    assert [len(each) for each in values] == [29, 3, 8]
    assert len(set.union(*values)) == 40
    path = (tmp_path / "mine.npz").as_posix()
    assert about["description"] == (f"Images from {path}, an npz, each stretched to 8 x 8 pixels.")
    assert about["test"] == "0.2 of all images, drawn by class with seed 42, each group on one side"
    assert about["fit"] == "stretch"


def test_what_flatters_or_misleads_is_said(run_prepare, tmp_path, capsys):
    """Few test images, unequal classes, identical images of two classes, groups on both sides."""
    images = np.random.default_rng(0).integers(0, 99, (330, 8, 8), dtype=np.uint8)
    labels = np.repeat([0, 1], [300, 30])
    images[320] = images[7]
    arrays = {"x_train": images, "y_train": labels, "groups": np.arange(330) // 20}
    np.savez(tmp_path / "mine.npz", **arrays, classes=np.array(["sound", "broken"]))
    other = images[300:] // 2
    test = {"x_test": np.concatenate([images[300:], other]), "y_test": np.repeat([1, 0], 30)}
    np.savez(
        tmp_path / "split.npz", **arrays, **test, groups_test=np.repeat([3, 99], 30),
        classes=np.array(["sound", "broken"]),
    )  # fmt: skip

    run_prepare(tmp_path / "mine.npz")
    lines = capsys.readouterr().err
    run_prepare(tmp_path / "split.npz")
    split = capsys.readouterr().err

    assert (
        "1 of 2 classes have fewer than 20 test images, so their figures say little: broken (6)"
        in lines
    )
    assert "class sound has 216 training images, broken 22;" not in lines
    assert "17 of 17 groups have images on several sides" in lines
    assert "prepare.groups: true keeps each on one side" in lines
    assert re.search(r"identical images, other labels: image \d+ of \w+ \(\w+\) = image", lines)
    assert "class sound has 270 training images, broken 27" not in split
    assert "of 18 groups have images on several sides" in split


def test_unequal_classes_are_a_note_that_names_the_remedy(run_prepare, tmp_path, capsys):
    """712 against 6, as in keras-team/keras#4246."""
    images = np.random.default_rng(0).integers(0, 99, (718, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "m.npz", x_train=images, y_train=np.repeat([0, 1], [712, 6]))

    run_prepare(tmp_path / "m.npz")

    assert (
        "class 0 has 513 training images, 1 4; train.class_weights: balanced"
        in capsys.readouterr().err
    )


LIMITED = """
import re, resource, sys
from pathlib import Path
from stages import prepare

own = re.search(r"VmData:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
most = 1024 * int(own[1]) + 60 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
prepare.main(sys.argv[1:])
"""


def packed_idx(path, x_train, y_train) -> None:
    """As an npz would be called, a folder."""
    path.mkdir()
    for name, array in (("images-idx3", x_train), ("labels-idx1", y_train.astype(np.uint8))):
        with gzip.open(path / f"train-{name}-ubyte.gz", "wb", 1) as file:
            file.writelines(to_idx(array))


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed, packed_idx])
def test_the_memory_does_not_grow_with_the_images(write, tmp_path, tiny_yaml):
    """50 MB of raw images, 200 MB when they are normalized, with 60 MB to work in."""
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
