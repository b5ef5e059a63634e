"""Every method against its formula in plain loops; a positive score marks a proponent."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial import distance

from attribution import configuration
from attribution.errors import ConfigurationError, StoreError
from attribution.kernels import decompose
from attribution.methods import (
    COLUMNS,
    METHODS,
    Inputs,
    Pool,
    configured,
    median_distance,
    method,
)
from attribution.methods import scores as mean_scores

RANDOM = np.random.default_rng(0)
QUERIES = RANDOM.normal(size=(4, 6)).astype(np.float32)
TRAIN = RANDOM.normal(size=(9, 6)).astype(np.float32)
LAMBDAS = np.array([0.01, 1.0, 30.0])
BY_NEED = {
    "dot": ("raw_pixel_dot", "gradient_dot", "similarity_dot"),
    "cosine": ("raw_pixel_cosine", "gradient_cosine", "similarity_cosine"),
}
OF_ROWS = sorted(name for name, one in METHODS.items() if one.needs != "pool" and name != "random")


class Rows:
    """A row source that gives slices only, as stores do."""

    def __init__(self, values: np.ndarray):
        self.values, self.shape = values, values.shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        assert isinstance(rows, slice)
        return self.values[rows]


def inputs_of(
    name: str,
    queries: np.ndarray = QUERIES,
    train: np.ndarray = TRAIN,
    split: str = "validation",
    residuals: np.ndarray | None = None,
    **options: Any,
) -> Inputs:
    """What a method of rows reads; residuals are 1 unless given."""
    more: dict[str, Any] = {"residuals": np.ones(len(train)) if residuals is None else residuals}
    if method(name).needs == "kernel":
        more["decomposition"] = decompose(Rows(train), block_rows=COLUMNS)
        more["lambdas"] = LAMBDAS
    return Inputs(Rows(queries), Rows(train), options, split, **more)


def put_together(name: str, *sets: Inputs) -> np.ndarray:
    """All scores [lambdas, queries, images], put together from the pieces; each cell comes once."""
    whole = np.full((len(sets[0].lambdas), *sets[0].shape), np.nan)
    for index, columns, values in mean_scores(method(name), sets):
        assert columns.start % COLUMNS == 0
        assert values.dtype == np.float64
        assert np.isnan(whole[index, :, columns]).all()
        whole[index, :, columns] = values
    assert not np.isnan(whole).any()
    return whole


def scores(name: str, *arrays: np.ndarray, **more: Any) -> np.ndarray:
    return put_together(name, inputs_of(name, *arrays, **more))


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


def by_inverse(
    name: str, queries: np.ndarray, train: np.ndarray, lam: float, residuals: Any = 1.0
) -> np.ndarray:
    """A kernel method by the k x k inverse: [queries, images]."""
    inverse = np.linalg.inv(train.T @ train + lam * np.eye(train.shape[1]))
    scores = queries @ inverse @ train.T
    if name == "relative_if":
        return scores / np.linalg.norm(inverse @ train.T, axis=0)
    if name == "renormalised_if":
        return scores / np.linalg.norm(train, axis=1)
    if name == "das":
        return scores * residuals / (1 - np.diag(train @ inverse @ train.T))
    return scores


@pytest.mark.parametrize("dim", [6, 20])
@pytest.mark.parametrize("name", ["relative_if", "renormalised_if", "das"])
def test_kernel_methods_equal_their_formulas_image_by_image(name: str, dim: int):
    """With fewer features than images (primal) and with more (dual)."""
    random = np.random.default_rng(1)
    queries, train = random.normal(size=(4, dim)), random.normal(size=(9, dim))
    residuals = random.uniform(0.5, 2, size=9)
    computed = scores(name, queries, train, residuals=residuals)
    for index, lam in enumerate(LAMBDAS):
        inverse = np.linalg.inv(train.T @ train + lam * np.eye(dim))
        for q, query in enumerate(queries):
            for n, image in enumerate(train):
                value = query @ inverse @ image
                if name == "relative_if":
                    value /= np.sqrt(((inverse @ image) ** 2).sum())
                elif name == "renormalised_if":
                    value /= np.sqrt((image**2).sum())
                else:
                    value *= residuals[n] / (1 - image @ inverse @ image)
                np.testing.assert_allclose(computed[index, q, n], value, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("dim", [6, 20])
def test_das_is_a_newton_step_of_leaving_the_image_out(dim: int):
    """On a linear model phi . theta it is exact: the change of the query's prediction."""
    random = np.random.default_rng(2)
    train, queries = random.normal(size=(9, dim)), random.normal(size=(4, dim))
    targets = random.normal(size=9)

    def fitted(rows: np.ndarray, lam: float) -> np.ndarray:
        gram = train[rows].T @ train[rows] + lam * np.eye(dim)
        return np.linalg.solve(gram, train[rows].T @ targets[rows])

    for index, lam in enumerate(LAMBDAS):
        theta = fitted(np.arange(9), lam)
        computed = scores("das", queries, train, residuals=targets - train @ theta)[index]
        for image in range(9):
            change = theta - fitted(np.delete(np.arange(9), image), lam)
            np.testing.assert_allclose(computed[:, image], queries @ change, rtol=1e-6, atol=1e-9)


