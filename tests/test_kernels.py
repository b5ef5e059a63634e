"""The one-eigendecomposition path against dense float64 solves, in both forms."""

import numpy as np
import pytest

from attribution import kernels, randomness
from attribution.errors import ConfigurationError, NumericalError, StoreError

LAMBDAS = [1e-6, 1e-2, 1.0, 50.0]
SHAPES = {"dual": (40, 70), "primal": (70, 40), "square": (40, 40)}


def features(rows: int, dim: int, *key: str | int) -> np.ndarray:
    """Features [rows, dim] whose spectrum decays over three decades, float32."""
    scale = np.logspace(0, -1.5, dim, dtype=np.float32)
    rotation = np.linalg.qr(randomness.normal((dim, dim), "rotation", dim))[0]
    return (randomness.normal((rows, dim), "features", rows, *key) * scale) @ rotation


def dense_scores(queries: np.ndarray, train: np.ndarray, lam: float) -> np.ndarray:
    """Eq. 7 as written, in float64: [q, n]."""
    queries, train = queries.astype(np.float64), train.astype(np.float64)
    kernel = train.T @ train + lam * np.eye(train.shape[1])
    return queries @ np.linalg.solve(kernel, train.T)


class Rows:
    """A row source that gives only slices, and counts how many rows were asked for at once."""

    def __init__(self, array: np.ndarray):
        self.array, self.shape, self.largest = array, array.shape, 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.largest = max(self.largest, rows.stop - rows.start)
        return self.array[rows]


