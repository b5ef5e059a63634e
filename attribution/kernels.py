"""Ridge kernels of gradient features: one eigendecomposition gives every lambda.

Phi [n, k] holds the features of n training images. The scores of queries Phi_q [q, k] are

    tau = Phi_q (Phi^T Phi + lambda I)^-1 Phi^T        (paper, Eq. 7, without its weights)

The authors invert a k x k matrix in float32 for each of 27 lambdas; with n < k it is singular and
the results are rounding noise for small lambdas. Here the smaller Gram matrix is decomposed once,
in float64:

    dual,   n <= k:  Phi Phi^T = U diag(s) U^T,  tau = (Phi_q Phi^T U) diag(1 / (s + lambda)) U^T
    primal, k < n:   Phi^T Phi = V diag(s) V^T,  tau = (Phi_q V) diag(1 / (s + lambda)) (Phi V)^T

which are equal because (Phi^T Phi + lambda I)^-1 Phi^T = Phi^T (Phi Phi^T + lambda I)^-1.

A row source is anything with `shape == (n, k)` that gives an array for a slice of rows: NumPy and
zarr arrays, the readers of the stores. It is read in blocks: memory is O(min(n, k)^2 + q min(n, k)
+ block).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from attribution.errors import ConfigurationError, NumericalError, StoreError

LAMBDA_UNITS = ("mean_eigenvalue", "absolute", "unscaled_projection")
BLOCK_BYTES = 2**28  # float64 memory of one block of rows, when the caller names no number of rows
STRIP = 1024  # columns of a Gram matrix computed at a time, so as to skip its lower triangle
# LAPACK's divide and conquer, the fastest, wants 1 + 6 r + 2 r^2 words, counted in 32 bits.
LARGEST_DIVIDE_AND_CONQUER = 32_000


class RowSource(Protocol):
    """Features [n, k] that can be read by slices of rows."""

    shape: tuple[int, ...]

    def __getitem__(self, rows: slice) -> Any: ...


@dataclass(frozen=True)
class Decomposition:
    """Eigendecomposition of the smaller Gram matrix of features [n, k]: float64, r = min(n, k).

    kind: "dual" (of Phi Phi^T, n <= k) or "primal" (of Phi^T Phi).
    eigenvalues: [r], ascending, negative rounding errors set to 0.
    eigenvectors: [r, r], in columns.
    feature_norms: [n], |phi_i|, the denominators of Renormalised IF.
    mean_eigenvalue: trace(Phi Phi^T) / n = mean_i |phi_i|^2, the same in both forms: the mean over
        the n eigenvalues of Phi Phi^T, zeros included. It is the unit of lambda, see
        `resolve_lambdas`.
    shape: (n, k).
    block_rows: rows read at a time.
    """

    kind: str
    eigenvalues: Tensor
    eigenvectors: Tensor
    feature_norms: Tensor
    mean_eigenvalue: float
    shape: tuple[int, int]
    block_rows: int


def decompose(
    train: RowSource, block_rows: int | None = None, device: str | torch.device = "cpu"
) -> Decomposition:
    """Decompose the smaller Gram matrix of the training features [n, k].

    block_rows: rows read at a time; None takes what fits 256 MiB. It changes results by rounding
    only.
    Raises NumericalError (with `rows`) for features that are not finite, ConfigurationError for
    none.
    """
    images, dim = train.shape
    if images < 1 or dim < 1:
        raise ConfigurationError(f"There are no features to decompose: shape ({images}, {dim}).")
    if block_rows is None:
        block_rows = max(1, BLOCK_BYTES // (8 * dim))
    if block_rows < 1:
        raise ConfigurationError(f"block_rows must be at least 1, not {block_rows}.")
    device = torch.device(device)
    dual = images <= dim
    build = _dual_gram if dual else _primal_gram
    gram, squared_norms = build(train, block_rows, device)  # [r, r], [n]
    eigenvalues, eigenvectors = _eigh(gram)
    return Decomposition(
        kind="dual" if dual else "primal",
        eigenvalues=eigenvalues.clamp(min=0),
        eigenvectors=eigenvectors,
        feature_norms=squared_norms.sqrt(),
        mean_eigenvalue=float(squared_norms.mean()),
        shape=(images, dim),
        block_rows=block_rows,
    )


def kernel_scores(
    decomposition: Decomposition,
    queries: RowSource,
    train: RowSource,
    lambdas: Sequence[float] | np.ndarray,
) -> Iterator[tuple[int, slice, np.ndarray]]:
    """Scores tau of queries [q, k] for every lambda, as (lambda index, columns, [q, columns]).

    Positive for proponents. All lambdas of one block of columns (training images) come before the
    next block, so that the training features are read once; a piece is float64. For the whole
    matrix of one lambda see `score_matrix`.

    Raises ConfigurationError for lambdas that are not positive, StoreError when the shapes do not
    fit, NumericalError (with `rows`) for features that are not finite.
    """
    lambdas = _checked_lambdas(lambdas)
    _check_shapes(decomposition, queries, train)
    return _score_pieces(decomposition, queries, train, lambdas)


def score_matrix(
    decomposition: Decomposition, queries: RowSource, train: RowSource, lam: float
) -> np.ndarray:
    """Scores [q, n], float64, for one lambda; errors as in `kernel_scores`."""
    scores = np.empty((queries.shape[0], train.shape[0]))
    for _, columns, piece in kernel_scores(decomposition, queries, train, [lam]):
        scores[:, columns] = piece
    return scores


def leverage(
    decomposition: Decomposition, train: RowSource, lambdas: float | Sequence[float] | np.ndarray
) -> np.ndarray:
    """Leverages phi_i^T (Phi^T Phi + lambda I)^-1 phi_i, between 0 and 1: [n], or [lambdas, n].

    With the row r_i = phi_i V of Phi in the eigenbasis it is sum_j r_ij^2 / (s_j + lambda).
    Errors as in `kernel_scores`.
    """
    return _row_statistic(decomposition, train, lambdas, power=1)


# The score of a training image for itself is its leverage: the same number under its other name.
self_influence = leverage


def inverse_norms(
    decomposition: Decomposition, train: RowSource, lambdas: float | Sequence[float] | np.ndarray
) -> np.ndarray:
    """|(Phi^T Phi + lambda I)^-1 phi_i|, the denominators of Relative IF: [n], or [lambdas, n].

    Its square is sum_j r_ij^2 / (s_j + lambda)^2. Errors as in `kernel_scores`.
    """
    return np.sqrt(_row_statistic(decomposition, train, lambdas, power=2))


def resolve_lambdas(
    values: Sequence[float] | np.ndarray, unit: str, mean_eigenvalue: float, dim: int
) -> np.ndarray:
    """Lambdas for features scaled by 1/sqrt(k), float64, from values in one of three units.

    "mean_eigenvalue": multiples of the mean squared feature norm, `Decomposition.mean_eigenvalue`.
    "absolute": as they are.
    "unscaled_projection": the paper's numbers, made for features sqrt(k) times as large, are
        divided by `dim`: scaling features by c and lambda by c^2 leaves the scores as they are.
    Raises ConfigurationError for other units and for values that are not positive and finite.
    """
    lambdas = _checked_lambdas(values)
    if unit == "absolute":
        return lambdas
    if unit == "unscaled_projection":
        return lambdas / dim
    if unit != "mean_eigenvalue":
        known = ", ".join(LAMBDA_UNITS)
        raise ConfigurationError(f"Unknown unit of lambda {unit!r}: choose one of {known}.")
    if not (np.isfinite(mean_eigenvalue) and mean_eigenvalue > 0):
        raise NumericalError(
            f"The mean eigenvalue is {mean_eigenvalue}, which is no unit of lambda."
        )
    return lambdas * mean_eigenvalue


def _score_pieces(
    decomposition: Decomposition, queries: RowSource, train: RowSource, lambdas: np.ndarray
) -> Iterator[tuple[int, slice, np.ndarray]]:
    """The pieces of `kernel_scores`, whose arguments it has checked."""
    left = _query_factors(decomposition, queries, train)  # [q, r]
    for columns, right in _train_factors(decomposition, train):  # [block, r]
        for index, lam in enumerate(lambdas):
            shrunk = left / (decomposition.eigenvalues + lam)  # [q, r]
            yield index, columns, (shrunk @ right.T).cpu().numpy()  # [q, block]


def _query_factors(decomposition: Decomposition, queries: RowSource, train: RowSource) -> Tensor:
    """Phi_q Phi^T U (dual) or Phi_q V (primal): [q, r]."""
    basis = decomposition.eigenvectors  # [r, r]
    left = basis.new_empty(queries.shape[0], len(basis))  # [q, r]
    for rows, block in _blocks(queries, decomposition.block_rows, basis.device, "query"):
        if decomposition.kind == "primal":
            left[rows] = block @ basis
            continue
        cross = basis.new_empty(len(block), len(basis))  # [block of q, n]
        for columns, others in _blocks(train, decomposition.block_rows, basis.device, "training"):
            cross[:, columns] = block @ others.T
        left[rows] = cross @ basis
    return left


def _train_factors(
    decomposition: Decomposition, train: RowSource
) -> Iterator[tuple[slice, Tensor]]:
    """Rows of U (dual, read from the decomposition) or of Phi V (primal): slices and [block, r]."""
    basis = decomposition.eigenvectors
    if decomposition.kind == "dual":
        for rows in _slices(len(basis), decomposition.block_rows):
            yield rows, basis[rows]
    else:
        for rows, block in _blocks(train, decomposition.block_rows, basis.device, "training"):
            yield rows, block @ basis


def _row_statistic(
    decomposition: Decomposition,
    train: RowSource,
    lambdas: float | Sequence[float] | np.ndarray,
    power: int,
) -> np.ndarray:
    """sum_j r_ij^2 / (s_j + lambda)^power, r = Phi V, which is U sqrt(s) in the dual form."""
    grid = _checked_lambdas(np.atleast_1d(lambdas))
    if tuple(train.shape) != decomposition.shape:
        raise StoreError(_shape_message(decomposition, train))
    eigenvalues = decomposition.eigenvalues  # [r]
    shift = torch.as_tensor(grid, device=eigenvalues.device)[:, None]  # [lambdas, 1]
    weights = (eigenvalues + shift) ** -power  # [lambdas, r]
    if decomposition.kind == "dual":
        weights = weights * eigenvalues
    result = weights.new_empty(len(grid), decomposition.shape[0])  # [lambdas, n]
    for rows, factors in _train_factors(decomposition, train):
        result[:, rows] = weights @ factors.square().T  # [lambdas, block]
    values = result.cpu().numpy()
    return values[0] if np.ndim(lambdas) == 0 else values


def _dual_gram(train: RowSource, block_rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Upper triangle by blocks of Phi Phi^T [n, n], mirrored, and its diagonal [n]."""
    images = train.shape[0]
    gram = torch.zeros(images, images, dtype=torch.float64, device=device)
    for rows, block in _blocks(train, block_rows, device, "training"):
        gram[rows, rows] = block @ block.T
        for columns, others in _blocks(train, block_rows, device, "training", start=rows.stop):
            gram[rows, columns] = block @ others.T
            gram[columns, rows] = gram[rows, columns].T
    return gram, gram.diagonal().clone()


