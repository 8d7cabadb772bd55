"""Intervals, rates, rankings and tests over items: known coverage, scipy as the oracle, items as clusters, seeds."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import stats

from analyses.metrics import (
    among_draws,
    auc_interval,
    further_draw,
    holm,
    mean_interval,
    ratio_interval,
    share_interval,
    sign_flip_test,
)
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


def test_wilson_is_scipys_and_clusters_count_once():
    hits = np.array([1.0] * 7 + [0.0] * 13)
    expected = stats.binomtest(7, 20).proportion_ci(method="wilson")
    once = share_interval(hits)
    assert (once.low, once.high) == pytest.approx((expected.low, expected.high))
    copied = share_interval(np.repeat(hits, 2)[:, None].repeat(2, 1), clusters=np.repeat(np.arange(20), 2).tolist())
    assert copied == pytest.approx(once)
    assert share_interval(np.zeros(12)).low == 0.0
    assert share_interval(np.zeros(20)).high > 0.1
    assert share_interval(np.array([np.nan])).n == 0


@pytest.mark.parametrize("n", [5, 9])
def test_few_clusters_are_enumerated_as_scipy_does(n):
    values = np.random.default_rng(n).standard_normal(n) + 0.6
    expected = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_test(values, seed=0) == pytest.approx(expected)
    assert sign_flip_test(np.ones(n), seed=0) == 2 / 2**n


def test_drawn_sign_flips_agree_with_enumerated_ones_and_never_say_zero():
    values = np.random.default_rng(1).standard_normal(10) + 0.5
    exact = sign_flip_test(values, seed=0)
    assert sign_flip_test(values, seed=0, permutations=1000) == pytest.approx(exact, abs=0.03)
    assert sign_flip_test(np.ones(100), seed=0, permutations=999) == 1 / 1000
    assert sign_flip_test(np.zeros(100), seed=0) == 1.0
    assert np.isnan(sign_flip_test(np.array([np.nan]), seed=0))
    with pytest.raises(ParameterError):
        sign_flip_test(values, seed=0, permutations=0)


def test_sign_flips_reject_a_true_null_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    found = [sign_flip_test(rng.standard_normal(20), seed=k, permutations=400) < 0.05 for k in range(300)]
    assert 0.02 <= np.mean(found) <= 0.085


def test_a_cluster_flips_as_one():
    values = np.random.default_rng(0).standard_normal(8) + 0.8
    labels = [f"c{i}" for i in range(8)]
    once = sign_flip_test(values, seed=0, clusters=labels)
    assert sign_flip_test(np.repeat(values, 5), seed=0, clusters=np.repeat(labels, 5).tolist()) == once
    assert sign_flip_test(np.repeat(values, 5), seed=0) < once


def test_holm_is_the_step_down_of_the_textbook():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, np.nan, 0.01])), [0.5, np.nan, 0.02])
    assert holm(np.array([])).size == 0
    p = np.random.default_rng(0).uniform(size=30)
    np.testing.assert_array_equal(holm(p) < 0.05, _rejected_step_down(p, level=0.05))


def _rejected_step_down(p, *, level):
    rejected = np.zeros(len(p), dtype=bool)
    for step, index in enumerate(np.argsort(p)):
        if p[index] >= level / (len(p) - step):
            break
        rejected[index] = True
    return rejected


def test_the_area_is_mann_whitneys_with_ties_counting_half():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 6, 40).astype(float) + 1, rng.integers(0, 6, 40).astype(float)
    expected = stats.mannwhitneyu(positive, negative).statistic / 40**2
    found = auc_interval(positive, negative, seed=0)
    assert found.value == pytest.approx(expected)
    assert found.low < expected < found.high
    shaped = auc_interval(positive.reshape(20, 2), negative.reshape(20, 2), seed=0)
    assert (shaped.value, shaped.n) == (pytest.approx(expected), 20)


def test_the_areas_interval_covers_the_truth_and_counts_clusters_once():
    rng = np.random.default_rng(0)
    truth, hits = stats.norm.cdf(1 / np.sqrt(2)), 0
    for k in range(100):
        found = auc_interval(rng.standard_normal(40) + 1, rng.standard_normal(40), seed=k)
        hits += found.low < truth < found.high
    assert hits >= 88
    positive, negative = rng.standard_normal(15) + 1, rng.standard_normal(15)
    once = auc_interval(positive, negative, seed=0, clusters=list("abcdefghijklmno"))
    copied = auc_interval(
        np.repeat(positive, 4), np.repeat(negative, 4), seed=0, clusters=np.repeat(list("abcdefghijklmno"), 4).tolist()
    )
    assert copied == pytest.approx(once)


def test_a_further_draw_falls_inside_as_often_as_said():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        low, high = further_draw(rng.standard_normal(4))
        inside += low < rng.standard_normal() < high
    assert 0.92 <= inside / 400 <= 0.98
    assert np.isnan(further_draw(np.ones(1))).all()


def test_perfect_separation_still_leaves_doubt():
    found = auc_interval(np.arange(10.0) + 100, np.arange(10.0), seed=0)
    assert found.value == found.high == 1.0
    assert 0.6 < found.low < 0.8
    assert auc_interval(np.zeros(5), np.zeros(5), seed=0)[:3] == (0.5, 0.5, 0.5)
    with pytest.raises((ParameterError, TypeCheckError)):
        auc_interval(np.zeros(5), np.zeros(4), seed=0)


def test_among_draws_counts_how_many_reach_the_effect():
    draws = np.array([0.0, 0.1, 0.2, 0.9, 0.9])
    assert among_draws(0.9, draws).p == pytest.approx(3 / 6)
    assert among_draws(1.0, draws).p == pytest.approx(1 / 6)
    assert among_draws(1.0, draws).value == pytest.approx(draws.mean())
    assert among_draws(float("nan"), draws).p == 1
    assert among_draws(1.0, draws[:2]).p == 1
