"""Intervals over items: known coverage, items as clusters, seeds."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from analyses.metrics import mean_interval, ratio_interval
from workbench.errors import ParameterError


def test_orders_of_an_item_are_one_cluster():
    """Copying every value into a second order must not narrow the interval."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((50, 1))
    once, twice = mean_interval(values, seed=1), mean_interval(np.repeat(values, 2, axis=1), seed=1)
    assert once == twice
    assert once.n == 50


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for k in range(200):
        interval = mean_interval(rng.standard_normal(60) + 3.0, seed=k)
        hits += interval.low < 3.0 < interval.high
    assert 0.90 <= hits / 200 <= 0.99


def test_ratios_are_ratios_of_means():
    top, bottom = np.array([[1.0], [0.0]]), np.array([[1.0], [9.0]])
    assert ratio_interval(top, bottom, seed=0).value == pytest.approx(0.1)
    assert ratio_interval(0 * top, 0 * bottom, seed=0).value == 0.0
    with pytest.raises((ParameterError, TypeCheckError)):
        ratio_interval(top, bottom[:1], seed=0)


def test_few_items_have_no_interval_and_missing_ones_are_left_out():
    assert np.isnan(mean_interval(np.array([2.0]), seed=0).low)
    assert not mean_interval(np.array([2.0]), seed=0).excludes(0.0)
    assert mean_interval(np.array([]), seed=0).n == 0
    found = mean_interval(np.array([[1.0, 1.0], [np.nan, 1.0], [3.0, 3.0]]), seed=0)
    assert (found.value, found.n) == (2.0, 2)


def test_seeds_decide_and_global_state_doesnt():
    values = np.random.default_rng(0).standard_normal(30)
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the point is that it stays untouched
    first, second, other = (mean_interval(values, seed=s) for s in (1, 1, 2))
    assert first == second != other
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_items_of_one_cluster_count_once():
    """Ten copies of every item are no new evidence."""
    values = np.random.default_rng(0).standard_normal(20)
    once = mean_interval(values, seed=3)
    copied = mean_interval(np.tile(values, 10), seed=3, clusters=[f"{i:02d}" for i in range(20)] * 10)
    assert copied.n == 20
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))
    blind = mean_interval(np.tile(values, 10), seed=3)
    assert blind.high - blind.low < 0.5 * (once.high - once.low)
