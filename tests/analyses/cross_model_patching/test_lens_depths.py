"""Where verdicts settle and how other readouts agree, on numbers whose answer is known."""

import numpy as np
import pytest

from analyses.cross_model_patching.lens import aggregate, depths

NO_MASS = np.nan


def settled(margins, masses=None, least=0.1):
    margin = np.array(margins, dtype=float)[None, None]
    mass = np.full(margin.shape, np.nan) if masses is None else np.array(masses, dtype=float)[None, None]
    return int(depths.settled_at(margin, mass, least_mass=least)[0, 0])


@pytest.mark.parametrize(
    ("margins", "masses", "expected"),
    [
        ([1, 2, 3], None, 0),
        ([-1, 2, 3], None, 1),
        ([1, -2, 3], None, 2),
        ([3, 2, -1], None, 2),
        ([1, 0, 3], None, 2),
        ([1, 2, 0], None, -1),
        ([1, 2, 3], [0.0, 0.05, 0.9], 2),
        ([1, 2, 3], [0.9, 0.0, 0.9], 2),
        ([1, 2, 3], [0.9, 0.9, 0.01], -1),
        ([1, 2, 3], [0.1, 0.9, 0.9], 0),
    ],
)
def test_a_verdict_settles_where_its_sign_and_its_mass_stay(margins, masses, expected):
    assert settled(margins, masses) == expected


def test_prompts_that_settle_nowhere_are_counted_and_left_out():
    points = np.array([[0, 0], [2, 2], [1, -1]])
    found = depths.settling(points, np.array([-1.0, 0.0, 1.0]), clusters=("a", "b", "c"), seed=0)
    assert found.depth.value == 0.0
    assert found.depth.n == 2
    assert found.unsettled == pytest.approx(1 / 6)


def test_agreement_is_reached_at_the_first_readable_point_that_is_as_good():
    correct = np.tile([0.5, 0.95, 0.7, 0.96], (40, 1))
    clusters = tuple(str(i) for i in range(40))
    at = np.array([-1.0, 0.0, 1.0, 2.0])

    def reached(readable):
        found = depths.agreement_reached(correct, np.array(readable), at, epsilon=0.02, clusters=clusters, seed=0)
        assert found.low <= found.value <= found.high
        return found.value

    assert reached([True] * 4) == 0.0
    assert reached([True, False, True, True]) == 2.0
    nowhere = depths.agreement_reached(
        correct, np.zeros(4, dtype=bool), at, epsilon=0.02, clusters=clusters, seed=0
    )  # fmt: skip
    assert np.isnan(nowhere.value)


def planted(seed=0, items=80):
    """A middle layer says the label, the last one says noise; each order mirrors the other."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1.0, 1.0], size=items)
    sign = np.stack([labels, -labels], axis=1)
    margin = rng.standard_normal((items, 2, 4))
    margin[..., 2] = sign + 0.3 * margin[..., 2]
    return margin, sign


def test_a_fitted_readout_finds_the_layer_that_knows_and_shuffled_labels_find_nothing():
    margin, sign = planted()
    train = np.arange(80) < 40
    weights = aggregate.fit(margin, sign, train, regularisation=1.0, shuffles=40, seed=1)
    assert np.abs(weights.fitted).argmax() == 2
    assert np.abs(weights.fitted).sum() == pytest.approx(1.0)
    held, clusters = ~train, [str(i) for i in range(40)]
    score = margin[held] @ weights.fitted
    found = aggregate.compared(score, margin[held][..., -1], sign[held], clusters=clusters, seed=0)
    assert found.other.value > 0.95
    assert abs(found.final.value - 0.5) < 0.15
    assert found.gain.low > 0.2
    assert found.gain.value == pytest.approx(found.other.value - found.final.value)
    drawn = [aggregate.balanced_accuracy(margin[held] @ w, sign[held]) for w in weights.shuffled]
    assert abs(np.mean(drawn) - 0.5) < 0.15


def test_balanced_accuracy_is_that_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(3)
    sign = np.where(rng.random((60, 1)) < 0.2, 1.0, -1.0)
    score = rng.standard_normal((60, 1)) + 0.5 * sign
    truth = balanced_accuracy_score(sign.ravel() > 0, score.ravel() > 0)
    assert aggregate.balanced_accuracy(score, sign) == pytest.approx(truth)
    found = aggregate.compared(score, score, sign, clusters=[str(i) for i in range(60)], seed=0)
    assert found.other.value == pytest.approx(truth)
    assert (found.gain.value, found.gain.low, found.gain.high) == (0.0, 0.0, 0.0)


def test_without_labels_or_with_one_class_nothing_is_fitted():
    margin, sign = planted(items=10)
    train = np.ones(10, dtype=bool)
    unlabelled = aggregate.fit(margin, np.full_like(sign, np.nan), train, regularisation=1.0, shuffles=2, seed=0)
    assert np.isnan(unlabelled.fitted).all()
    one = aggregate.fit(margin[:, :1], np.ones((10, 1)), train, regularisation=1.0, shuffles=2, seed=0)
    assert np.isnan(one.fitted).all()
    assert one.shuffled.shape == (0, 4)


def test_uniform_weights_cover_the_last_third():
    np.testing.assert_allclose(aggregate.uniform(6), [0, 0, 0, 0, 0.5, 0.5])
    np.testing.assert_allclose(aggregate.uniform(9), [0] * 6 + [1 / 3] * 3)
