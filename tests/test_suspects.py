"""The labels in doubt are those that cleanlab finds, and that were made wrong."""

import numpy as np
import pytest

from cnn.results import suspects

# 15 images of three classes; what cleanlab 2.9.0 says of them:
# cleanlab.filter.find_label_issues(LABELS, PROBABILITIES, filter_by="confident_learning",
#                                   return_indices_ranked_by="self_confidence")
LABELS = np.repeat([0, 1, 2], [6, 5, 4])
PROBABILITIES = np.float32(
    [
        *([0.38, 0.20, 0.42], [0.03, 0.03, 0.94], [0.27, 0.29, 0.44], [0.72, 0.08, 0.20]),
        *([0.61, 0.03, 0.36], [0.56, 0.21, 0.23], [0.45, 0.41, 0.14], [0.25, 0.33, 0.42]),
        *([0.26, 0.60, 0.14], [0.52, 0.42, 0.06], [0.18, 0.32, 0.50], [0.17, 0.12, 0.71]),
        *([0.21, 0.55, 0.24], [0.06, 0.36, 0.58], [0.22, 0.16, 0.62]),
    ]
)
CLEANLABS = [1, 12, 6, 9]


def test_the_labels_in_doubt_and_their_order_are_cleanlabs():
    assert suspects.in_doubt(LABELS, PROBABILITIES).tolist() == CLEANLABS
    wrong = np.flatnonzero(PROBABILITIES.argmax(axis=1) != LABELS)
    assert len(wrong) == 8  # a mistake alone does not make a label doubtful


def test_the_table_has_both_splits_by_doubt_under_their_own_numbers():
    parts = [slice(9), slice(9, 15)]
    splits = {
        name: suspects.Split(LABELS[part], PROBABILITIES[part], [f"{name}{n}" for n in range(9)])
        for name, part in zip(("test", "validation"), parts, strict=True)
    }
    splits["validation"].images[6:] = []

    table = suspects.table(splits, ["ant", "bee", "cat"])

    assert table.drop(columns=["label_probability", "predicted_probability"]).values.tolist() == [
        ["test", 1, "test1", "ant", "cat"],
        ["validation", 3, "validation3", "cat", "bee"],
        ["test", 6, "test6", "bee", "ant"],
        ["validation", 0, "validation0", "bee", "ant"],
    ]
    assert table["label_probability"].tolist() == pytest.approx([0.03, 0.24, 0.41, 0.42])
    assert table["predicted_probability"].tolist() == pytest.approx([0.94, 0.55, 0.45, 0.52])


def test_labels_that_were_made_wrong_come_first():
    """Real digits; of 3 % another label, read by a model that has not seen them."""
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    changed = rng.random(len(labels)) < 0.03
    given = np.where(changed, (labels + rng.integers(1, 10, len(labels))) % 10, labels)
    seen = np.arange(len(labels)) % 2 == 0
    model = KNeighborsClassifier(10).fit(images[seen], given[seen])

    found = suspects.in_doubt(given[~seen], np.float32(model.predict_proba(images[~seen])))

    assert changed[~seen][found[:10]].sum() >= 8
    assert changed[~seen][found].sum() > 0.7 * changed[~seen].sum()


def test_a_model_that_agrees_with_all_labels_doubts_none():
    found = suspects.in_doubt(np.arange(10), np.eye(10, dtype=np.float32))

    assert found.tolist() == []
    split = suspects.Split(np.arange(3), np.eye(3, dtype=np.float32), list("xyz"))
    table = suspects.table({"test": split}, list("abc"))
    assert len(table) == 0
    assert table.to_csv(index=False).startswith("split,index,image,label,predicted,")
