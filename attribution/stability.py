"""How much of a query's top images stays when half of the features is left out, at random.

Nothing is retrained for someone's finished model, so its linear datamodeling score is not known.
What can be asked without it is whether the ranking hangs on the projection: scores are computed
from two disjoint halves of the features, and their top images compared. Agreement does not prove a
ranking right; disagreement shows that it is noise.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from attribution.errors import ConfigurationError
from attribution.kernels import RowSource
from attribution.rows import COLUMNS


def top_overlap(
    train: RowSource,
    queries: RowSource,
    multiple: float,
    top: int = 10,
    halvings: int = 8,
    seed: int = 0,
) -> np.ndarray:
    """The share of each query's top images that two halves of the features agree on, [queries].

    A half H of the k columns scores tau = Phi_qH (Phi_H^T Phi_H + lambda I)^-1 Phi_H^T with lambda
    the same multiple of that half's mean squared norm. The overlap of the two tops, over `top`, is
    averaged over `halvings` random splits of the columns. Unrelated rankings have about
    top / images.

    Args:
        train, queries: features [images, k] and [queries, k].
        multiple: lambda over the mean eigenvalue (mean squared norm of the training features).

    Raises:
        ConfigurationError: there are fewer than two features or images.
    """
    images, dim = train.shape
    if dim < 2 or images < 2:
        raise ConfigurationError(f"{images} images of {dim} features cannot be halved")
    top = min(top, images // 2)
    halves = _halves(dim, halvings, seed)
    asked = _read(queries)
    tops = _tops_dual if images <= dim // 2 else _tops_primal
    chosen = tops(train, asked, halves, multiple, top)  # [halves, queries, top]
    overlaps = np.zeros(len(asked))
    for first, second in zip(chosen[0::2], chosen[1::2], strict=True):
        overlaps += [len(np.intersect1d(a, b)) / top for a, b in zip(first, second, strict=True)]
    return overlaps / halvings


def _halves(dim: int, halvings: int, seed: int) -> list[np.ndarray]:
    """Pairs of disjoint halves of the columns, one after the other."""
    generator = np.random.default_rng(seed)
    halves = []
    for _ in range(halvings):
        columns = generator.permutation(dim)
        halves += [np.sort(columns[: dim // 2]), np.sort(columns[dim // 2 : 2 * (dim // 2)])]
    return halves


def _read(source: RowSource) -> np.ndarray:
    blocks = [source[start : start + COLUMNS] for start in range(0, source.shape[0], COLUMNS)]
    return np.concatenate([np.asarray(block, np.float64) for block in blocks])


def _tops_dual(
    train: RowSource, asked: np.ndarray, halves: list[np.ndarray], multiple: float, top: int
) -> list[np.ndarray]:
    """With fewer images than features: tau = Phi_q Phi^T (Phi Phi^T + lambda I)^-1."""
    whole, chosen = _read(train), []
    for half in halves:
        features = np.ascontiguousarray(whole[:, half])
        gram = features @ features.T
        gram[np.diag_indices_from(gram)] += multiple * np.trace(gram) / len(gram)
        cross = features @ asked[:, half].T  # [images, queries]
        chosen.append(_top(cho_solve(cho_factor(gram, overwrite_a=True), cross).T, top))
    return chosen


def _tops_primal(
    train: RowSource, asked: np.ndarray, halves: list[np.ndarray], multiple: float, top: int
) -> list[np.ndarray]:
    """With more images than features; two passes over the training features, whatever `halves`."""
    images, dim = train.shape
    gram = np.zeros((dim, dim))
    for start in range(0, images, COLUMNS):
        block = np.asarray(train[start : start + COLUMNS], np.float64)
        gram += block.T @ block
    factors = []  # of each half, [queries, half]
    for half in halves:
        own = gram[np.ix_(half, half)]
        own[np.diag_indices_from(own)] += multiple * np.trace(own) / images
        factors.append(cho_solve(cho_factor(own, overwrite_a=True), asked[:, half].T).T)
    scores = np.empty((len(halves), len(asked), images), np.float32)
    for start in range(0, images, COLUMNS):
        block = np.asarray(train[start : start + COLUMNS], np.float64)
        for number, (half, factor) in enumerate(zip(halves, factors, strict=True)):
            scores[number, :, start : start + len(block)] = factor @ block[:, half].T
    return [_top(one, top) for one in scores]


def _top(scores: np.ndarray, top: int) -> np.ndarray:
    """The rows of the highest scores of each query, unordered: [queries, top]."""
    return np.argpartition(-scores, top - 1, axis=1)[:, :top]
