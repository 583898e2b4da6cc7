"""The words of a verdict follow from its p-value, and its table fits a terminal."""

import pytest

from tools.compare.verdict import chance, columns, p_value


@pytest.mark.parametrize(
    ("p", "shown"),
    [
        (0.00005, "a difference this large is hardly chance (p < 0.0001)"),
        (0.0001, "a difference this large is hardly chance (p = 0.00010)"),
        (0.0499, "a difference this large is hardly chance (p = 0.050)"),
        (0.05, "a difference this small may well be chance (p = 0.050)"),
        (0.2, "a difference this small may well be chance (p = 0.20)"),
        (0.21, "a difference this small is expected by chance (p = 0.21)"),
        (1.0, "a difference this small is expected by chance (p = 1.0)"),
    ],
)
def test_what_is_said_of_chance(p, shown):
    assert chance(p) == shown


def test_a_p_value_alone_has_two_digits_or_a_bound():
    assert [p_value(p) for p in (0.031415, 0.5, 0.00002)] == ["0.031", "0.50", "< 0.0001"]


def test_columns_are_at_most_80_characters_wide_and_stand_below_their_heads():
    result = {"a": {"revision": "main"}, "b": {"revision": "a-branch-with-a-very-long-name"}}

    head, row = columns("title", result, [("accuracy", "99.26%", 7)])

    assert (len(head), len(row)) == (78, 78)
    assert head.split() == ["title", "A:", "main", "B:", "a-branch-with-a-very-"[:19]]
    assert row.index("99.26%") + len("99.26%") == head.index("A: main") + len("A: main")
    assert row.endswith(" 7")
