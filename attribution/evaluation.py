"""One row's evaluation on the benchmark: its numbers, its curve over lambda, its resamples."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from attribution.lds import Benchmark, Evaluation
from attribution.stores import Reader

NUMBERS = [
    "split", "readout", "lambda", "lambda_rule", "lds", "bootstrap_mean", "bootstrap_std",
    "ci_low", "ci_high", "subsets", "seeds", "queries", "train_size", "ceiling",
]  # fmt: skip
CURVE_NUMBERS = [
    "split", "readout", "lambda", "lambda_over_mean_eigenvalue", "lds", "oracle", "heldout",
]  # fmt: skip


class SplitEvaluator:
    """Evaluates predictions on one split of an experiment."""

    def __init__(self, outputs: Reader, settings: dict[str, Any], array: str = "outputs"):
        """
        Args:
            outputs: store of arrays [subsets, seeds, noises, timestep groups, queries].
            settings: an `evaluation` section.
            array: which of them: of F itself, or of another output function.
        """
        values = outputs.read(array).mean((2, 3))  # [subsets, seeds, queries]
        self.split, self.seeds = outputs.path.stem, values.shape[1]
        self.benchmark = Benchmark(values, settings)

    def rows(
        self, predictions: Reader, readouts: Sequence[str] | None = None
    ) -> tuple[list[dict], list[dict], dict[str, np.ndarray]]:
        """Rows of lds.csv and curve.csv, and the bootstrap's LDS by `split/readout/rule`.

        Args:
            predictions: store with `predictions` [readouts, lambdas, subsets, queries].
            readouts: those to evaluate; all if not given.
        """
        lambdas = predictions.read("lambdas")  # [lambdas]
        chosen = not np.isnan(lambdas).all()  # a lambda
        values = predictions.read("predictions")
        table: list[dict] = []
        curves: list[dict] = []
        resampled: dict[str, np.ndarray] = {}
        for readout, each in zip(predictions.manifest["readouts"], values, strict=True):
            if readouts is not None and readout not in readouts:
                continue
            place = {"split": self.split, "readout": readout}
            curve = self.benchmark.curve(list(each))
            rule = "oracle" if chosen else "none"
            evaluations = [self.benchmark.evaluate(list(each), rule, curve)]
            if chosen:
                evaluations.append(self.benchmark.heldout(list(each), evaluations[0]))
            for evaluation in evaluations:
                table.append({**place, **self._numbers(lambdas, evaluation, predictions)})
                resampled[f"{self.split}/{readout}/{evaluation.rule}"] = evaluation.resampled
            if chosen:
                unit = predictions.manifest["mean_eigenvalue"]
                points = self._curve(lambdas, unit, curve, evaluations)
                curves += [{**place, **point} for point in points]
        return table, curves, resampled

    def _numbers(
        self, lambdas: np.ndarray, evaluation: Evaluation, predictions: Reader
    ) -> dict[str, Any]:
        spread = asdict(evaluation.uncertainty)
        return {
            "lambda": typical_lambda(lambdas, evaluation.chosen),
            "lambda_rule": evaluation.rule,
            "lds": evaluation.lds,
            "bootstrap_mean": spread["mean"],
            "bootstrap_std": spread["std"],
            "ci_low": spread["low"],
            "ci_high": spread["high"],
            "subsets": len(self.benchmark.outputs),
            "seeds": self.seeds,
            "queries": self.benchmark.outputs.shape[1],
            "train_size": predictions.manifest["train_size"],
            "ceiling": self.benchmark.ceiling,
        }

    def _curve(
        self, lambdas: np.ndarray, unit: float, curve: np.ndarray, evaluations: list[Evaluation]
    ) -> Iterator[dict[str, Any]]:
        oracle, heldout = (evaluation.chosen for evaluation in evaluations)
        for index, lds in enumerate(curve):
            yield {
                "lambda": lambdas[index],
                "lambda_over_mean_eigenvalue": lambdas[index] / unit,
                "lds": lds,
                "oracle": bool(oracle[index]),
                "heldout": int(heldout[index]),
            }


def typical_lambda(lambdas: np.ndarray, chosen: np.ndarray) -> float:
    """The (lower) median of the chosen lambdas; NaN for a method that has none."""
    ordered = np.repeat(lambdas, chosen)
    return float(np.sort(ordered)[(len(ordered) - 1) // 2])
