"""Empirical influence by counting, datamodels against scikit-learn."""

import logging

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import KFold

from attribution.errors import ConfigurationError
from attribution.retraining_based import ALPHAS, Datamodel, folds, mean_difference


def pool(models: int, images: int, queries: int, noise: float = 1.0, seed: int = 0) -> tuple:
    """Masks of random halves, and outputs that partly follow them."""
    random = np.random.default_rng(seed)
    masks = np.zeros((models, images), dtype=bool)
    for mask in masks:
        mask[random.permutation(images)[: images // 2]] = True
    effects = random.normal(size=(images, queries))
    return masks, 3 + masks @ effects + noise * random.normal(size=(models, queries))


def test_the_empirical_influence_is_the_difference_of_two_means():
    masks, outputs = pool(11, 7, 3)
    computed = mean_difference(masks, outputs)
    for query in range(3):
        for image in range(7):
            inside = [outputs[m, query] for m in range(11) if masks[m, image]]
            outside = [outputs[m, query] for m in range(11) if not masks[m, image]]
            expected = sum(outside) / len(outside) - sum(inside) / len(inside)
            assert computed[query, image] == pytest.approx(expected)


def test_an_image_that_all_models_have_seen_or_none_has_no_empirical_influence():
    masks, outputs = pool(6, 5, 3)
    masks[:, 1], masks[:, 3] = True, False
    computed = mean_difference(masks, outputs)
    assert (computed[:, [1, 3]] == 0).all()
    assert (computed[:, [0, 2, 4]] != 0).all()


def test_a_small_empirical_influence_worked_by_hand():
    masks = np.array([[True, False], [True, True], [False, True]])
    outputs = np.array([[1.0], [2.0], [6.0]])
    np.testing.assert_allclose(mean_difference(masks, outputs), [[6 - 1.5, 1 - 4.0]])


@pytest.mark.parametrize("models", [10, 23, 64])
@pytest.mark.parametrize("images", [8, 100])
@pytest.mark.parametrize("alphas", ["paper", "wide", [0.5, 3.0, 20.0, 150.0]])
def test_a_datamodel_is_scikit_learn_s_ridge_with_cross_validation(models, images, alphas):
    """Query by query: the choice of alpha and the coefficients."""
    masks, outputs = pool(models, images, 9, noise=3.0)
    fitted = Datamodel.fit(masks, outputs, alphas)
    grid = ALPHAS[alphas] if isinstance(alphas, str) else np.array(alphas)
    coefficients = fitted.coefficients(masks)
    assert coefficients.shape == (9, images)
    for query in range(9):
        reference = RidgeCV(alphas=grid, cv=5).fit(masks.astype(float), outputs[:, query])
        assert fitted.alphas[query] == pytest.approx(reference.alpha_)
        np.testing.assert_allclose(coefficients[query], reference.coef_, rtol=1e-6, atol=1e-9)


def test_queries_choose_different_alphas():
    """Otherwise the test against scikit-learn would say little of the choice."""
    masks, outputs = pool(64, 100, 9, noise=3.0)
    outputs[:, :4] = pool(64, 100, 4, noise=0.0, seed=1)[1]
    assert len(set(Datamodel.fit(masks, outputs).alphas)) > 1


def test_few_models_make_fewer_folds():
    masks, outputs = pool(7, 12, 4)
    fitted = Datamodel.fit(masks, outputs, "paper")
    for query in range(4):
        reference = RidgeCV(alphas=ALPHAS["paper"], cv=3).fit(
            masks.astype(float), outputs[:, query]
        )
        assert fitted.alphas[query] == reference.alpha_
    with pytest.raises(ConfigurationError, match="at least 4 models of the pool, not 3"):
        Datamodel.fit(masks[:3], outputs[:3])


def test_columns_can_be_read_in_parts():
    masks, outputs = pool(20, 30, 4)
    fitted = Datamodel.fit(masks, outputs)
    parts = [fitted.coefficients(masks[:, part]) for part in (slice(0, 11), slice(11, 30))]
    np.testing.assert_allclose(np.hstack(parts), fitted.coefficients(masks), rtol=1e-12)


def test_images_that_all_models_have_seen_get_no_coefficient():
    masks, outputs = pool(20, 30, 4)
    masks[:, 5] = True
    np.testing.assert_allclose(
        Datamodel.fit(masks, outputs).coefficients(masks)[:, 5], 0, atol=1e-9
    )


def test_outputs_that_are_all_equal_give_a_datamodel_of_zeros():
    masks, outputs = pool(20, 30, 2)
    outputs[:, 1] = 4.5
    coefficients = Datamodel.fit(masks, outputs, "paper").coefficients(masks)
    np.testing.assert_allclose(coefficients[1], 0, atol=1e-9)
    assert np.abs(coefficients[0]).max() > 1e-3


def test_repeated_models_do_not_matter():
    """A singular Gram matrix, as with models of the same subset."""
    masks, outputs = pool(12, 30, 3)
    masks = np.vstack([masks, masks])
    outputs = np.vstack([outputs, outputs + 0.1])
    fitted = Datamodel.fit(masks, outputs, [1.0])
    for query in range(3):
        reference = Ridge(alpha=1.0).fit(masks.astype(float), outputs[:, query])
        np.testing.assert_allclose(fitted.coefficients(masks)[query], reference.coef_, atol=1e-9)


@pytest.mark.parametrize(("models", "count"), [(10, 5), (23, 5), (7, 3), (4, 2)])
def test_folds_are_those_of_scikit_learn(models: int, count: int):
    expected = [test.tolist() for _, test in KFold(count).split(np.zeros(models))]
    assert [list(range(models))[fold] for fold in folds(models, count)] == expected


def test_a_choice_at_the_edge_of_the_grid_is_told(caplog: pytest.LogCaptureFixture):
    masks, outputs = pool(40, 60, 10, noise=0.0)
    with caplog.at_level(logging.WARNING):
        Datamodel.fit(masks, outputs, [1e4, 1e5, 1e6])
    assert "datamodels of 100 % of the queries take the smallest alpha, 10000" in caplog.text
    caplog.clear()
    effects = np.random.default_rng(1).normal(size=(20, 10))
    inside = np.random.default_rng(2).random((200, 20)) < 0.5
    noisy = inside @ effects + np.random.default_rng(3).normal(size=(200, 10))
    with caplog.at_level(logging.WARNING):
        Datamodel.fit(inside, noisy)
    assert not caplog.records


@pytest.mark.parametrize("alphas", ["narrow", [], [1.0, 0.0], [float("nan")]])
def test_penalties_that_are_none_are_refused(alphas):
    masks, outputs = pool(10, 6, 2)
    with pytest.raises(ConfigurationError, match="alphas"):
        Datamodel.fit(masks, outputs, alphas)
