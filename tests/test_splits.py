"""Groups stay on one side, shares are met as far as they allow, and little moves."""

import numpy as np
import pytest

from cnn.data.raw import SPLITS, Raw, Split
from cnn.data.splits import Subset, conflicts, drawn_by_group, remarks, split

CLASSES = ["a", "b", "c"]


def given(groups, labels, names=None) -> Split:
    """Images of which no two are alike."""
    images = np.arange(len(labels) * 64).reshape(-1, 8, 8, 1).astype(np.float32) / 1e6
    return Split(images, np.asarray(labels), np.asarray(groups, str), names)


def writers(n: int, each: int = 5) -> Split:
    """n writers who wrote each of three classes some times."""
    return given(np.repeat(np.arange(n), 3 * each), np.tile(np.repeat([0, 1, 2], each), n))


def sides(train: Split) -> dict[str, Subset]:
    return split(Raw({"train": train}, CLASSES, [], ""), 0.1, 0.2, 42, together=True)


def test_no_group_is_on_two_sides_and_the_shares_are_met():
    found = sides(writers(100))

    groups = {name: set(subset.groups()) for name, subset in found.items()}
    assert [len(groups[name]) for name in SPLITS] == [72, 8, 20]
    assert len(set.union(*groups.values())) == 100
    assert [found[name].counts(3).tolist() for name in SPLITS] == [[360] * 3, [40] * 3, [100] * 3]


def test_groups_of_all_sizes_come_as_near_to_the_shares_as_they_allow():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), rng.integers(1, 30, 60))
    labels = groups % 3

    found = sides(given(groups, labels))

    total = np.bincount(labels)
    assert (abs(found["test"].counts(3) - 0.2 * total) < 15).all()
    assert (abs(found["validation"].counts(3) - 0.08 * total) < 15).all()
    together = [set(found[name].groups()) for name in SPLITS]
    assert sum(map(len, together)) == len(set(groups))


def test_images_without_a_group_are_drawn_one_by_one():
    groups = ["one", "one", *[""] * 298]

    found = sides(given(groups, np.arange(300) % 3))

    counts = [found[name].counts(3) for name in SPLITS]
    assert (abs(np.subtract(counts, [[72] * 3, [8] * 3, [20] * 3])) <= 1).all()


def test_new_groups_move_few_old_ones():
    before = set(sides(writers(100))["test"].groups())
    after = set(sides(writers(120))["test"].groups())

    assert (len(before), len(after)) == (20, 24)
    assert len(before - after) <= 2


def test_the_seed_and_nothing_else_chooses():
    subset = Subset(writers(50), np.arange(750))
    again, same, other = (drawn_by_group(subset, 0.2, seed, "test")[1] for seed in (1, 1, 2))

    np.testing.assert_array_equal(again.rows, same.rows)
    assert set(again.groups()) != set(other.groups())


def test_a_class_whose_groups_are_few_has_some_on_each_side():
    """Three groups are enough, however large, and a large one does not take a class along."""
    groups = ["1"] * 80 + ["2"] * 10 + ["3"] * 10 + [f"x{n}" for n in range(100)]
    labels = np.repeat([0, 1], 100)

    found = split(Raw({"train": given(groups, labels)}, ["a", "b"], [], ""), 0.1, 0.2, 1, True)

    assert all((found[name].counts(2) > 0).all() for name in ("train", "test"))


@pytest.mark.parametrize("n", [1, 2])
def test_a_class_with_too_few_groups_is_refused_with_what_to_do(refusal, n):
    groups = [str(k % n) for k in range(30)] + [f"x{k}" for k in range(60)]
    raw = Raw({"train": given(groups, np.repeat([0, 1, 2], 30))}, CLASSES, [], "")

    if n == 1:
        message = refusal(split, raw, 0.1, 0.2, 42, together=True)
        assert message.startswith("class a has 1 group; no test image is left; with prepare.groups")
        assert message.endswith("add some, or set prepare.groups: false")
    else:  # one side each for training and test: validation does without
        found = split(raw, 0.1, 0.2, 42, together=True)
        assert found["train"].counts(3)[0] and found["test"].counts(3)[0]


def test_identical_images_of_two_labels_are_named_and_others_are_not():
    names = [f"mine/{n}.png" for n in range(40)]
    train = given([""] * 40, np.arange(40) % 3, names)
    subsets = {
        "train": Subset(train, np.arange(0, 20)),
        "test": Subset(train._replace(names=None), np.arange(20, 40)),
    }
    hashes = {"train": np.arange(20, dtype=np.uint64), "test": np.arange(20, 40, dtype=np.uint64)}
    hashes["test"][0] = hashes["train"][3]  # 20 is of c, 3 of a
    hashes["train"][9] = hashes["train"][0]  # both of a

    assert conflicts(subsets, hashes, CLASSES) == "mine/3.png (a) = image 20 of test (c)"
    many = {"train": np.zeros(20, np.uint64) + np.arange(20) // 2, "test": hashes["test"] + 100}
    found = conflicts(
        subsets, {name: each.astype(np.uint64) for name, each in many.items()}, CLASSES
    )
    assert found.startswith("mine/0.png (a) = mine/1.png (b); ")
    assert found.count(" = ") == 10


def test_of_many_conflicts_ten_are_named():
    train = given([""] * 60, np.tile([0, 1], 30))
    subsets = {"train": Subset(train, np.arange(60))}

    found = conflicts(subsets, {"train": (np.arange(60) // 2).astype(np.uint64)}, CLASSES)

    assert found.count(" = ") == 10
    assert found.endswith("; and 20 more")


def test_enough_of_everything_needs_no_remark():
    train = given([""] * 300, np.arange(300) % 3)
    subsets = {name: Subset(train, np.arange(300)) for name in SPLITS}

    assert remarks(subsets, CLASSES) == []


def test_groups_that_are_asked_for_and_not_there_or_given_apart_are_refused(refusal):
    train, test = writers(9), writers(3)
    apart = test._replace(groups=np.char.add("other ", test.groups))
    raw = Raw({"train": train, "test": test}, CLASSES, [], "")

    message = refusal(split, raw, 0.1, 0.2, 42, together=True)
    none = refusal(sides, train._replace(groups=None))
    found = split(raw._replace(splits={"train": train, "test": apart}), 0.1, 0.2, 42, True)

    assert "train, test were given with 3 of 9 groups in more than one: 0, 1, 2;" in message
    assert none.startswith("prepare.groups is true, and the images come without groups")
    assert len(found["test"].rows) == 45
