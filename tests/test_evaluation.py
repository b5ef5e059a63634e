"""Evaluations from stored predictions and outputs, every cell against a plain computation."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from attribution import lds
from attribution.evaluation import (
    CURVE_NUMBERS,
    NUMBERS,
    SplitEvaluator,
    typical_lambda,
)
from attribution.stores import Reader, write_store
from attribution.tabulation import COLUMNS, CURVE_COLUMNS, described, together

SUBSETS, SEEDS, NOISES, GROUPS, QUERIES, IMAGES = 10, 2, 3, 4, 5, 20
LAMBDAS = np.array([0.5, 1.0, 4.0])
READOUTS = ["linear", "square"]
EVALUATION: dict[str, Any] = {
    "bootstrap": {"resamples": 8, "interval_resamples": 30, "confidence": 0.95, "seed": 0},
    "heldout": {"splits": 2, "seed": 0},
}
PROJECTION = {"kind": "count_sketch", "dim": 64, "seed": 0}
FEATURES: dict[str, Any] = {
    "simple_10": {"function": "simple", "timesteps": 10, "noises": 1, "projection": PROJECTION},
    "square_10": {"function": "square", "timesteps": 10, "noises": 2, "projection": PROJECTION},
    "mix": {"combine": {"square_10": 0.5, "simple_10": 1.0}, "dim": 16},
    "whole": {
        "function": "simple",
        "timesteps": 5,
        "noises": 1,
        "projection": {"kind": "none", "dim": 64, "seed": 0},
    },
    "clip": {"clip": "some/model"},
}
METHODS: dict[str, Any] = {
    "trak": {"function": "kernel", "label": "TRAK", "sets": [["simple_10", "simple_10"]]},
    "pixels": {"function": "raw_pixel_dot", "readout": "square", "sets": []},
}


class Example:
    """One split: outputs around a linear truth, and the stored predictions of two rows."""

    def __init__(self, folder: Path):
        random = np.random.default_rng(0)
        masks = random.random((SUBSETS, IMAGES)) < 0.5
        truth = random.normal(size=(QUERIES, IMAGES))
        noise = random.normal(size=(SUBSETS, SEEDS, NOISES, GROUPS, QUERIES))
        signal = -(masks @ truth.T)[:, None, None, None]
        self.outputs = (signal + noise).astype(np.float32)
        others = random.normal(size=noise.shape).astype(np.float32)
        errors = random.normal(size=(len(LAMBDAS), QUERIES, IMAGES)) * [[[3.0]], [[0.5]], [[1.0]]]
        scores = truth + errors
        self.predictions = np.array(
            [[-(masks @ one.T) for one in np.array([scores, scores**2])[r]] for r in range(2)],
            dtype=np.float32,
        )  # [readouts, lambdas, subsets, queries]
        names = ("subsets", "seeds", "noises", "timestep_groups", "queries")
        arrays = {"outputs": (names, self.outputs), "outputs_elbo": (names, others)}
        write_store(folder / "validation.zarr", "outputs", {}, arrays, "x")
        for row, lambdas, unit in (("trak", LAMBDAS, 2.0), ("pixels", np.array([np.nan]), None)):
            axes = ("readouts", "lambdas", "subsets", "queries")
            write_store(
                folder / f"{row}.zarr",
                "predictions",
                {},
                {
                    "predictions": (axes, self.predictions[:, : len(lambdas)]),
                    "lambdas": (("lambdas",), lambdas),
                },
                "x",
                row=row,
                split="validation",
                readouts=READOUTS,
                mean_eigenvalue=unit,
                train_size=IMAGES,
            )
        self.others, self.folder = others, folder
        self.evaluator = SplitEvaluator(Reader(folder / "validation.zarr"), EVALUATION)
        self.rows = {
            row: self.evaluator.rows(Reader(folder / f"{row}.zarr")) for row in ("trak", "pixels")
        }

    def curve(self, readout: int, outputs: np.ndarray | None = None) -> list[float]:
        """The LDS of each lambda by loops and scipy."""
        outputs = self.outputs if outputs is None else outputs
        mean = outputs.astype(np.float64).mean((1, 2, 3))
        return [
            100 * np.mean([stats.spearmanr(each[:, q], mean[:, q])[0] for q in range(QUERIES)])
            for each in self.predictions[readout]
        ]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return Example(tmp_path_factory.mktemp("evaluation"))


def test_a_row_with_lambdas_has_an_oracle_and_a_heldout_value_of_each_readout(example: Example):
    table, _, _ = example.rows["trak"]
    assert [(row["readout"], row["lambda_rule"]) for row in table] == [
        ("linear", "oracle"), ("linear", "heldout"), ("square", "oracle"), ("square", "heldout")
    ]  # fmt: skip
    for readout in range(2):
        oracle, heldout = table[2 * readout : 2 * readout + 2]
        curve = example.curve(readout)
        assert oracle["lds"] == pytest.approx(max(curve), abs=1e-6)
        assert oracle["lambda"] == LAMBDAS[int(np.argmax(curve))]
        assert heldout["lambda"] in LAMBDAS
        assert heldout["ci_low"] <= heldout["lds"] <= heldout["ci_high"]


def test_a_row_without_lambdas_has_one_value_of_each_readout_and_no_curve(example: Example):
    table, curve, _ = example.rows["pixels"]
    assert curve == []
    assert [(row["readout"], row["lambda_rule"]) for row in table] == [
        ("linear", "none"), ("square", "none")
    ]  # fmt: skip
    for readout, row in enumerate(table):
        assert np.isnan(row["lambda"])
        assert row["lds"] == pytest.approx(example.curve(readout)[0], abs=1e-6)


def test_rows_say_what_they_rest_on_and_nothing_else(example: Example):
    for table, curve, _ in example.rows.values():
        for row in table:
            assert set(row) == set(NUMBERS)
            known = {
                key: row[key] for key in ("split", "subsets", "seeds", "queries", "train_size")
            }
            assert known == {
                "split": "validation", "subsets": SUBSETS, "seeds": SEEDS, "queries": QUERIES,
                "train_size": IMAGES,
            }  # fmt: skip
        assert all(set(point) == set(CURVE_NUMBERS) for point in curve)


def test_the_curve_has_one_row_a_lambda_in_units_of_the_mean_eigenvalue(example: Example):
    table, rows, _ = example.rows["trak"]
    whole = pd.DataFrame(rows)
    assert len(whole) == 2 * len(LAMBDAS)
    for readout, name in enumerate(READOUTS):
        curve = whole[whole["readout"] == name]
        assert curve["lambda"].tolist() == LAMBDAS.tolist()
        assert curve["lambda_over_mean_eigenvalue"].tolist() == [0.25, 0.5, 2.0]  # the unit is 2
        np.testing.assert_allclose(curve["lds"], example.curve(readout), atol=1e-6)
        assert curve["oracle"].sum() == 1
        assert curve.loc[curve["oracle"], "lambda"].item() == table[2 * readout]["lambda"]
        assert curve["heldout"].sum() == 4  # two halvings, both ways


def test_only_the_readouts_that_are_asked_for_are_evaluated(example: Example):
    store = Reader(example.folder / "trak.zarr")
    table, curve, resampled = example.evaluator.rows(store, ["square"])
    assert pd.DataFrame(table).equals(pd.DataFrame(example.rows["trak"][0][2:]))
    assert {point["readout"] for point in curve} == {"square"}
    assert set(resampled) == {"validation/square/oracle", "validation/square/heldout"}


def test_the_ceiling_is_that_of_the_outputs_mean_over_noises_and_timesteps(example: Example):
    values = example.outputs.astype(np.float64).mean((2, 3))
    r = np.mean(
        [stats.spearmanr(values[:, 0, q], values[:, 1, q]).statistic for q in range(QUERIES)]
    )
    for row in example.rows["trak"][0]:
        assert row["ceiling"] == pytest.approx(100 * np.sqrt(2 * r / (1 + r)), abs=1e-4)


def test_another_output_function_of_the_benchmark_is_another_array(example: Example):
    evaluator = SplitEvaluator(
        Reader(example.folder / "validation.zarr"), EVALUATION, "outputs_elbo"
    )
    table, _, _ = evaluator.rows(Reader(example.folder / "pixels.zarr"), ["linear"])
    wanted = example.curve(0, example.others)[0]
    assert table[0]["lds"] == pytest.approx(wanted, abs=1e-6)
    assert abs(wanted - example.curve(0)[0]) > 1


def test_the_bootstrap_and_its_columns_equal_a_plain_loop(example: Example):
    mean = example.outputs.astype(np.float64).mean((1, 2, 3))
    predicted = example.predictions[0, 0]
    values = []
    for counts in lds.resamples(SUBSETS, 30, 0).astype(int):
        rows = np.repeat(np.arange(SUBSETS), counts)
        pairs = zip(predicted[rows].T, mean[rows].T, strict=True)
        values.append(100 * np.mean([stats.spearmanr(a, b).statistic for a, b in pairs]))
    table, _, resampled = example.rows["pixels"]
    np.testing.assert_allclose(resampled["validation/linear/none"], values, atol=1e-5)
    assert table[0]["bootstrap_mean"] == pytest.approx(np.mean(values[:8]), abs=1e-5)
    assert table[0]["bootstrap_std"] == pytest.approx(np.std(values[:8]), abs=1e-5)
    moved = np.percentile(values, [2.5, 97.5]) + table[0]["lds"] - np.mean(values)
    assert [table[0]["ci_low"], table[0]["ci_high"]] == pytest.approx(list(moved), abs=1e-5)


def test_every_value_has_its_resamples_and_those_of_all_rows_are_paired(example: Example):
    resampled = {row: found for row, (_, _, found) in example.rows.items()}
    assert set(resampled["trak"]) == {
        f"validation/{readout}/{rule}" for readout in READOUTS for rule in ("oracle", "heldout")
    }
    assert set(resampled["pixels"]) == {f"validation/{readout}/none" for readout in READOUTS}
    for found in resampled.values():
        assert all(values.shape == (30,) for values in found.values())
    # The row without lambdas holds the predictions of the other's first lambda.
    store = Reader(example.folder / "trak.zarr")
    first = store.read("predictions")[0, :1]
    again = SplitEvaluator(Reader(example.folder / "validation.zarr"), EVALUATION)
    np.testing.assert_array_equal(
        again.benchmark.evaluate(list(first), "oracle").resampled,
        resampled["pixels"]["validation/linear/none"],
    )


def test_the_typical_lambda_is_the_lower_median_of_the_chosen_ones():
    lambdas = np.array([4.0, 1.0, 2.0])
    assert typical_lambda(lambdas, np.array([1, 2, 1])) == 1  # 1, 1, 2, 4
    assert typical_lambda(lambdas, np.array([2, 1, 1])) == 2  # 1, 2, 4, 4
    assert typical_lambda(lambdas, np.array([0, 0, 3])) == 2
    assert np.isnan(typical_lambda(np.array([np.nan]), np.array([1])))


def told(**method: Any) -> dict[str, Any]:
    """What is said of a method, but for the names."""
    settings = {"methods": {"m": {"function": "kernel", **method}}, "features": FEATURES}
    about = described("digits", "m", settings)
    assert (about.pop("experiment"), about.pop("method")) == ("digits", "m")
    return about


def test_a_row_is_described_by_its_entry_and_its_training_features():
    assert told(label="TRAK", sets=[["simple_10", "square_10"]]) == {
        "label": "TRAK",
        "output_function": "simple",
        "timesteps": 10,
        "noises": 1,
        "projection": "count_sketch",
        "proj_dim": 64,
        "models": 1,
    }
    pixels = told(sets=[])
    assert pixels.pop("label") == "m"
    assert set(pixels.values()) == {None}


def test_a_row_of_several_models_says_how_many():
    pair = ["simple_10", "simple_10"]
    assert told(sets=[pair, pair], checkpoints=[1, 2])["models"] == 1
    assert told(sets=[pair] * 3, ensemble=3)["models"] == 3
    assert told(sets=[], models=12)["models"] == 12


def test_features_of_other_kinds_are_described_by_what_they_have():
    mix = told(sets=[["mix", "mix"]])
    assert (mix["output_function"], mix["noises"]) == ("square", 2)  # of the first part
    assert (mix["timesteps"], mix["projection"], mix["proj_dim"]) == (10, "count_sketch", 16)
    whole = told(sets=[["whole", "whole"]])
    assert (whole["projection"], whole["proj_dim"]) == ("none", None)
    clip = told(sets=[["clip", "clip"]])
    assert (clip["output_function"], clip["projection"], clip["proj_dim"]) == (None, None, None)
    assert clip["models"] == 1


def written(example: Example, folder: Path, row: str) -> tuple[Path, Path]:
    """lds.csv and curve.csv of a row, as the job writes them."""
    table, curve, _ = example.rows[row]
    (folder / row).mkdir()
    paths = folder / row / "lds.csv", folder / row / "curve.csv"
    pd.DataFrame(table, columns=NUMBERS).to_csv(paths[0], index=False, float_format="%.6g")
    pd.DataFrame(curve, columns=CURVE_NUMBERS).to_csv(paths[1], index=False, float_format="%.6g")
    return paths


SETTINGS: dict[str, Any] = {
    "paper": None,
    "order": ["pixels", "later", "trak"],
    "methods": {
        **METHODS,
        "later": {"function": "kernel", "label": "Later", "readout": "square", "deferred": True,
                  "sets": [["square_10", "square_10"]]},
    },
    "features": FEATURES,
    "missing": {
        "pixels": {},
        "later": {"validation": "is for later", "generation": "is for later"},
        "trak": {"generation": "has no path"},
    },
}  # fmt: skip


@pytest.fixture
def tables(example: Example, tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables of the two rows, given in another order than the settings name."""
    paths = [written(example, tmp_path, row) for row in ("trak", "pixels")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return (
            together("digits", [lds for lds, _ in paths], SETTINGS, COLUMNS),
            together("digits", [curve for _, curve in paths], SETTINGS, CURVE_COLUMNS),
        )


def test_tables_have_the_columns_of_the_design(tables: tuple[pd.DataFrame, pd.DataFrame]):
    wanted = (
        "experiment split method label output_function timesteps noises projection proj_dim models "
        "readout own_readout lambda lambda_rule lds bootstrap_mean bootstrap_std ci_low ci_high "
        "subsets seeds queries train_size ceiling paper_lds note"
    )
    assert tables[0].columns.tolist() == COLUMNS == wanted.split()
    assert tables[1].columns.tolist() == CURVE_COLUMNS
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_rows_stand_in_the_order_of_the_configuration_with_their_numbers(
    example: Example, tables: tuple[pd.DataFrame, pd.DataFrame]
):
    table, curve = tables
    assert table["method"].tolist() == ["pixels"] * 2 + ["later"] * 2 + ["trak"] * 5
    numbers = [row["lds"] for name in ("pixels", "trak") for row in example.rows[name][0]]
    np.testing.assert_allclose(table["lds"].dropna(), numbers, rtol=1e-5)
    assert curve["method"].tolist() == ["trak"] * 6
    assert curve["oracle"].sum() == 2


def test_rows_that_cannot_run_are_there_with_the_reason(tables: tuple[pd.DataFrame, pd.DataFrame]):
    table, curve = tables
    noted = table[table["note"].notna()]
    assert noted[["method", "split", "note"]].to_numpy().tolist() == [
        ["later", "validation", "is for later"],
        ["later", "generation", "is for later"],
        ["trak", "generation", "has no path"],
    ]
    assert noted["lds"].isna().all()
    assert noted["label"].tolist() == ["Later", "Later", "TRAK"]
    assert table["lds"].notna().sum() == 6
    assert "later" not in set(curve["method"])


def test_a_method_s_own_readout_is_marked(tables: tuple[pd.DataFrame, pd.DataFrame]):
    table = tables[0][tables[0]["lds"].notna()]
    own = table[table["own_readout"]]
    assert dict(zip(own["method"], own["readout"], strict=True)) == {
        "pixels": "square", "trak": "linear"
    }  # fmt: skip
    assert len(own) == 1 + 2


def test_the_marks_are_still_there_after_writing_and_reading(
    tables: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path
):
    tables[0].to_csv(tmp_path / "lds.csv", index=False)
    again = pd.read_csv(tmp_path / "lds.csv")
    assert again["own_readout"].dtype == bool
    assert again["own_readout"].tolist() == tables[0]["own_readout"].tolist()
    text = (tmp_path / "lds.csv").read_text()
    assert ",simple,10,1,count_sketch,64,1,linear,True," in text  # whole numbers: not 10.0
    assert ",pixels,pixels,,,,,,,linear,False," in text


def test_the_paper_s_numbers_stand_beside_the_linear_rows_of_its_setting(
    example: Example, tmp_path: Path
):
    paths = [written(example, tmp_path, row)[0] for row in ("trak", "pixels")]
    methods = {**SETTINGS["methods"], "trak": {**SETTINGS["methods"]["trak"], "paper": "trak"}}
    settings = {**SETTINGS, "methods": methods, "paper": "cifar2"}
    table = together("mine", paths, settings, COLUMNS).set_index("method")
    trak = table.loc["trak"]
    linear = trak[(trak["readout"] == "linear") & (trak["split"] == "validation")]
    assert len(linear) and (linear["paper_lds"] == 11.42).all()  # Table 2, 10 timesteps
    assert trak.loc[trak["readout"] != "linear", "paper_lds"].isna().all()
    assert table.loc["pixels", "paper_lds"].isna().all()  # names no row of the paper
    elsewhere = together("mine", paths, {**settings, "paper": None}, COLUMNS)
    assert elsewhere["paper_lds"].isna().all()


def test_tables_of_nothing_have_their_columns():
    nothing = {"order": [], "methods": {}, "features": {}, "missing": {}, "paper": None}
    for columns in (COLUMNS, CURVE_COLUMNS):
        table = together("digits", [], nothing, columns)
        assert (len(table), table.columns.tolist()) == (0, columns)


def test_without_any_lambda_the_table_of_curves_is_empty(example: Example, tmp_path: Path):
    _, curve = written(example, tmp_path, "pixels")
    settings = {**SETTINGS, "order": ["pixels"]}
    table = together("digits", [curve], settings, CURVE_COLUMNS)
    assert (len(table), table.columns.tolist()) == (0, CURVE_COLUMNS)
