"""Directions of a patch, and which other item gives."""

import pytest

from analyses.cross_model_patching.directions import ARROWS, DIRECTIONS, SHORT, ends, others


def test_each_direction_has_a_donor_and_a_target():
    assert [ends(direction) for direction in DIRECTIONS] == [("judge", "base"), ("base", "judge")]
    assert tuple(SHORT) == tuple(ARROWS) == DIRECTIONS


@pytest.mark.parametrize(
    ("clusters", "expected"),
    [
        (["a", "b", "c"], [1, 2, 0]),
        (["a", "a", "b", "b"], [2, 2, 0, 0]),
        (["a", "a"], [0, 1]),
        (["a"], [0]),
        ([], []),
    ],
)
def test_the_next_item_of_another_cluster_gives(clusters, expected):
    assert others(clusters) == expected