def test_das_without_leverage_is_the_kernel_times_the_residuals():
    residuals = np.linspace(0.5, 2, 9)
    computed = scores("das", residuals=residuals, leverage=False)
    np.testing.assert_allclose(computed, scores("kernel") * residuals, rtol=1e-12)


def test_das_says_that_it_needs_residuals():
    one = inputs_of("das")
    without = Inputs(one.queries, one.train, {}, one.split, one.decomposition, one.lambdas)
    with pytest.raises(ConfigurationError, match="das needs a feature set with `residuals: true`"):
        put_together("das", without)


@pytest.mark.parametrize("name", ["relative_if", "renormalised_if", "das"])
@pytest.mark.parametrize("dim", [6, 20])
def test_an_image_without_features_has_no_influence(name: str, dim: int):
    train = np.random.default_rng(5).normal(size=(9, dim))
    train[2] = 0
    computed = scores(name, np.ones((4, dim)), train)
    assert np.isfinite(computed).all()
    np.testing.assert_allclose(computed[:, :, 2], 0, atol=1e-7)


def test_das_stays_finite_where_the_leverage_rounds_to_one():
    train = np.random.default_rng(6).normal(size=(4, 8))
    lambdas = np.array([1e-20])
    one = Inputs(
        Rows(QUERIES @ np.ones((6, 8))), Rows(train), {}, "validation",
        decompose(Rows(train)), lambdas, np.ones(4),
    )  # fmt: skip
    assert np.isfinite(put_together("das", one)).all()


@pytest.mark.parametrize("name", ["gradient_dot", "gradient_cosine", "kernel", "das"])
def test_several_sets_give_the_mean_of_their_scores(name: str):
    """Checkpoints (TracInCP, GAS) and ensembles; more than one piece of columns."""
    random = np.random.default_rng(7)
    sets = [
        inputs_of(name, random.normal(size=(4, 5)), random.normal(size=(COLUMNS + 8, 5)))
        for _ in range(3)
    ]
    expected = np.mean([put_together(name, one) for one in sets], axis=0)
    np.testing.assert_allclose(put_together(name, *sets), expected, rtol=1e-12)


def test_tracincp_is_the_mean_of_dot_products_over_checkpoints():
    random = np.random.default_rng(8)
    pairs = [(random.normal(size=(2, 5)), random.normal(size=(3, 5))) for _ in range(4)]
    computed = put_together("gradient_dot", *(inputs_of("gradient_dot", *pair) for pair in pairs))
    for q in range(2):
        for n in range(3):
            each = [sum(a * b for a, b in zip(x[q], y[n], strict=True)) for x, y in pairs]
            assert computed[0, q, n] == pytest.approx(sum(each) / 4)


def test_an_ensemble_averages_at_the_index_of_lambda():
    """Each set's lambdas are its own: the grid in units of its own mean eigenvalue."""
    random = np.random.default_rng(9)
    sets, expected = [], np.zeros((2, 4, 9))
    for size in (1.0, 100.0):
        queries, train = random.normal(size=(4, 6)) * size, random.normal(size=(9, 6)) * size
        lambdas = np.array([0.1, 10]) * (train**2).sum(1).mean()
        sets.append(
            Inputs(Rows(queries), Rows(train), {}, "validation", decompose(Rows(train)), lambdas)
        )
        expected += [by_inverse("kernel", queries, train, lam) / 2 for lam in lambdas]
    np.testing.assert_allclose(put_together("kernel", *sets), expected, rtol=1e-9)


