"""Intervals and family-wise tests of many cells: against one-cell oracles, and under the null."""

import itertools

import numpy as np
import pytest

from analyses.cells import by_pattern, cell_intervals, family_p, known_means
from analyses.metrics import mean_interval, sign_flip_test


def test_intervals_agree_with_those_of_single_cells():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((60, 2, 3)) + np.arange(3)
    clusters = [f"c{i // 2}" for i in range(60)]
    found = cell_intervals(values, clusters=clusters, seed=0)
    assert found.n == 30
    for cell in itertools.product(range(2), range(3)):
        one = mean_interval(values[:, *cell], seed=1, clusters=clusters)
        assert found.value[cell] == pytest.approx(one.value)
        assert found.low[cell] == pytest.approx(one.low, abs=0.05)
        assert found.high[cell] == pytest.approx(one.high, abs=0.05)


def test_items_without_a_value_are_left_out_and_too_few_have_no_interval():
    values = np.array([[1.0], [np.nan], [3.0]])
    assert cell_intervals(values, clusters=["a", "b", "c"], seed=0).value == pytest.approx([2.0])
    one = cell_intervals(values[:2], clusters=["a", "b"], seed=0)
    assert one.value == pytest.approx([1.0])
    assert np.isnan(one.low).all() and one.n == 1
    none = cell_intervals(values[1:2], clusters=["a"], seed=0)
    assert np.isnan(none.value).all() and none.n == 0
    assert np.isnan(family_p(values[1:2], clusters=["a"], seed=0)).all()


def test_one_cell_is_an_ordinary_sign_flip_test():
    values = np.random.default_rng(3).standard_normal((9, 1)) + 0.7
    clusters = [str(i) for i in range(9)]
    assert family_p(values, clusters=clusters, seed=0)[0] == pytest.approx(sign_flip_test(values[:, 0], seed=0))


def test_the_family_is_held_against_the_largest_cell_of_every_flip():
    values = np.random.default_rng(1).standard_normal((6, 3)) + np.array([0.0, 1.0, 2.0])
    scaled = values / np.sqrt(np.square(values).sum(0))
    largest = [np.abs(np.array(s) @ scaled).max() for s in itertools.product([1, -1], repeat=6)]
    expected = [(np.array(largest) >= abs(t) - 1e-9).mean() for t in scaled.sum(0)]
    np.testing.assert_allclose(family_p(values, clusters=list("abcdef"), seed=0), expected)


def test_a_cell_that_never_moves_is_no_finding():
    values = np.zeros((20, 2))
    values[:, 1] = 1.0
    p = family_p(values, clusters=[str(i) for i in range(20)], seed=0)
    assert p[0] == 1.0
    assert p[1] < 0.01


def test_family_wise_error_under_the_null_is_kept():
    rng = np.random.default_rng(0)
    clusters = [str(i) for i in range(14)]
    smallest = [family_p(rng.standard_normal((14, 40)), clusters=clusters, seed=k).min() for k in range(60)]
    assert np.mean(np.array(smallest) < 0.05) <= 0.15


def test_means_and_intervals_of_cells_that_are_not_known_for_the_same_items():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 4.0, np.nan], [np.nan, 8.0, np.nan]])
    np.testing.assert_array_equal(known_means(values), [2.0, 6.0, np.nan])
    np.testing.assert_array_equal(known_means(values[None]), [[2.0, 6.0, np.nan]])
    made = by_pattern(values, lambda part: cell_intervals(part, clusters=["a", "b", "c"], seed=0))
    np.testing.assert_array_equal(made.value, known_means(values))
    assert made.n == 2
    for cell in (0, 1):
        alone = cell_intervals(values[:, cell], clusters=["a", "b", "c"], seed=0)
        assert (made.low[cell], made.high[cell]) == (alone.low, alone.high)
