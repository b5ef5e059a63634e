"""The overlap of tops of two halves of the features, against explicit inverses in float64."""

import numpy as np
import pytest

from attribution.errors import ConfigurationError
from attribution.stability import _halves, top_overlap


def overlap_by_inverse(train, queries, multiple, top, halvings, seed):
    halves = _halves(train.shape[1], halvings, seed)
    tops = []
    for half in halves:
        phi, asked = train[:, half].astype(float), queries[:, half].astype(float)
        lam = multiple * (phi**2).sum(1).mean()
        inverse = np.linalg.inv(phi.T @ phi + lam * np.eye(len(half)))
        scores = asked @ inverse @ phi.T
        tops.append([set(np.argsort(-row)[:top].tolist()) for row in scores])
    return [
        np.mean([len(tops[i][q] & tops[i + 1][q]) / top for i in range(0, len(tops), 2)])
        for q in range(len(queries))
    ]


@pytest.mark.parametrize("shape", [(30, 12), (12, 40)])  # primal and dual
@pytest.mark.parametrize("multiple", [0.01, 10.0])
def test_against_explicit_inverses(shape, multiple):
    generator = np.random.default_rng(1)
    train = generator.normal(size=shape).astype(np.float32)
    queries = generator.normal(size=(5, shape[1])).astype(np.float32)
    found = top_overlap(train, queries, multiple, top=4, halvings=3, seed=7)
    np.testing.assert_allclose(found, overlap_by_inverse(train, queries, multiple, 4, 3, 7))


def test_halves_are_disjoint_and_as_large():
    for first, second in zip(*[iter(_halves(11, 4, 0))] * 2, strict=True):
        assert len(first) == len(second) == 5
        assert not set(first) & set(second)


def test_features_that_stand_twice_agree_and_noise_agrees_by_chance():
    generator = np.random.default_rng(2)
    signal = generator.normal(size=(200, 3)) @ generator.normal(size=(3, 64))
    assert (top_overlap(signal, signal[:20], 0.1) > 0.8).all()
    noise = generator.normal(size=(200, 64))
    by_chance = top_overlap(noise, generator.normal(size=(50, 64)), 0.1).mean()
    assert abs(by_chance - 10 / 200) < 0.05


def test_few_images_have_a_smaller_top():
    train = np.random.default_rng(3).normal(size=(4, 8))
    assert set(top_overlap(train, train, 0.1, halvings=1)) <= {0.0, 0.5, 1.0}
    with pytest.raises(ConfigurationError, match="cannot be halved"):
        top_overlap(train[:1], train, 0.1)
