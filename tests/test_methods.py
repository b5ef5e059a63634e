"""Every method against its formula in plain loops; a positive score marks a proponent."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.spatial import distance

from attribution import configuration
from attribution.errors import ConfigurationError
from attribution.kernels import decompose
from attribution.methods import COLUMNS, METHODS, Inputs, median_distance, method

RANDOM = np.random.default_rng(0)
QUERIES = RANDOM.normal(size=(4, 6)).astype(np.float32)
TRAIN = RANDOM.normal(size=(9, 6)).astype(np.float32)
LAMBDAS = np.array([0.01, 1.0, 30.0])
BY_NEED = {
    "dot": ("raw_pixel_dot", "gradient_dot"),
    "cosine": ("raw_pixel_cosine", "gradient_cosine"),
}


class Rows:
    """A row source that gives slices only, as stores do."""

    def __init__(self, values: np.ndarray):
        self.values, self.shape = values, values.shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        assert isinstance(rows, slice)
        return self.values[rows]


def scores(
    name: str,
    queries: np.ndarray = QUERIES,
    train: np.ndarray = TRAIN,
    split: str = "validation",
    **options: Any,
) -> np.ndarray:
    """All scores [lambdas, queries, images], put together from the pieces; each cell comes once."""
    chosen = method(name)
    lambdas = LAMBDAS if chosen.needs == "kernel" else np.array([np.nan])
    more = {}
    if chosen.needs == "kernel":
        more = {"decomposition": decompose(Rows(train), block_rows=COLUMNS), "lambdas": lambdas}
    inputs = Inputs(Rows(queries), Rows(train), options, split, **more)
    whole = np.full((len(lambdas), len(queries), len(train)), np.nan)
    for index, columns, values in chosen.score(inputs):
        assert columns.start % COLUMNS == 0
        assert np.isnan(whole[index, :, columns]).all()
        whole[index, :, columns] = values
    assert not np.isnan(whole).any()
    return whole


def by_loop(function: Any, queries: np.ndarray = QUERIES, train: np.ndarray = TRAIN) -> np.ndarray:
    queries, train = queries.astype(np.float64), train.astype(np.float64)
    return np.array([[function(query, image) for image in train] for query in queries])


@pytest.mark.parametrize("name", BY_NEED["dot"])
def test_dot_products(name: str):
    expected = by_loop(lambda a, b: sum(x * y for x, y in zip(a, b, strict=True)))
    np.testing.assert_allclose(scores(name)[0], expected, atol=1e-12)


@pytest.mark.parametrize("name", BY_NEED["cosine"])
def test_cosines_are_those_of_scipy(name: str):
    expected = 1 - distance.cdist(QUERIES.astype(float), TRAIN.astype(float), "cosine")
    np.testing.assert_allclose(scores(name)[0], expected, atol=1e-12)


@pytest.mark.parametrize("name", BY_NEED["cosine"])
def test_the_cosine_with_a_row_of_zeros_is_zero(name: str):
    train, queries = TRAIN.copy(), QUERIES.copy()
    train[2], queries[1] = 0, 0
    computed = scores(name, queries, train)[0]
    assert (computed[:, 2] == 0).all()
    assert (computed[1] == 0).all()
    assert np.isfinite(computed).all()


def test_the_gaussian_of_a_given_width():
    expected = by_loop(lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * 1.7**2)))
    np.testing.assert_allclose(scores("raw_pixel_gaussian", width=1.7)[0], expected, atol=1e-12)


def test_the_gaussian_s_default_width_is_the_median_distance_of_scipy():
    median = np.median(distance.pdist(TRAIN.astype(float)))
    assert median_distance(Rows(TRAIN)) == pytest.approx(median)
    expected = by_loop(lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * median**2)))
    np.testing.assert_allclose(scores("raw_pixel_gaussian")[0], expected, atol=1e-12)


def test_the_median_distance_is_that_of_the_first_2000_images():
    train = RANDOM.normal(size=(2100, 2))
    train[2000:] += 1000
    assert median_distance(Rows(train)) == pytest.approx(np.median(distance.pdist(train[:2000])))


@pytest.mark.parametrize("dim", [6, 20])
def test_the_kernel_equals_a_dense_solve(dim: int):
    """Eq. 7 in float64, with fewer features than images (primal) and with more (dual)."""
    random = np.random.default_rng(1)
    queries, train = random.normal(size=(4, dim)), random.normal(size=(9, dim))
    computed = scores("kernel", queries, train)
    for index, lam in enumerate(LAMBDAS):
        kernel = train.T @ train + lam * np.eye(dim)
        expected = queries @ np.linalg.solve(kernel, train.T)
        np.testing.assert_allclose(computed[index], expected, rtol=1e-8, atol=1e-11)


def test_the_kernel_of_a_huge_lambda_is_the_dot_product_over_it():
    decomposition = decompose(Rows(TRAIN))
    inputs = Inputs(Rows(QUERIES), Rows(TRAIN), {}, "validation", decomposition, np.array([1e12]))
    ((_, _, values),) = method("kernel").score(inputs)
    np.testing.assert_allclose(values * 1e12, scores("gradient_dot")[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"random"}))
def test_a_duplicate_of_the_query_ranks_first_and_its_opposite_last(name: str):
    """Positive is a proponent. All rows have one norm, as the dot product asks for."""
    random = np.random.default_rng(3)
    train = random.normal(size=(12, 8))
    train /= np.linalg.norm(train, axis=1, keepdims=True)
    train[5], queries = -train[2], train[2:3]
    computed = scores(name, queries, train)[:, 0]  # [lambdas, images]
    assert (computed.argmax(1) == 2).all()
    assert (computed.argmin(1) == 5).all()
    assert (computed[:, 2] > 0).all()


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"random"}))
def test_pieces_of_columns_equal_one_block(name: str):
    """More than two pieces of training images, the last one smaller."""
    random = np.random.default_rng(4)
    train = random.normal(size=(2 * COLUMNS + 37, 5))
    computed = scores(name, QUERIES[:, :5], train, width=2.0)
    queries = QUERIES[:, :5].astype(np.float64)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, train)]
    if name.endswith("dot"):
        expected = [queries @ train.T]
    elif name.endswith("cosine"):
        expected = [unit[0] @ unit[1].T]
    elif name == "raw_pixel_gaussian":
        expected = [np.exp(-distance.cdist(queries, train, "sqeuclidean") / 8)]
    else:
        gram = train.T @ train
        expected = [queries @ np.linalg.solve(gram + lam * np.eye(5), train.T) for lam in LAMBDAS]
    np.testing.assert_allclose(computed, expected, rtol=1e-8, atol=1e-12)


def test_random_is_reproducible_and_differs_by_split_and_seed():
    train = np.zeros((COLUMNS + 5, 1))
    first = scores("random", train=train)
    np.testing.assert_array_equal(scores("random", train=train), first)
    assert not np.array_equal(scores("random", train=train, split="generation"), first)
    assert not np.array_equal(scores("random", train=train, seed=1), first)
    np.testing.assert_array_equal(scores("random", train=train, seed=0), first)
    assert not np.array_equal(first[0, :, :5], first[0, :, COLUMNS:])
    # 4,020 draws: the mean is off by 0.016, the deviation by 0.011.
    assert abs(first.mean()) < 0.07
    assert first.std() == pytest.approx(1, abs=0.05)


def test_the_registry_and_the_configuration_know_the_same_methods_and_needs():
    assert {name: one.needs for name, one in METHODS.items()} == configuration.NEEDS
    assert all(one.name == name for name, one in METHODS.items())
    schema = yaml.safe_load(Path(configuration.SCHEMA).read_text(encoding="utf-8"))
    named = schema["$defs"]["method"]["properties"]["function"]["enum"]
    assert sorted(named) == sorted(METHODS)


def test_an_unknown_method_is_answered_with_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"unknown method 'trakk'; known: .*kernel"):
        method("trakk")