@pytest.mark.parametrize("block_rows", [None, 1, 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_equal_a_dense_solve(shape, block_rows):
    train, queries = features(*SHAPES[shape]), features(9, SHAPES[shape][1], "queries")
    decomposition = kernels.decompose(train, block_rows)
    assert decomposition.kind == ("primal" if shape == "primal" else "dual")
    scores = np.full((len(LAMBDAS), 9, len(train)), np.nan)
    for index, columns, piece in kernels.kernel_scores(decomposition, queries, train, LAMBDAS):
        assert piece.dtype == np.float64
        scores[index][:, columns] = piece
    for lam, found in zip(LAMBDAS, scores, strict=True):
        expected = dense_scores(queries, train, lam)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


def test_a_case_worked_by_hand():
    # Two images along two axes: eigenvalues 4 and 1; tau = q_j phi_j / (phi_j^2 + lambda).
    train = np.array([[2.0, 0.0], [0.0, 1.0]])
    decomposition = kernels.decompose(train)
    np.testing.assert_allclose(decomposition.eigenvalues, [1, 4])
    assert decomposition.mean_eigenvalue == 2.5
    scores = kernels.score_matrix(decomposition, np.array([[1.0, 1.0]]), train, 1.0)
    np.testing.assert_allclose(scores, [[2 / 5, 1 / 2]])
    np.testing.assert_allclose(kernels.leverage(decomposition, train, 1.0), [4 / 5, 1 / 2])
    np.testing.assert_allclose(kernels.inverse_norms(decomposition, train, 1.0), [2 / 5, 1 / 2])


def test_dual_and_primal_forms_agree():
    # Columns of zeros change no inner product, but turn a primal problem into a dual one.
    train, queries = features(60, 30), features(5, 30, "queries")
    padded = [np.pad(array, ((0, 0), (0, 50))) for array in (train, queries)]
    primal, dual = kernels.decompose(train, 16), kernels.decompose(padded[0], 16)
    assert (primal.kind, dual.kind) == ("primal", "dual")
    assert dual.mean_eigenvalue == pytest.approx(primal.mean_eigenvalue, rel=1e-12)
    np.testing.assert_allclose(dual.feature_norms, primal.feature_norms, rtol=1e-12)
    for lam in LAMBDAS[1:]:
        expected = kernels.score_matrix(primal, queries, train, lam)
        found = kernels.score_matrix(dual, padded[1], padded[0], lam)
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
        for statistic in (kernels.leverage, kernels.inverse_norms):
            np.testing.assert_allclose(
                statistic(dual, padded[0], lam), statistic(primal, train, lam), rtol=1e-9
            )


@pytest.mark.parametrize("shape", SHAPES)
def test_row_statistics_equal_dense_ones(shape):
    train = features(*SHAPES[shape])
    decomposition = kernels.decompose(train, 11)
    exact = train.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1)
    np.testing.assert_allclose(decomposition.feature_norms, norms, rtol=1e-12)
    assert decomposition.mean_eigenvalue == pytest.approx(np.mean(norms**2), rel=1e-12)
    leverages = kernels.leverage(decomposition, train, LAMBDAS)
    inverse_norms = kernels.inverse_norms(decomposition, train, LAMBDAS)
    assert leverages.shape == inverse_norms.shape == (len(LAMBDAS), len(train))
    for index, lam in enumerate(LAMBDAS):
        solved = np.linalg.solve(exact.T @ exact + lam * np.eye(exact.shape[1]), exact.T)  # [k, n]
        expected = np.einsum("nk,kn->n", exact, solved)
        np.testing.assert_allclose(leverages[index], expected, rtol=1e-8)
        np.testing.assert_allclose(inverse_norms[index], np.linalg.norm(solved, axis=0), rtol=1e-6)
        own = kernels.score_matrix(decomposition, train, train, lam).diagonal()
        np.testing.assert_allclose(own, leverages[index], rtol=1e-8)
        single = kernels.leverage(decomposition, train, lam)
        np.testing.assert_allclose(single, leverages[index], rtol=1e-13)


@pytest.mark.parametrize("shape", [(30, 80), (80, 30)])
def test_singular_kernels_stay_exact_at_small_lambda(shape):
    # Rank 6 of 30: the dense kernel cannot be inverted without lambda. On the range of Phi the
    # answer is known from the singular values, whatever lambda: tau = A diag(s^2 / (s^2 + lambda))
    # B^T.
    images, dim = shape
    left = np.linalg.qr(randomness.normal((images, 6), "left").astype(np.float64))[0]
    right = np.linalg.qr(randomness.normal((dim, 6), "right").astype(np.float64))[0]
    values = np.logspace(0, -3, 6)
    train = (left * values) @ right.T
    decomposition = kernels.decompose(train, 13)
    assert (decomposition.eigenvalues >= 0).all()
    for lam in (1e-9, 1e-6, 1e-3):
        expected = (left * (values**2 / (values**2 + lam))) @ left.T
        found = kernels.score_matrix(decomposition, train, train, lam)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_many_equal_images():
    train = np.ones((20, 50), dtype=np.float32)
    decomposition = kernels.decompose(train, 6)
    assert decomposition.mean_eigenvalue == pytest.approx(50)
    leverages = kernels.leverage(decomposition, train, 1.0)
    np.testing.assert_allclose(leverages, 50 / 1001, rtol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_sources_are_read_in_blocks_only(shape):
    train, queries = Rows(features(*SHAPES[shape])), Rows(features(25, SHAPES[shape][1], "q"))
    decomposition = kernels.decompose(train, 8)
    kernels.score_matrix(decomposition, queries, train, 1.0)
    kernels.leverage(decomposition, train, 1.0)
    assert max(train.largest, queries.largest) <= 8


def test_pieces_are_no_larger_than_a_block():
    train = features(33, 12)
    decomposition = kernels.decompose(train, 10)
    pieces = list(kernels.kernel_scores(decomposition, features(4, 12, "q"), train, LAMBDAS))
    assert [index for index, _, _ in pieces] == list(range(len(LAMBDAS))) * 4
    assert [p.shape for _, _, p in pieces[:: len(LAMBDAS)]] == [(4, 10)] * 3 + [(4, 3)]


def test_large_matrices_take_the_other_driver(monkeypatch):
    train, queries = features(60, 30), features(5, 30, "q")
    expected = kernels.score_matrix(kernels.decompose(train), queries, train, 0.01)
    monkeypatch.setattr(kernels, "LARGEST_DIVIDE_AND_CONQUER", 10)
    found = kernels.score_matrix(kernels.decompose(train), queries, train, 0.01)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_strips_of_the_primal_gram_make_the_whole(monkeypatch):
    monkeypatch.setattr(kernels, "STRIP", 7)
    train, queries = features(60, 30), features(5, 30, "q")
    found = kernels.score_matrix(kernels.decompose(train, 9), queries, train, 0.01)
    np.testing.assert_allclose(found, dense_scores(queries, train, 0.01), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", ["dual", "primal"])
def test_features_that_are_not_finite_name_their_rows(shape, value):
    good = features(*SHAPES[shape])
    bad = good.copy()
    bad[[5, 23], 3] = value
    with pytest.raises(NumericalError, match="training features of rows 5") as caught:
        kernels.decompose(bad, 6)
    assert caught.value.rows == [5]  # found in the first block that holds one
    with pytest.raises(NumericalError, match="query features of rows 5, 23") as caught:
        kernels.score_matrix(kernels.decompose(good), bad, good, 1.0)
    assert caught.value.rows == [5, 23]


@pytest.mark.parametrize("lambdas", [[0.0], [1.0, -1.0], [np.nan], [np.inf], []])
def test_lambdas_must_be_positive(lambdas):
    train = features(6, 4)
    decomposition = kernels.decompose(train)
    with pytest.raises(ConfigurationError):
        kernels.kernel_scores(
            decomposition, train, train, lambdas
        )  # before the first piece is asked
    with pytest.raises(ConfigurationError):
        kernels.leverage(decomposition, train, lambdas)
    with pytest.raises(ConfigurationError):
        kernels.resolve_lambdas(lambdas, "absolute", 1.0, 4)


def test_shapes_must_fit():
    train = features(6, 4)
    decomposition = kernels.decompose(train)
    with pytest.raises(StoreError, match="Query features have 5 numbers"):
        kernels.kernel_scores(decomposition, features(3, 5), train, [1.0])
    for call in (kernels.leverage, kernels.inverse_norms):
        with pytest.raises(StoreError, match="do not belong"):
            call(decomposition, features(7, 4), 1.0)
    with pytest.raises(ConfigurationError, match="no features"):
        kernels.decompose(np.empty((0, 4)))
    with pytest.raises(ConfigurationError, match="block_rows"):
        kernels.decompose(train, 0)


def test_units_of_lambda():
    values = [0.5, 2.0]
    resolve = kernels.resolve_lambdas
    np.testing.assert_array_equal(resolve(values, "absolute", 10.0, 4), [0.5, 2])
    np.testing.assert_array_equal(resolve(values, "mean_eigenvalue", 10.0, 4), [5, 20])
    np.testing.assert_array_equal(resolve(values, "unscaled_projection", 10.0, 4), [0.125, 0.5])
    with pytest.raises(ConfigurationError, match="Unknown unit"):
        resolve(values, "percent", 10.0, 4)
    with pytest.raises(NumericalError, match="mean eigenvalue"):
        resolve(values, "mean_eigenvalue", 0.0, 4)


def test_the_papers_lambdas_give_the_papers_scores():
    # Unscaled features with a raw lambda, and scaled features with the resolved one.
    raw, queries = features(20, 8), features(3, 8, "q")
    lam = kernels.resolve_lambdas([30.0], "unscaled_projection", 1.0, 8)[0]
    scaled, scaled_queries = raw / np.sqrt(8.0), queries / np.sqrt(8.0)
    found = kernels.score_matrix(kernels.decompose(scaled), scaled_queries, scaled, lam)
    np.testing.assert_allclose(found, dense_scores(queries, raw, 30.0), rtol=1e-6)
