"""One row's evaluation on the benchmark, and the LDS tables that are put together from many."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attribution.lds import Benchmark, Evaluation
from attribution.paper import method_row
from attribution.stores import Reader

NUMBERS = [
    "split", "readout", "lambda", "lambda_rule", "lds", "bootstrap_mean", "bootstrap_std",
    "ci_low", "ci_high", "subsets", "seeds", "queries", "train_size", "ceiling",
]  # fmt: skip
CURVE_NUMBERS = [
    "split", "readout", "lambda", "lambda_over_mean_eigenvalue", "lds", "oracle", "heldout",
]  # fmt: skip
DESCRIBED = [
    "experiment", "method", "label", "output_function", "timesteps", "noises", "projection",
    "proj_dim", "models",
]  # fmt: skip
COLUMNS = [
    "experiment", "split", *DESCRIBED[1:], "readout", "own_readout", *NUMBERS[2:], "paper_lds",
    "note",
]  # fmt: skip
CURVE_COLUMNS = ["experiment", "split", *DESCRIBED[1:], *CURVE_NUMBERS[1:]]
WHOLE = ("timesteps", "noises", "proj_dim", "models")


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
        rules = ("none",) if np.isnan(lambdas).all() else ("oracle", "heldout")
        values = predictions.read("predictions")
        table: list[dict] = []
        curves: list[dict] = []
        resampled: dict[str, np.ndarray] = {}
        for readout, each in zip(predictions.manifest["readouts"], values, strict=True):
            if readouts is not None and readout not in readouts:
                continue
            place = {"split": self.split, "readout": readout}
            curve = self.benchmark.curve(list(each))
            evaluations = [self.benchmark.evaluate(list(each), rule, curve) for rule in rules]
            for evaluation in evaluations:
                table.append({**place, **self._numbers(lambdas, evaluation, predictions)})
                resampled[f"{self.split}/{readout}/{evaluation.rule}"] = evaluation.resampled
            if rules != ("none",):
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


def described(experiment: str, row: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What the tables say of a row beside its numbers.

    Args:
        settings: `methods` (entries with their `sets`) and `features` (the sets they read).
    """
    method = settings["methods"][row]
    sets = method["sets"]
    feature = settings["features"][sets[0][0]] if sets else {}
    for part in feature.get("combine", {}):
        feature = {**settings["features"][part], **feature}
    projection = feature.get("projection", {})
    dense = projection.get("kind") != "none"
    return {
        "experiment": experiment,
        "method": row,
        "label": method.get("label", row),
        "output_function": feature.get("function"),
        "timesteps": feature.get("timesteps"),
        "noises": feature.get("noises"),
        "projection": projection.get("kind"),
        "proj_dim": feature.get("dim", projection.get("dim")) if dense else None,
        "models": method.get("ensemble") or method.get("models") or (1 if feature else None),
    }


def published(
    frame: pd.DataFrame, setting: str | None, method: dict[str, Any], about: dict[str, Any]
) -> list[float | None]:
    """The paper's LDS beside each row of a method, which has it for the linear readout only."""
    if not len(frame) or "paper" not in method:
        return [None] * len(frame)
    found = {
        split: method_row(setting, split, method["paper"], about["timesteps"], about["models"])
        for split in set(frame["split"])
    }
    return [
        found[split].lds if found[split] and readout == "linear" else None
        for split, readout in zip(frame["split"], frame["readout"], strict=True)
    ]


def together(
    experiment: str, paths: Sequence[Path], settings: dict[str, Any], columns: Sequence[str]
) -> pd.DataFrame:
    """The rows of several evaluations, `evaluations/{row}/*.csv`, described and in their order."""
    read = {path.parent.name: path for path in paths}
    frames = []
    for row in settings["order"]:
        about = described(experiment, row, settings)
        frame = pd.read_csv(read[row]) if row in read else pd.DataFrame()
        if "note" in columns:
            for split, reason in settings["missing"][row].items():
                note = pd.DataFrame([{"split": split, "readout": "linear", "note": reason}])
                frame = pd.concat([frame, note], ignore_index=True)
            own = settings["methods"][row].get("readout", "linear")
            frame["own_readout"] = frame["readout"] == own if len(frame) else []
            method = settings["methods"][row]
            frame["paper_lds"] = published(frame, settings["paper"], method, about)
        frames.append(frame.assign(**about))
    filled = [frame for frame in frames if len(frame)]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
    table = table.reindex(columns=list(columns))
    for column in WHOLE:
        table[column] = table[column].astype("Int64")
    return table
