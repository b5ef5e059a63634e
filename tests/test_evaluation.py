"""The LDS tables from stored scores and outputs, against a plain computation of every cell."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from attribution import lds
from attribution.evaluation import COLUMNS, CURVE_COLUMNS, SplitEvaluator, frames, typical_lambda
from attribution.stores import Reader, write_store

SUBSETS, SEEDS, NOISES, GROUPS, QUERIES, IMAGES = 10, 2, 3, 4, 5, 20
LAMBDAS = np.array([0.5, 1.0, 4.0])
SETTINGS: dict[str, Any] = {
    "evaluation": {
        "bootstrap": {"resamples": 8, "interval_resamples": 30, "confidence": 0.95, "seed": 0},
        "heldout": {"splits": 2, "seed": 0},
    },
    "methods": {
        "trak": {"function": "kernel", "features": "simple_10", "label": "TRAK"},
        "pixels": {"function": "raw_pixel_dot"},
    },
    "features": {
        "simple_10": {
            "function": "simple",
            "timesteps": 10,
            "noises": 1,
            "projection": {"kind": "count_sketch", "dim": 64, "seed": 0},
        }
    },
}


class Example:
    """One split: masks, outputs around a linear truth, and the stored scores of two methods."""

    def __init__(self, folder: Path):
        random = np.random.default_rng(0)
        self.masks = random.random((SUBSETS, IMAGES)) < 0.5
        truth = random.normal(size=(QUERIES, IMAGES))
        noise = random.normal(size=(SUBSETS, SEEDS, NOISES, GROUPS, QUERIES))
        signal = -(self.masks @ truth.T)[:, None, None, None]
        self.outputs = (signal + noise).astype(np.float32)
        errors = random.normal(size=(len(LAMBDAS), QUERIES, IMAGES)) * [[[3.0]], [[0.5]], [[1.0]]]
        self.scores = (truth + errors).astype(np.float32)
        names = ("subsets", "seeds", "noises", "timestep_groups", "queries")
        write_store(folder / "outputs.zarr", "outputs", {}, {"outputs": (names, self.outputs)}, "x")
        for method, count in (("trak", 3), ("pixels", 1)):
            lambdas = LAMBDAS if method == "trak" else np.array([np.nan])
            arrays = {
                "scores": (("lambdas", "queries", "images"), self.scores[:count]),
                "lambdas": (("lambdas",), lambdas),
            }
            unit = 2.0 if method == "trak" else None
            write_store(folder / f"{method}.zarr", "scores", {}, arrays, "x", mean_eigenvalue=unit)
        self.evaluator = SplitEvaluator(
            "digits", "validation", self.masks, Reader(folder / "outputs.zarr"), SETTINGS
        )
        self.rows = {
            method: self.evaluator.rows(method, Reader(folder / f"{method}.zarr"))
            for method in ("trak", "pixels")
        }

    def curve(self) -> list[float]:
        """The LDS of each lambda by loops and scipy."""
        mean = self.outputs.astype(np.float64).mean((1, 2, 3))
        values = []
        for scores in self.scores.astype(np.float64):
            correlations = []
            for query in range(QUERIES):
                predicted = [-sum(scores[query, n] for n in np.flatnonzero(m)) for m in self.masks]
                correlations.append(stats.spearmanr(predicted, mean[:, query]).statistic)
            values.append(100 * np.mean(correlations))
        return values


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return Example(tmp_path_factory.mktemp("evaluation"))


def test_a_method_with_lambdas_has_an_oracle_row_and_a_heldout_row(example: Example):
    table, _ = example.rows["trak"]
    assert [row["lambda_rule"] for row in table] == ["oracle", "heldout"]
    curve = example.curve()
    assert table[0]["lds"] == pytest.approx(max(curve), abs=1e-6)
    assert table[0]["lambda"] == LAMBDAS[int(np.argmax(curve))]
    assert table[1]["lambda"] in LAMBDAS
    assert table[1]["ci_low"] <= table[1]["bootstrap_mean"] <= table[1]["ci_high"]


def test_a_method_without_lambdas_has_one_row_and_no_curve(example: Example):
    table, curve = example.rows["pixels"]
    assert curve == []
    (row,) = table
    assert row["lambda_rule"] == "none"
    assert np.isnan(row["lambda"])
    assert row["lds"] == pytest.approx(example.curve()[0], abs=1e-6)


def test_the_curve_has_one_row_a_lambda_in_units_of_the_mean_eigenvalue(example: Example):
    table, rows = example.rows["trak"]
    curve = pd.DataFrame(rows)
    assert curve["lambda"].tolist() == LAMBDAS.tolist()
    assert curve["lambda_over_mean_eigenvalue"].tolist() == [0.25, 0.5, 2.0]  # the unit is 2
    np.testing.assert_allclose(curve["lds"], example.curve(), atol=1e-6)
    assert curve["oracle"].sum() == 1
    assert curve.loc[curve["oracle"], "lambda"].item() == table[0]["lambda"]
    assert curve["heldout"].sum() == 4  # two halvings, both ways


def test_rows_say_what_was_evaluated(example: Example):
    row = example.rows["trak"][0][0]
    described = {
        "experiment": "digits",
        "split": "validation",
        "method": "trak",
        "label": "TRAK",
        "output_function": "simple",
        "timesteps": 10,
        "noises": 1,
        "projection": "count_sketch",
        "proj_dim": 64,
        "subsets": SUBSETS,
        "seeds": SEEDS,
        "queries": QUERIES,
        "train_size": IMAGES,
    }
    assert {key: row[key] for key in described} == described
    without_features = example.rows["pixels"][0][0]
    assert without_features["label"] == "pixels"
    assert without_features["output_function"] is without_features["proj_dim"] is None


def test_the_ceiling_is_that_of_the_outputs_mean_over_noises_and_timesteps(example: Example):
    values = example.outputs.astype(np.float64).mean((2, 3))
    r = np.mean(
        [stats.spearmanr(values[:, 0, q], values[:, 1, q]).statistic for q in range(QUERIES)]
    )
    row = example.rows["trak"][0][0]
    assert row["ceiling"] == pytest.approx(100 * np.sqrt(2 * r / (1 + r)), abs=1e-4)


def test_the_bootstrap_columns_equal_a_plain_loop(example: Example):
    mean = example.outputs.astype(np.float64).mean((1, 2, 3))
    predicted = -(example.masks.astype(float) @ example.scores[0].astype(float).T)
    values = []
    for counts in lds.resamples(SUBSETS, 30, 0).astype(int):
        rows = np.repeat(np.arange(SUBSETS), counts)
        pairs = zip(predicted[rows].T, mean[rows].T, strict=True)
        values.append(100 * np.mean([stats.spearmanr(a, b).statistic for a, b in pairs]))
    (row,) = example.rows["pixels"][0]
    assert row["bootstrap_mean"] == pytest.approx(np.mean(values[:8]), abs=1e-5)
    assert row["bootstrap_std"] == pytest.approx(np.std(values[:8]), abs=1e-5)
    assert row["ci_low"] == pytest.approx(np.percentile(values, 2.5), abs=1e-5)
    assert row["ci_high"] == pytest.approx(np.percentile(values, 97.5), abs=1e-5)


def test_the_typical_lambda_is_the_lower_median_of_the_chosen_ones():
    lambdas = np.array([4.0, 1.0, 2.0])
    assert typical_lambda(lambdas, np.array([1, 2, 1])) == 1  # 1, 1, 2, 4
    assert typical_lambda(lambdas, np.array([2, 1, 1])) == 2  # 1, 2, 4, 4
    assert typical_lambda(lambdas, np.array([0, 0, 3])) == 2
    assert np.isnan(typical_lambda(np.array([np.nan]), np.array([1])))


def test_tables_have_the_columns_of_the_design_and_whole_numbers(example: Example, tmp_path: Path):
    rows = [row for table, _ in example.rows.values() for row in table]
    table, curve = frames(rows, example.rows["trak"][1])
    wanted = (
        "experiment split method output_function timesteps noises projection proj_dim models "
        "readout lambda lambda_rule lds bootstrap_mean bootstrap_std ci_low ci_high subsets seeds "
        "queries train_size ceiling paper_lds"
    )
    assert set(wanted.split()) <= set(table.columns)
    assert table.columns.tolist() == COLUMNS
    assert curve.columns.tolist() == CURVE_COLUMNS
    table.to_csv(tmp_path / "lds.csv", index=False)
    text = (tmp_path / "lds.csv").read_text()
    assert ",simple,10,1,count_sketch,64,1," in text  # and not 10.0
    assert ",pixels,pixels,,,,,,,linear,," in text
    assert pd.read_csv(tmp_path / "lds.csv").shape == (3, len(COLUMNS))


def test_tables_of_nothing_have_their_columns():
    table, curve = frames([], [])
    assert (table.columns.tolist(), curve.columns.tolist()) == (COLUMNS, CURVE_COLUMNS)
