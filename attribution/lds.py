"""The linear datamodeling score: how well scores predict what retraining on subsets does.

Definition 2 of the paper: g(S) = sum over n in S of tau_n is correlated, by Spearman's rank
correlation over the subsets, with the model output F of models retrained on them. Outputs are
losses and scores are positive for images that lower the loss, so the prediction of the output is
-g. All results are means over the queries; those called per cent are multiplied by 100.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from attribution.randomness import generator

QUERIES_AT_ONCE = 64


def predicted_outputs(masks: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """-sum over the subset's images of their scores (paper Eq. 3): [subsets, queries] float64.

    Args:
        masks: bool [subsets, images].
        scores: [queries, images], positive for proponents.
    """
    return -(masks.astype(np.float64) @ scores.T.astype(np.float64))


def spearman(predictions: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's correlation over subsets that are repeated, mean over queries: [resamples].

    Every resample repeats subset m `weights[b, m]` times; ranks are mid-ranks, so this is what
    scipy.stats.spearmanr gives for the repeated rows. A correlation of constants counts as 0: an
    order that does not exist predicts nothing.

    Args:
        predictions, outputs: [subsets, queries].
        weights: [resamples, subsets], whole numbers or 0.
    """
    queries = outputs.shape[1]
    total = np.zeros(len(weights))
    for start in range(0, queries, QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        a = _centred_ranks(predictions[:, part], weights)  # [queries, resamples, subsets]
        b = _centred_ranks(outputs[:, part], weights)
        covariance = np.einsum("qbm,qbm,bm->qb", a, b, weights)
        spread = np.sqrt(
            np.einsum("qbm,qbm,bm->qb", a, a, weights) * np.einsum("qbm,qbm,bm->qb", b, b, weights)
        )
        total += np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0).sum(0)
    return total / queries


def _centred_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mid-ranks among the repeated subsets less their mean: [queries, resamples, subsets].

    The mid-rank of m is the number of repetitions below it, plus half of (those equal to it + 1).
    """
    columns = values.T  # [queries, subsets]
    below = columns[:, None, :] < columns[:, :, None]  # [queries, subset, other]
    equal = columns[:, None, :] == columns[:, :, None]
    counts = below + 0.5 * equal  # [queries, subset, other]
    ranks = np.matmul(weights[None], counts.transpose(0, 2, 1)) + 0.5
    means = np.einsum("qbm,bm->qb", ranks, weights) / weights.sum(1)
    return ranks - means[:, :, None]


def score(predictions: np.ndarray, outputs: np.ndarray, rows: np.ndarray | None = None) -> float:
    """The LDS in per cent, over all subsets or over the subsets `rows`."""
    weights = np.ones((1, len(outputs)))
    if rows is not None:
        weights = np.zeros_like(weights)
        weights[0, rows] = 1
    return 100 * float(spearman(predictions, outputs, weights)[0])


@dataclass(frozen=True)
class Uncertainty:
    """What resampling the subsets says of an LDS, in per cent.

    mean, std: over the paper's few resamples (64), std with ddof 0: the paper's "mean ± std".
    low, high: percentile interval over more resamples.
    """

    mean: float
    std: float
    low: float
    high: float


def resamples(subsets: int, count: int, seed: int) -> np.ndarray:
    """How often each subset occurs in each bootstrap resample: [count, subsets] float64."""
    drawn = generator("bootstrap", seed).integers(subsets, size=(count, subsets))
    return np.stack([np.bincount(row, minlength=subsets) for row in drawn]).astype(np.float64)


def uncertainty(values: np.ndarray, settings: dict[str, Any]) -> Uncertainty:
    """Summarise LDS values [resamples] in per cent; the first `resamples` ones are the paper's."""
    tail = 50 * (1 - settings["confidence"])
    low, high = np.percentile(values, [tail, 100 - tail])
    few = values[: settings["resamples"]]
    return Uncertainty(float(few.mean()), float(few.std()), float(low), float(high))


@dataclass(frozen=True)
class Evaluation:
    """One row of the LDS table: the value in per cent, its uncertainty, and the lambda behind it.

    rule: `oracle`, `heldout` or `none`; chosen: how often each lambda was chosen, [lambdas].
    """

    rule: str
    lds: float
    uncertainty: Uncertainty
    chosen: np.ndarray


