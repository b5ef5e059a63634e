"""What models retrained on random subsets tell of each training image: differences, regressions.

Both read masks bool [models, images] and outputs [models, queries], the benchmark's F of models of
one seed each, disjoint from the models that the benchmark correlates with. F is a loss.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from attribution.errors import ConfigurationError

# Penalties of the ridge regression. The authors' three leave the optimum outside: with many more
# images than models it lies near the eigenvalues of the masks' Gram matrix, a quarter of the number
# of images for halves.
ALPHAS = {"wide": np.logspace(-2, 6, 17), "paper": np.array([0.1, 1.0, 10.0])}
FOLDS = 5
FEWEST_MODELS = 4  # two folds of two models, the least of which R^2 can be told
MANY_AT_THE_EDGE = 0.1  # share of queries from which on the penalties' range is too narrow


def mean_difference(masks: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Mean output of the models without each image, less that of those with it: [queries, images].

    0 for an image that all models have seen, or none: nothing was observed of it.

    Args:
        masks: bool [models, images].
        outputs: [models, queries].
    """
    values = outputs.astype(np.float64)
    inside = masks.astype(np.float64)  # [models, images]
    with_it = inside.sum(0)  # [images]
    without_it = len(masks) - with_it
    sums = values.T @ inside  # [queries, images]
    rest = values.sum(0)[:, None] - sums
    known = (with_it > 0) & (without_it > 0)
    difference = rest / np.maximum(without_it, 1) - sums / np.maximum(with_it, 1)
    return np.where(known, difference, 0.0)


@dataclass(frozen=True)
class Datamodel:
    """Ridge regressions of every query's output on the masks, with intercepts.

    alphas: [queries], the penalty that cross-validation chose for each.
    dual: [models, queries]: the coefficients are the masks' transpose times these, which sum to 0
        over the models, so that the masks need no centring.
    """

    alphas: np.ndarray
    dual: np.ndarray

    @classmethod
    def fit(
        cls, masks: np.ndarray, outputs: np.ndarray, alphas: str | Sequence[float] = "wide"
    ) -> "Datamodel":
        """Fit all queries at once, each with the penalty that predicts held-out models best.

        With centred masks X [models, images] and outputs y, w = X^T (X X^T + alpha I)^-1 y: the
        Gram matrix [models, models] is made once, and its eigendecomposition (one for all models,
        one a fold) serves every penalty and query. The choice is that of scikit-learn's
        `RidgeCV(alphas, cv=5)`: the largest mean R^2 over 5 folds of consecutive models. Fewer than
        10 models make fewer folds, so that each holds two.

        Args:
            masks: bool [models, images].
            outputs: [models, queries].
            alphas: `wide` (0.01 to 1e6), `paper` (0.1, 1, 10), or penalties of one's own.

        Raises:
            ConfigurationError: too few models, or penalties that are not positive.
        """
        grid = _checked_grid(alphas)
        models = len(masks)
        if models < FEWEST_MODELS:
            raise ConfigurationError(
                f"a datamodel needs at least {FEWEST_MODELS} models of the pool, not {models}"
            )
        numbers = masks.astype(np.float64)  # [models, images]
        gram, values = numbers @ numbers.T, outputs.astype(np.float64)
        score = np.zeros((len(grid), values.shape[1]))  # R^2 summed over folds
        for held_out in folds(models, min(FOLDS, models // 2)):
            score += _r_squared(gram, values, held_out, grid)
        chosen = score.argmax(0)  # [queries]
        _warn_of_edges(grid, chosen)
        eigenvalues, vectors = _eigh(_centred(gram))
        rotated = vectors.T @ (values - values.mean(0))  # [models, queries]
        dual = vectors @ (rotated / (eigenvalues[:, None] + grid[chosen]))
        return cls(grid[chosen], dual - dual.mean(0))

    def coefficients(self, masks: np.ndarray) -> np.ndarray:
        """The coefficients of some images, [queries, images], from these images' masks."""
        return self.dual.T @ masks.astype(np.float64)


def folds(models: int, count: int) -> Iterator[slice]:
    """Consecutive folds, the first ones larger by one, as scikit-learn's KFold makes them."""
    start = 0
    for index in range(count):
        stop = start + models // count + (index < models % count)
        yield slice(start, stop)
        start = stop


def _r_squared(
    gram: np.ndarray, values: np.ndarray, held_out: slice, grid: np.ndarray
) -> np.ndarray:
    """R^2 on the held-out models of regressions on the others, [alphas, queries].

    Outputs that are all equal count as scikit-learn counts them: 1 if predicted exactly, else 0.
    """
    inside = np.ones(len(gram), dtype=bool)
    inside[held_out] = False
    among = gram[np.ix_(inside, inside)]  # [train, train]
    across = gram[held_out][:, inside]  # [test, train]
    # Inner products of masks less the mean mask of the models regressed on.
    across = across - across.mean(1, keepdims=True) - among.mean(0) + among.mean()
    eigenvalues, vectors = _eigh(_centred(among))
    mean = values[inside].mean(0)
    rotated = vectors.T @ (values[inside] - mean)  # [train, queries]
    factors = across @ vectors  # [test, train]
    truth = values[held_out]
    spread = ((truth - truth.mean(0)) ** 2).sum(0)  # [queries]
    scores = np.empty((len(grid), values.shape[1]))
    for index, alpha in enumerate(grid):
        predicted = factors @ (rotated / (eigenvalues[:, None] + alpha)) + mean  # [test, queries]
        errors = ((truth - predicted) ** 2).sum(0)
        ratio = np.divide(errors, spread, out=(errors > 0).astype(np.float64), where=spread > 0)
        scores[index] = 1 - ratio
    return scores


def _centred(gram: np.ndarray) -> np.ndarray:
    """The inner products of rows less their mean."""
    return gram - gram.mean(0) - gram.mean(1, keepdims=True) + gram.mean()


def _eigh(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, rounding errors below 0 set to 0, and eigenvectors in columns."""
    eigenvalues, vectors = np.linalg.eigh(gram)
    return np.maximum(eigenvalues, 0), vectors


def _checked_grid(alphas: str | Sequence[float]) -> np.ndarray:
    if isinstance(alphas, str):
        if alphas not in ALPHAS:
            raise ConfigurationError(
                f"unknown alphas {alphas!r}; known: {', '.join(ALPHAS)}, or a list of numbers"
            )
        return ALPHAS[alphas]
    grid = np.sort(np.asarray(alphas, dtype=np.float64))
    if grid.ndim != 1 or not grid.size or not (np.isfinite(grid) & (grid > 0)).all():
        raise ConfigurationError("alphas must be positive numbers, at least one")
    return grid


def _warn_of_edges(grid: np.ndarray, chosen: np.ndarray) -> None:
    """Log how many queries would have taken a penalty beyond the range, where it is many."""
    logger = logging.getLogger(__name__)
    for edge, penalty, meaning in (
        (0, "smallest", "a smaller one might suit them better"),
        # The best penalty for outputs that the masks do not explain is infinite.
        (len(grid) - 1, "largest", "a larger one might, unless the pool says nothing of them"),
    ):
        share = 100 * float((chosen == edge).mean())
        if share >= 100 * MANY_AT_THE_EDGE:
            told = (share, penalty, grid[edge], meaning)
            logger.warning("datamodels of %.0f %% of the queries take the %s alpha, %g: %s", *told)
