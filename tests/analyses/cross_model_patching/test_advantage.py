"""The gate and its comparison with random judges: over the same items, family-wise, calibrated."""

import numpy as np
import pytest

from analyses.cross_model_patching.advantage import (
    FEWEST_SHARED,
    advantage,
    against_largest,
    means_held_out,
    means_on_same_items,
)
from analyses.metrics import LEVEL

NAN = np.nan
ITEMS = 40
CLUSTERS = [str(i) for i in range(ITEMS)]


def test_draws_and_judge_are_averaged_over_the_same_items():
    own = np.array([[1.0], [2.0], [9.0], [NAN]])
    draws = np.array([[[0.5], [0.7], [NAN], [NAN]], [[0.1], [0.1], [NAN], [NAN]]])
    means, same = means_on_same_items(draws, own)
    np.testing.assert_allclose(means, [[0.6], [0.1]])
    np.testing.assert_allclose(same, [1.5])


def test_a_cell_that_an_item_lacks_takes_neither_the_item_nor_other_cells_along():
    own = np.array([[1.0, NAN], [3.0, 5.0], [NAN, 7.0]])
    draws = np.array([[[2.0, 4.0], [4.0, NAN], [6.0, 8.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 2.0]]])
    means, same = means_on_same_items(draws, own)
    # First cell: items 0 and 1; second: item 2 alone, which all of them have.
    np.testing.assert_allclose(means, [[3.0, 8.0], [0.0, 2.0]])
    np.testing.assert_allclose(same, [2.0, 7.0])


def test_interrupted_draws_are_left_out():
    own = np.array([[1.0], [2.0]])
    draws = np.array([[[1.0], [3.0]], [[7.0], [NAN]], [[NAN], [NAN]]])
    means, same = means_on_same_items(draws, own)
    np.testing.assert_allclose(means, [[2.0]])
    np.testing.assert_allclose(same, [1.5])


@pytest.mark.parametrize("draws", [np.zeros((0, 3, 1)), np.full((2, 3, 1), NAN)])
def test_without_draws_the_judge_is_averaged_over_all_it_has(draws):
    means, same = means_on_same_items(draws, np.array([[1.0], [2.0], [NAN]]))
    assert means.shape == (0, 1)
    np.testing.assert_allclose(same, [1.5])
    p, bound = against_largest(same, means)
    assert p[0] == 1.0 and np.isnan(bound)


def test_without_labels_there_is_no_advantage():
    told = advantage(np.full((ITEMS, 2), NAN), np.full((5, ITEMS, 2), NAN), clusters=CLUSTERS, seed=0)
    assert not told.labelled and not told.found and not told.defined
    assert "no item says" in told.why_not()


def test_without_draws_nothing_is_found():
    told = advantage(np.ones((ITEMS, 2)), np.zeros((0, ITEMS, 2)), clusters=CLUSTERS, seed=0)
    assert told.defined and told.chance.p == 1.0 and not told.found


def test_what_is_common_to_an_item_sample_is_no_advantage():
    # The judge is one more random change; the items it is asked on beside the draws' are those that move most.
    rng, told = np.random.default_rng(0), []
    for seed in range(60):
        common = rng.standard_normal((ITEMS, 1)) + np.linspace(2, -2, ITEMS)[:, None]
        draws = common + 0.1 * rng.standard_normal((5, 1, 1)) + np.zeros((5, ITEMS, 2))
        own = common + 0.1 * rng.standard_normal() + np.zeros((ITEMS, 2))
        draws[:, ITEMS // 4 :] = NAN
        told.append(advantage(own, draws, clusters=CLUSTERS, seed=seed).chance.p < LEVEL)
    assert np.mean(told) < 0.15


def test_confirmations_are_compared_on_held_out_items():
    own, draws = np.arange(12.0)[:, None], np.ones((3, 12, 1))
    held_out = np.arange(12) >= 6
    found = means_held_out(draws, own, held_out=held_out, clusters=CLUSTERS[:12])
    assert found.own[0] == own[held_out].mean() and found.draws.shape == (3, 1) and not found.note
    draws[:, 6 + FEWEST_SHARED - 1 :] = NAN
    found = means_held_out(draws, own, held_out=held_out, clusters=CLUSTERS[:12])
    # Too few of the held-out items were asked: all that were asked, and this is said.
    assert found.own[0] == own[: 6 + FEWEST_SHARED - 1].mean()
    assert "3 independent items" in found.note and "all 9 items" in found.note
    none = means_held_out(draws[:0], own, held_out=held_out, clusters=CLUSTERS[:12])
    assert none.own[0] == own[held_out].mean() and not len(none.draws) and not none.note


@pytest.mark.parametrize("cells", [1, 20, 200])
def test_a_sweep_of_one_more_random_change_gives_false_alarms_about_as_often_as_allowed(cells):
    rng, runs = np.random.default_rng(1), 2000
    alarms, beyond = [], []
    for values in rng.standard_normal((runs, 6, cells)):
        p, bound = against_largest(values[0], values[1:])
        alarms.append(bool((p < LEVEL).any()))
        beyond.append(bool(np.abs(values[0]).max() > bound))
    assert 0.025 < np.mean(alarms) < 0.065
    assert alarms == beyond


def test_cells_that_are_not_known_are_not_told_from_chance():
    draws = np.random.default_rng(2).standard_normal((5, 3))
    p, _ = against_largest(np.array([NAN, 100.0, 0.1]), draws)
    assert p[0] == 1.0 and p[1] < LEVEL and p[2] > LEVEL