class Benchmark:
    """The retrained models' outputs and everything that is drawn once for all methods."""

    def __init__(self, masks: np.ndarray, outputs: np.ndarray, settings: dict[str, Any]):
        """
        Args:
            masks: bool [subsets, images].
            outputs: [subsets, seeds, queries], F of every retrained model.
            settings: an `evaluation` section.
        """
        self.masks, self.outputs = masks, outputs.astype(np.float64).mean(1)  # [subsets, queries]
        self.bootstrap = settings["bootstrap"]
        count = max(self.bootstrap["resamples"], self.bootstrap["interval_resamples"])
        self.weights = resamples(len(masks), count, self.bootstrap["seed"])
        self.halves = list(halvings(len(masks), **settings["heldout"]))
        self.ceiling = ceiling(outputs)

    def curve(self, predictions: list[np.ndarray]) -> np.ndarray:
        """The LDS in per cent for each lambda's predictions [subsets, queries]: [lambdas]."""
        return np.array([score(one, self.outputs) for one in predictions])

    def evaluate(self, predictions: list[np.ndarray], rule: str) -> Evaluation:
        """Evaluate a method from its predicted outputs, one [subsets, queries] for each lambda."""
        if rule == "heldout":
            return self._heldout(predictions)
        best = int(np.argmax(self.curve(predictions)))
        values = 100 * spearman(predictions[best], self.outputs, self.weights)
        chosen = np.bincount([best], minlength=len(predictions))
        return Evaluation(
            rule,
            score(predictions[best], self.outputs),
            uncertainty(values, self.bootstrap),
            chosen,
        )

    def _heldout(self, predictions: list[np.ndarray]) -> Evaluation:
        """Lambda chosen on half of the subsets, reported on the other half, averaged over halvings.

        The bootstrap keeps each halving's lambda, as the paper's keeps the oracle's.
        """
        points, values, chosen = [], np.zeros(len(self.weights)), np.zeros(len(predictions), int)
        for tuned, reported in self.halves:
            best = int(np.argmax([score(one, self.outputs, tuned) for one in predictions]))
            chosen[best] += 1
            points.append(score(predictions[best], self.outputs, reported))
            values += spearman(
                predictions[best][reported], self.outputs[reported], self._within(reported)
            )
        values *= 100 / len(self.halves)
        return Evaluation(
            "heldout", float(np.mean(points)), uncertainty(values, self.bootstrap), chosen
        )

    def _within(self, rows: np.ndarray) -> np.ndarray:
        """The bootstrap's weights of some subsets; a resample that holds none of them holds all."""
        weights = self.weights[:, rows]
        return np.where(weights.sum(1, keepdims=True) > 0, weights, 1.0)


def halvings(subsets: int, splits: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random halves of the subsets, each used both ways: (rows to tune on, rows to report on)."""
    for index in range(splits):
        order = generator("halving", seed, index).permutation(subsets)
        first, second = np.sort(order[: subsets // 2]), np.sort(order[subsets // 2 :])
        yield first, second
        yield second, first


def ceiling(outputs: np.ndarray) -> float:
    """The LDS in per cent that a perfect prediction can be expected to reach, or NaN.

    outputs: [subsets, seeds, queries]. Retraining with another seed changes the outputs; the mean
    over S seeds has the reliability r_S = S r / (1 + (S - 1) r) (Spearman-Brown), r being the mean
    rank correlation between the outputs of two seeds over the subsets, and a prediction of the
    expected output correlates with that mean by at most sqrt(r_S). NaN with one seed, or where r <=
    0: then the outputs are noise and no method can be told from another.
    """
    seeds = outputs.shape[1]
    weights = np.ones((1, len(outputs)))
    pairs = [(a, b) for a in range(seeds) for b in range(a)]
    if not pairs:
        return float("nan")
    values = outputs.astype(np.float64)
    single = np.mean([spearman(values[:, a], values[:, b], weights)[0] for a, b in pairs])
    if single <= 0:
        return float("nan")
    return 100 * float(np.sqrt(seeds * single / (1 + (seeds - 1) * single)))
