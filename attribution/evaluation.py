"""The LDS tables: every method of an experiment, evaluated on its benchmark."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from attribution.lds import Benchmark, Evaluation, predicted_outputs
from attribution.stores import Reader

COLUMNS = [
    "experiment", "split", "method", "label", "output_function", "timesteps", "noises",
    "projection", "proj_dim", "models", "readout", "lambda", "lambda_rule", "lds", "bootstrap_mean",
    "bootstrap_std", "ci_low", "ci_high", "subsets", "seeds", "queries", "train_size", "ceiling",
    "paper_lds",
]  # fmt: skip
CURVE_COLUMNS = [
    "experiment", "split", "method", "label", "timesteps", "lambda", "lambda_over_mean_eigenvalue",
    "lds", "oracle", "heldout",
]  # fmt: skip


class SplitEvaluator:
    """Evaluates methods on one split of an experiment."""

    def __init__(
        self,
        experiment: str,
        split: str,
        masks: np.ndarray,
        outputs: Reader,
        settings: dict[str, Any],
    ):
        """
        Args:
            masks: bool [subsets, training images].
            outputs: store with `outputs` [subsets, seeds, noises, timestep groups, queries].
            settings: the sections `evaluation`, `methods` and `features`.
        """
        self.experiment, self.split, self.settings = experiment, split, settings
        values = outputs.read("outputs").mean((2, 3))  # [subsets, seeds, queries]
        self.seeds = values.shape[1]
        self.benchmark = Benchmark(masks, values, settings["evaluation"])

    def rows(self, name: str, scores: Reader) -> tuple[list[dict], list[dict]]:
        """The rows of lds.csv and of lds_by_lambda.csv for one method."""
        lambdas = scores.read("lambdas")  # [lambdas]
        array = scores.array("scores")  # [lambdas, queries, images]
        predictions = [
            predicted_outputs(self.benchmark.masks, array[index : index + 1][0])
            for index in range(len(lambdas))
        ]
        rules = ("none",) if np.isnan(lambdas).all() else ("oracle", "heldout")
        evaluations = [self.benchmark.evaluate(predictions, rule) for rule in rules]
        table = [self._row(name, lambdas, evaluation) for evaluation in evaluations]
        if rules == ("none",):
            return table, []
        return table, list(self._curve(name, lambdas, scores, predictions, evaluations))

    def _described(self, name: str) -> dict[str, Any]:
        method = self.settings["methods"][name]
        feature = self.settings["features"].get(method.get("features"), {})
        projection = feature.get("projection", {})
        return {
            "experiment": self.experiment,
            "split": self.split,
            "method": name,
            "label": method.get("label", name),
            "output_function": feature.get("function"),
            "timesteps": feature.get("timesteps"),
            "noises": feature.get("noises"),
            "projection": projection.get("kind"),
            "proj_dim": projection.get("dim") if projection.get("kind") != "none" else None,
            "models": 1 if feature else None,
            "readout": "linear",
        }

    def _row(self, name: str, lambdas: np.ndarray, evaluation: Evaluation) -> dict[str, Any]:
        spread = asdict(evaluation.uncertainty)
        return {
            **self._described(name),
            "lambda": typical_lambda(lambdas, evaluation.chosen),
            "lambda_rule": evaluation.rule,
            "lds": evaluation.lds,
            "bootstrap_mean": spread["mean"],
            "bootstrap_std": spread["std"],
            "ci_low": spread["low"],
            "ci_high": spread["high"],
            "subsets": len(self.benchmark.masks),
            "seeds": self.seeds,
            "queries": self.benchmark.outputs.shape[1],
            "train_size": self.benchmark.masks.shape[1],
            "ceiling": self.benchmark.ceiling,
            "paper_lds": None,
        }

    def _curve(
        self,
        name: str,
        lambdas: np.ndarray,
        scores: Reader,
        predictions: list[np.ndarray],
        evaluations: list[Evaluation],
    ) -> Iterator[dict[str, Any]]:
        oracle, heldout = (evaluation.chosen for evaluation in evaluations)
        unit = scores.manifest["mean_eigenvalue"]
        described = {key: self._described(name)[key] for key in CURVE_COLUMNS[:5]}
        for index, lds in enumerate(self.benchmark.curve(predictions)):
            yield {
                **described,
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


def frames(rows: list[dict], curves: list[dict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables with their columns in order; numbers of things stay whole where some are blank."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    for column in ("timesteps", "noises", "proj_dim", "models"):
        table[column] = table[column].astype("Int64")
    curve = pd.DataFrame(curves, columns=CURVE_COLUMNS)
    curve["timesteps"] = curve["timesteps"].astype("Int64")
    return table, curve
