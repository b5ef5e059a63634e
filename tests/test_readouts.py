"""Every readout against its formula, score by score."""

import math

import numpy as np
import pytest

from attribution.errors import ConfigurationError
from attribution.readouts import ELEMENTWISE, READOUTS, apply

SCORES = np.random.default_rng(0).normal(size=(5, 40))
FORMULAS = {
    "linear": lambda t: t,
    "square": lambda t: t**2,
    "signed_square": lambda t: math.copysign(1, t) * t**2,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_readouts_of_one_score_at_a_time(name: str):
    expected = [[FORMULAS[name](t) for t in row] for row in SCORES.tolist()]
    np.testing.assert_allclose(apply(name, SCORES), expected, rtol=1e-14)
    assert name in ELEMENTWISE


def test_the_readouts_are_known():
    assert sorted(READOUTS) == sorted([*FORMULAS, "top_fraction"])


@pytest.mark.parametrize(("kappa", "kept"), [(0.1, 4), (0.29, 12), (0.001, 1), (1.0, 40)])
def test_top_fraction_keeps_each_query_s_largest_scores(kappa: float, kept: int):
    before = SCORES.copy()
    computed = apply("top_fraction", SCORES, kappa)
    np.testing.assert_array_equal(SCORES, before)
    for query in range(5):
        ranked = sorted(range(40), key=lambda image: -SCORES[query, image])
        for place, image in enumerate(ranked):
            assert computed[query, image] == (SCORES[query, image] if place < kept else 0)


def test_top_fraction_means_largest_and_not_largest_in_size():
    computed = apply("top_fraction", np.array([[-9.0, 1, 2, -1]]), 0.5)
    np.testing.assert_array_equal(computed, [[0, 1, 2, 0]])


def test_equal_scores_do_not_make_top_fraction_keep_more():
    assert (apply("top_fraction", np.ones((2, 10)), 0.3).sum(1) == 3).all()


@pytest.mark.parametrize("name", FORMULAS)
def test_parts_of_a_matrix_are_enough_for_the_elementwise_ones(name: str):
    parts = [apply(name, SCORES[:, part]) for part in (slice(0, 13), slice(13, 40))]
    np.testing.assert_array_equal(np.hstack(parts), apply(name, SCORES))


@pytest.mark.parametrize("kappa", [None, 0, 1.5])
def test_a_fraction_that_is_none_is_refused(kappa: float | None):
    with pytest.raises(ConfigurationError, match="top_fraction needs a fraction above 0"):
        apply("top_fraction", SCORES, kappa)


def test_an_unknown_readout_is_answered_with_the_known_ones():
    with pytest.raises(ConfigurationError, match="unknown readout 'cube'; known: linear, square"):
        apply("cube", SCORES)
