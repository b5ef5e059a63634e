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

RANKS_AT_ONCE = 2**18  # ranks of queries x resamples x subsets: what stays in the caches


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
    sizes = weights.sum(1)  # [resamples]
    # The mean of mid-ranks 1 ... W is (W + 1)/2, ties or not; so is what the squares lose by it.
    level = sizes * ((sizes + 1) / 2) ** 2
    total = np.zeros(len(weights))
    step = max(1, RANKS_AT_ONCE // weights.size)
    for start in range(0, queries, step):
        part = slice(start, start + step)
        a = _ranks(predictions[:, part], weights)  # [queries, resamples, subsets]
        b = _ranks(outputs[:, part], weights)
        weighted = a * weights
        covariance = np.einsum("qbm,qbm->qb", weighted, b) - level
        spread_a = np.einsum("qbm,qbm->qb", weighted, a) - level
        spread_b = np.einsum("qbm,qbm->qb", np.multiply(b, weights, out=weighted), b) - level
        spread = np.sqrt(spread_a * spread_b)
        total += np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0).sum(0)
    return total / queries


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mid-ranks among the repeated subsets: [queries, resamples, subsets].

    The mid-rank of m is the number of repetitions below it, plus half of (those equal to it + 1).
    Ranks are multiples of 1/2 and their sums exact in float64, so a constant has spread 0.
    """
    columns = values.T  # [queries, subsets]
    below = columns[:, None, :] < columns[:, :, None]  # [queries, subset, other]
    equal = columns[:, None, :] == columns[:, :, None]
    counts = below + 0.5 * equal  # [queries, subset, other]
    return np.matmul(weights[None], counts.transpose(0, 2, 1)) + 0.5


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
    low, high: `interval` over more resamples.
    """

    mean: float
    std: float
    low: float
    high: float


def resamples(subsets: int, count: int, seed: int) -> np.ndarray:
    """How often each subset occurs in each bootstrap resample: [count, subsets] float64."""
    drawn = generator("bootstrap", seed).integers(subsets, size=(count, subsets))
    return np.stack([np.bincount(row, minlength=subsets) for row in drawn]).astype(np.float64)


def interval(values: np.ndarray, point: float, confidence: float) -> tuple[float, float]:
    """The percentile interval of resampled values, moved so that their mean is the point value.

    A resample repeats subsets, repeated subsets tie, and Spearman's correlation of fewer distinct
    subsets is nearer to zero; so resampled LDS lie below the LDS itself, the more so the fewer the
    subsets. Moved by this estimate of their bias (Efron & Tibshirani 1993, chapter 10) the interval
    covers what it should: `benchmarks/intervals.py` measures it.

    Args:
        values: [resamples]. point: of all subsets.
    """
    tail = 50 * (1 - confidence)
    low, high = np.percentile(values, [tail, 100 - tail]) + (point - values.mean())
    return float(low), float(high)


def uncertainty(values: np.ndarray, point: float, settings: dict[str, Any]) -> Uncertainty:
    """Summarise LDS values [resamples] in per cent; the first `resamples` ones are the paper's."""
    few = values[: settings["resamples"]]
    low, high = interval(values, point, settings["confidence"])
    return Uncertainty(float(few.mean()), float(few.std()), low, high)


@dataclass(frozen=True)
class Evaluation:
    """One row of the LDS table: the value in per cent, its uncertainty, and the lambda behind it.

    rule: `oracle`, `heldout` or `none`; chosen: how often each lambda was chosen, [lambdas].
    resampled: the LDS in per cent of each bootstrap resample; the resamples are the same for all
    methods of a benchmark, so two methods' values are paired.
    """

    rule: str
    lds: float
    uncertainty: Uncertainty
    chosen: np.ndarray
    resampled: np.ndarray


class Benchmark:
    """The retrained models' outputs and everything that is drawn once for all methods."""

    def __init__(self, outputs: np.ndarray, settings: dict[str, Any]):
        """
        Args:
            outputs: [subsets, seeds, queries], F of every retrained model.
            settings: an `evaluation` section.
        """
        self.outputs = outputs.astype(np.float64).mean(1)  # [subsets, queries]
        self.bootstrap = settings["bootstrap"]
        count = max(self.bootstrap["resamples"], self.bootstrap["interval_resamples"])
        self.weights = resamples(len(outputs), count, self.bootstrap["seed"])
        self.halves = list(halvings(len(outputs), **settings["heldout"]))
        self.ceiling = ceiling(outputs)

    def curve(self, predictions: list[np.ndarray]) -> np.ndarray:
        """The LDS in per cent for each lambda's predictions [subsets, queries]: [lambdas]."""
        return np.array([score(one, self.outputs) for one in predictions])

    def evaluate(
        self, predictions: list[np.ndarray], rule: str, curve: np.ndarray | None = None
    ) -> Evaluation:
        """The LDS of the best of a method's predictions, one [subsets, queries] for each lambda.

        Args:
            rule: what to call it, `oracle`, or `none` where there is but one.
            curve: `self.curve(predictions)`, where the caller has it.
        """
        curve = self.curve(predictions) if curve is None else curve
        best = int(np.argmax(curve))
        values = 100 * spearman(predictions[best], self.outputs, self.weights)
        chosen = np.bincount([best], minlength=len(predictions))
        return self._evaluation(rule, float(curve[best]), chosen, values)

    def heldout(self, predictions: list[np.ndarray], oracle: Evaluation) -> Evaluation:
        """The oracle's LDS less its optimism: what it owes to choosing lambda where it is reported.

        Lambda is chosen on a random half of the subsets. What it reaches on the other half, less
        what the oracle's lambda reaches there, is the optimism; it is averaged over halvings, both
        halves of each in turn (Efron & Gong 1983 do so with resamples). Reporting the LDS of the
        other half itself would mix in something else: Spearman's correlation of half as many
        subsets is smaller whatever the lambda, so the row could not be compared with others.

        The bootstrap keeps each halving's lambda, as the paper's keeps the oracle's.

        Args:
            predictions: one [subsets, queries] for each lambda.
            oracle: what `evaluate` says of them.
        """
        halves = np.zeros((len(self.halves), len(self.outputs)))  # [halvings, subsets]
        for weights, (tuned, _) in zip(halves, self.halves, strict=True):
            weights[tuned] = 1
        curves = np.array([spearman(one, self.outputs, halves) for one in predictions])
        picked, best = curves.argmax(0), int(np.argmax(oracle.chosen))
        optimism, values = 0.0, np.zeros(len(self.weights))  # values: the optimism of resamples
        for own, (_, reported) in zip(picked, self.halves, strict=True):
            if own != best:
                truth, weights = self.outputs[reported], self._within(reported)
                both = [predictions[lam][reported] for lam in (best, own)]
                optimism += np.subtract(*(score(one, truth) for one in both))
                values += 100 * np.subtract(*(spearman(one, truth, weights) for one in both))
        count = len(self.halves)
        chosen = np.bincount(picked, minlength=len(predictions))
        return self._evaluation(
            "heldout", oracle.lds - optimism / count, chosen, oracle.resampled - values / count
        )

    def _evaluation(
        self, rule: str, lds: float, chosen: np.ndarray, values: np.ndarray
    ) -> Evaluation:
        return Evaluation(rule, lds, uncertainty(values, lds, self.bootstrap), chosen, values)

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