def test_sets_of_different_images_have_no_mean():
    sets = [inputs_of("gradient_dot"), inputs_of("gradient_dot", train=TRAIN[:5])]
    with pytest.raises(StoreError, match=r"numbers differ: \(4, 9\), \(4, 5\)"):
        put_together("gradient_dot", *sets)
    with pytest.raises(ConfigurationError, match="was given nothing to read"):
        list(mean_scores(method("gradient_dot"), []))


def pool_inputs(masks: np.ndarray, outputs: np.ndarray, **options: Any) -> Inputs:
    return Inputs(None, None, options, "validation", pool=Pool(masks, outputs))


@pytest.mark.parametrize("name", ["empirical_influence", "datamodel"])
def test_an_image_that_lowers_the_loss_gets_a_positive_score(name: str):
    """Outputs that are minus the sum of known effects of the images in the subset."""
    random = np.random.default_rng(10)
    masks = random.random((300, 12)) < 0.5
    effects = random.normal(size=(3, 12))
    outputs = 5 - masks @ effects.T
    computed = put_together(name, pool_inputs(masks, outputs))[0]
    for query in range(3):
        assert np.corrcoef(computed[query], effects[query])[0, 1] > 0.9


@pytest.mark.parametrize("name", ["empirical_influence", "datamodel"])
def test_methods_of_the_pool_come_in_pieces_and_can_read_its_first_models(name: str):
    random = np.random.default_rng(11)
    masks, outputs = random.random((20, 2 * COLUMNS + 7)) < 0.5, random.normal(size=(20, 3))
    computed = put_together(name, pool_inputs(masks, outputs, models=12))
    alone = put_together(name, pool_inputs(masks[:12], outputs[:12]))
    np.testing.assert_array_equal(computed, alone)
    assert not np.allclose(computed, put_together(name, pool_inputs(masks, outputs)))
    with pytest.raises(ConfigurationError, match="21 models are asked for, and the pool has 20"):
        put_together(name, pool_inputs(masks, outputs, models=21))


def test_a_datamodel_takes_its_penalties_from_its_options():
    random = np.random.default_rng(12)
    masks, outputs = random.random((20, 15)) < 0.5, random.normal(size=(20, 3))
    wide, paper, own = (
        put_together("datamodel", pool_inputs(masks, outputs, **options))
        for options in ({}, {"alphas": "paper"}, {"alphas": [1e6]})
    )
    assert np.abs(paper).max() > np.abs(own).max() > 0
    assert not np.allclose(wide, paper)


def test_the_kernel_of_a_huge_lambda_is_the_dot_product_over_it():
    decomposition = decompose(Rows(TRAIN))
    inputs = Inputs(Rows(QUERIES), Rows(TRAIN), {}, "validation", decomposition, np.array([1e12]))
    ((_, _, values),) = method("kernel").score(inputs)
    np.testing.assert_allclose(values * 1e12, scores("gradient_dot")[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", OF_ROWS)
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


@pytest.mark.parametrize("name", OF_ROWS)
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
        expected = [by_inverse(name, queries, train, lam) for lam in LAMBDAS]
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


def test_an_unknown_method_is_answered_with_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"unknown method 'trakk'; known: .*kernel"):
        method("trakk")


def test_an_entry_of_the_configuration_names_a_method_of_the_library_or_of_a_file(tmp_path: Path):
    (tmp_path / "mine.py").write_text("def score(inputs):\n    return None\n")
    assert configured({"function": "kernel", "features": "x"}, tmp_path) is METHODS["kernel"]
    for entry, needs in (
        ({}, "images"),
        ({"features": "x"}, "features"),
        ({"needs": "pool"}, "pool"),
    ):
        assert configured({"function": "mine:score", **entry}, tmp_path).needs == needs
    with pytest.raises(ConfigurationError, match="unknown method 'krenel'"):
        configured({"function": "krenel"}, tmp_path)