def _primal_gram(train: RowSource, block_rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Phi^T Phi [k, k], its upper triangle by strips and mirrored, and the squared norms [n]."""
    images, dim = train.shape
    gram = torch.zeros(dim, dim, dtype=torch.float64, device=device)
    squared_norms = torch.empty(images, dtype=torch.float64, device=device)
    for rows, block in _blocks(train, block_rows, device, "training"):
        squared_norms[rows] = block.square().sum(1)
        for strip in _slices(dim, STRIP):
            gram[strip, strip.start :] += block[:, strip].T @ block[:, strip.start :]
    for strip in _slices(dim, STRIP):
        gram[strip.stop :, strip] = gram[strip, strip.stop :].T
    return gram, squared_norms


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [r], ascending, and eigenvectors [r, r] of a symmetric float64 matrix."""
    if gram.device.type == "cuda" or len(gram) <= LARGEST_DIVIDE_AND_CONQUER:
        return torch.linalg.eigh(gram)
    # Relatively robust representations want 26 r words only.
    values, vectors = scipy.linalg.eigh(
        gram.numpy(), driver="evr", overwrite_a=True, check_finite=False
    )
    return torch.from_numpy(values), torch.from_numpy(vectors)


def _blocks(
    source: RowSource, block_rows: int, device: torch.device, what: str, start: int = 0
) -> Iterator[tuple[slice, Tensor]]:
    """Slices of rows and their features [block, k], float64; NumericalError if not finite."""
    for rows in _slices(source.shape[0], block_rows, start):
        block = torch.from_numpy(np.array(source[rows], dtype=np.float64)).to(device)  # [block, k]
        finite = torch.isfinite(block.sum(1))  # a sum is finite only if every number is
        if not finite.all():
            _refuse_rows(block, rows.start, what)
        yield rows, block


def _refuse_rows(block: Tensor, start: int, what: str) -> None:
    """Raise NumericalError if rows of the block hold numbers that are not finite."""
    bad = (~torch.isfinite(block)).any(1)
    rows = (torch.nonzero(bad).flatten() + start).tolist()
    if rows:
        shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        error = NumericalError(f"The {what} features of rows {shown} are not finite.")
        error.rows = rows
        raise error


def _slices(rows: int, block_rows: int, start: int = 0) -> Iterator[slice]:
    """Consecutive slices of at most `block_rows` rows."""
    for first in range(start, rows, block_rows):
        yield slice(first, min(first + block_rows, rows))


def _checked_lambdas(lambdas: Sequence[float] | np.ndarray) -> np.ndarray:
    """Lambdas as a float64 vector; ConfigurationError unless all are positive and finite."""
    grid = np.asarray(lambdas, dtype=np.float64)
    if grid.ndim != 1 or grid.size == 0:
        raise ConfigurationError("Lambdas must be a list of at least one number.")
    bad = grid[~(np.isfinite(grid) & (grid > 0))]
    if bad.size:
        raise ConfigurationError(f"Lambdas must be positive and finite, not {bad[0]}.")
    return grid


def _check_shapes(decomposition: Decomposition, queries: RowSource, train: RowSource) -> None:
    """Raise StoreError unless queries and training features fit the decomposition."""
    if tuple(train.shape) != decomposition.shape:
        raise StoreError(_shape_message(decomposition, train))
    if queries.shape[1] != train.shape[1]:
        raise StoreError(
            f"Query features have {queries.shape[1]} numbers, training features {train.shape[1]}: "
            "make both with the same projection."
        )


def _shape_message(decomposition: Decomposition, train: RowSource) -> str:
    """Why these training features cannot go with this decomposition."""
    return (
        f"Training features of shape {tuple(train.shape)} do not belong to a decomposition of "
        f"features of shape {decomposition.shape}: decompose them first."
    )
