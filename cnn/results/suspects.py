"""Which labels are likely wrong: those that a model which never saw them doubts with confidence."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Split(NamedTuple):
    """Images that the model was not trained on.

    labels : int64 (n,), index into classes; probabilities : float32 (n, k), rows sum to 1.
    images : n fingerprints.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    images: list[str]


TOLERANCE = 1e-6  # of a probability that is compared with a mean of such


def in_doubt(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the indices of the labels that are likely wrong, the most doubtful first, (m,).

    Confident learning (Northcutt, Jiang and Chuang 2021, Confident Learning: Estimating Uncertainty
    in Dataset Labels, section 3.1). An image is confidently of a class where that class's
    probability is at least what the images labelled so have on average; of several such classes the
    most probable counts. Where it is another than the label, and the label is not what the model
    reads, the label is in doubt; the less probable it is, the more ("self-confidence").

    labels : int64 (n,), every class at least once; probabilities : float32 (n, k), of a model that
    was not trained on these images.
    """
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    average = np.bincount(labels, own) / np.bincount(labels)
    confident = probabilities >= average - TOLERANCE
    most = np.where(confident, probabilities, -1).argmax(axis=1)
    read_otherwise = probabilities.argmax(axis=1) != labels
    doubtful = np.flatnonzero(confident.any(axis=1) & (most != labels) & read_otherwise)
    return doubtful[np.argsort(own[doubtful], kind="stable")]


def table(splits: dict[str, Split], classes: list[str]) -> pd.DataFrame:
    """Return one row per label in doubt, the most doubtful of all splits first.

    Its split, index in it and image; the label and what is read, each with its probability.
    """
    labels, probabilities, images = map(np.concatenate, zip(*splits.values(), strict=True))
    sizes = [len(split.labels) for split in splits.values()]
    names, index = np.repeat(list(splits), sizes), np.concatenate(list(map(np.arange, sizes)))
    rows = in_doubt(labels, probabilities)
    predicted = probabilities[rows].argmax(axis=1)
    return pd.DataFrame(
        {
            "split": names[rows],
            "index": index[rows],
            "image": images[rows],
            "label": np.array(classes)[labels[rows]],
            "predicted": np.array(classes)[predicted],
            "label_probability": probabilities[rows, labels[rows]],
            "predicted_probability": probabilities[rows, predicted],
        }
    )
