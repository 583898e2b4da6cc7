"""The published data sets are recognized by their hashes and by nothing else."""

import hashlib

import numpy as np
import pytest

from cnn.published.datasets import ARRAYS, PUBLISHED, difference, from_idx, recognize, to_idx


def test_the_hashes_of_mnist_are_those_of_the_published_files():
    assert PUBLISHED["mnist"].sha256 == (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    )


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("00000803 00000002 00000001 00000003 010203 fffefd", [[[1, 2, 3]], [[255, 254, 253]]]),
        ("00000801 00000004 05000401", [5, 0, 4, 1]),
    ],
)
def test_idx_is_the_published_format(content, values):
    content = bytes.fromhex(content)

    array = from_idx(content)

    np.testing.assert_array_equal(array, values)
    assert array.dtype == np.uint8
    assert b"".join(to_idx(array)) == content


@pytest.mark.parametrize("content", ["", "0000", "00000801 00000004 0500", "00000803 00000002"])
def test_a_truncated_idx_file_is_no_array(content):
    with pytest.raises(ValueError):
        from_idx(bytes.fromhex(content))


def test_a_data_set_is_recognized_to_the_bit_and_the_difference_is_named(raw, monkeypatch):
    digests = tuple(hashlib.sha256(b"".join(to_idx(raw[name]))).hexdigest() for name in ARRAYS)
    known = PUBLISHED["mnist"]._replace(sha256=digests)
    monkeypatch.setitem(PUBLISHED, "mnist", known)

    assert recognize(raw) is known
    assert recognize(raw | {"x_test": raw["x_test"] ^ 1}) is None
    assert recognize({name: raw[name] for name in ARRAYS[:2]}) is None
    assert difference(known, raw) == ""
    assert difference(known, {}) == "has no array 'x_train'"
    assert "'y_test' is int64" in difference(known, raw | {"y_test": raw["y_test"].astype(int)})
    assert "'y_test' has sha256" in difference(known, raw | {"y_test": raw["y_test"][::-1]})
