"""What is read off a point: flips, choices, agreement, consistency and length, on numbers made by hand."""

import numpy as np
import pytest

from analyses.tuco.scaling import measures
from analyses.tuco.scaling.choice import choose_alpha
from analyses.tuco.scaling.flips import flip_alpha
from analyses.tuco.scaling.measures import Readings, length_contrast, pooled

GRID = np.array([0.0, 0.5, 1.0, 1.5])


def readings(gap, *, labels, lengths=None):
    gap = np.asarray(gap, dtype=float)
    n = gap.shape[-2]
    return Readings(
        gap=gap,
        mass=np.ones_like(gap),
        judge_gap=gap.reshape(-1, *gap.shape[-2:])[0],
        labels=np.asarray(labels),
        slot=np.array([1.0, -1.0]),
        lengths=np.ones((n, 2)) if lengths is None else np.asarray(lengths, dtype=float),
    )


def value(measure, read):
    return pooled(*measure.parts(read))


def test_flips_are_interpolated_next_to_one():
    content = np.array([[-1.0, 4.0, -3.0, -1.0], [1.0, 4.0, -1.0, 1.0], [3.0, 4.0, -2.0, -1.0], [-1.0, 4.0, 6.0, 0.0]])
    np.testing.assert_allclose(flip_alpha(GRID, content), [0.25, np.nan, np.nan, 0.75])
    np.testing.assert_allclose(flip_alpha(GRID, content, upward=True), [1.375, np.nan, 1.125, 1.5])


def test_a_verdict_that_comes_back_flips_where_it_left_first():
    content = np.array([[5.0], [-1.0], [1.0], [2.0]])
    np.testing.assert_allclose(flip_alpha(GRID, content), [0.75])


def test_ties_at_one_and_missing_points_have_no_flip():
    content = np.array([[1.0, np.nan], [1.0, np.nan], [0.0, 1.0], [-1.0, -1.0]])
    assert np.isnan(flip_alpha(GRID, content)).all()
    np.testing.assert_allclose(flip_alpha(GRID, content, upward=True), [np.nan, 1.25])


def test_shares_of_verdicts_made_by_hand():
    right, first, wrong, unlabelled = [2.0, -1.0], [2.0, 1.0], [-3.0, 4.0], [1.0, 3.0]
    gap = [right, first, wrong, unlabelled]
    read = readings(gap, labels=[0, 0, 0, -1])
    assert value(measures.AGREEMENT, read) == pytest.approx((2 + 1 + 0) / 6)
    assert value(measures.RIGHT_IN_BOTH, read) == pytest.approx(1 / 3)
    assert value(measures.CONSISTENCY, read) == pytest.approx(2 / 4)
    assert value(measures.FIRST_SLOT, read) == pytest.approx(6 / 8)
    assert value(measures.MARGIN, read) == pytest.approx((1.5 + 0.5 - 3.5) / 3)
    assert value(measures.POSITION, read) == pytest.approx((0.5 + 1.5 + 0.5 + 2.0) / 4)
    assert value(measures.SAME_AS_JUDGE, read) == 1.0
    assert value(measures.LABEL_SCORE, read) == pytest.approx(
        np.mean([1 / (1 + np.exp(-x)) for x in (2, 1, 2, -1, -3, -4)])
    )


def test_the_pull_of_length_is_found_beyond_labels_that_prefer_longer_answers():
    """A judge that follows labels only has no pull, though it mostly picks the longer answer; a planted one shows."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=400)
    sign = 1.0 - 2.0 * labels
    ratio = 0.5 * sign + rng.standard_normal(400)  # the right answer tends to be longer
    lengths = np.stack([np.exp(ratio), np.ones(400)], axis=1)
    fair, biased = 3.0 * sign, 3.0 * sign + 1.7 * ratio
    for content, slope in ((fair, 0.0), (biased, 1.7)):
        read = readings(np.stack([content, -content], axis=-1), labels=labels, lengths=lengths)
        assert value(measures.LENGTH_SLOPE, read) == pytest.approx(slope, abs=1e-9)
    fair_read = readings(np.stack([fair, -fair], axis=-1), labels=labels, lengths=lengths)
    assert value(measures.LONGER, fair_read) == pytest.approx(np.nanmean(measures.label_longer(labels, ratio)))
    assert value(measures.LONGER, fair_read) > 0.6


def test_slope_is_what_least_squares_says():
    """Independent oracle: the same regression by numpy."""
    rng = np.random.default_rng(1)
    labels, ratio, content = rng.integers(0, 2, size=50), rng.standard_normal(50), rng.standard_normal(50)
    sign = 1.0 - 2.0 * labels
    expected = np.linalg.lstsq(np.stack([ratio, sign], axis=1), content, rcond=None)[0][0]
    read = readings(
        np.stack([content, -content], axis=-1), labels=labels, lengths=np.stack([np.exp(ratio), np.ones(50)], axis=1)
    )
    assert value(measures.LENGTH_SLOPE, read) == pytest.approx(expected)


def test_lengths_that_say_nothing_give_nothing():
    sign = np.array([1.0, -1.0, 1.0])
    assert np.isnan(length_contrast(np.zeros(3), sign)).all()
    assert np.isnan(length_contrast(0.7 * sign, sign)).all(), "length and label are the same thing here"
    assert not np.isnan(length_contrast(0.7 * sign, np.full(3, np.nan))).any()
    unknown = length_contrast(np.array([1.0, np.nan, 2.0]), sign)
    assert np.isnan(unknown[1])
    assert not np.isnan(unknown[[0, 2]]).any()


def test_missing_verdicts_are_never_false():
    gap = np.array([[[np.nan, np.nan], [1.0, -1.0]]])
    read = readings(gap, labels=[0, 0], lengths=[[1, 2], [1, 2]])
    for measure in measures.MEASURES:
        if measure is not measures.LABEL_MASS:
            assert np.isnan(measure.parts(read).value[0, 0]), measure.name


def test_alpha_is_chosen_on_one_half_and_paid_on_the_other():
    agreement = np.array([[1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    choosing = np.array([True, True, False, False])
    chosen = choose_alpha(GRID, agreement, np.zeros((4, 4)), choosing=choosing)
    assert chosen.place == 0
    np.testing.assert_array_equal(chosen.gain, [np.nan, np.nan, -1.0, -1.0])
    other = choose_alpha(GRID, agreement, np.zeros((4, 4)), choosing=~choosing)
    assert other.place == 2, "of equally good ones the nearest to 1"
    assert choose_alpha(GRID, np.full((4, 4), np.nan), np.zeros((4, 4)), choosing=choosing) is None
