"""The scripts that tabulate studies, run on small stores: rows, curves, and other outputs F."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from scripted import run_script
from study_data import BOOTSTRAP, bootstraps, curve, evaluation

from attribution.stores import write_store

EVALUATION = {"bootstrap": BOOTSTRAP, "heldout": {"splits": 2, "seed": 0}}


def outputs_of(folder, *more):
    names = {"csv": "s.csv", "markdown": "s.md", "latex": "s.tex"}
    files = {name: folder / "studies" / file for name, file in [*names.items(), *more]}
    return {**files, "figure": [folder / "studies" / "s.svg"]}


def save_evaluations(folder, evaluations):
    """evaluations/{row}/lds.csv and bootstrap.npz; their paths."""
    resampled = bootstraps(evaluations)
    tables, archives = [], []
    for row, frame in evaluations.items():
        place = folder / "evaluations" / row
        place.mkdir(parents=True)
        frame.to_csv(place / "lds.csv", index=False)
        own = {"/".join(key[1:]): value for key, value in resampled.items() if key[0] == row}
        np.savez_compressed(place / "bootstrap.npz", **own)
        tables.append(str(place / "lds.csv"))
        archives.append(str(place / "bootstrap.npz"))
    return tables, archives


def test_a_study_of_seeds_is_averaged_and_compared(tmp_path):
    rows = [
        [
            f"{sharing}-{seed}",
            {"function": "simple", "sharing": sharing, "timesteps": 10, "seed": seed},
        ]
        for sharing in ("all", "none")
        for seed in range(2)
    ]
    evaluations = {row: evaluation(20.0 + 5 * place) for place, (row, _) in enumerate(rows)}
    tables, archives = save_evaluations(tmp_path, evaluations)
    files = outputs_of(tmp_path, ("differences", "s_differences.csv"))
    settings = {
        "study": "noise_sharing", "rows": rows, "paper": None, "methods": {}, "missing": {},
        "evaluation": EVALUATION,
    }  # fmt: skip
    # Files come in any order: a row is known by its folder.
    paths = {"evaluations": tables[::-1], "bootstraps": archives[::-1]}
    run_script("tabulate_study", settings, paths, files)
    frame = pd.read_csv(files["csv"])
    assert len(frame) == 4 * 8
    assert frame["row"].drop_duplicates().tolist() == [row for row, _ in rows]
    text = files["markdown"].read_text()
    assert "22.5" in text  # the mean of 20 and 25
    assert "Means over 2 seeds" in text
    assert "### Paired differences" in text
    table = pd.read_csv(files["differences"])
    own = table[(table["split"] == "validation") & (table["lambda_rule"] == "oracle")]
    assert own["difference"].tolist() == pytest.approx([-10.0, -10.0])  # both readouts
    assert (own["value"] == "all").all()
    assert (tmp_path / "studies" / "s.png").is_file()


def test_a_plain_study_needs_no_resamples(tmp_path):
    rows = [[f"d{dim}", {"function": "simple", "timesteps": 10, "dim": dim}] for dim in (128, 256)]
    tables, _ = save_evaluations(tmp_path, {row: evaluation(20.0) for row, _ in rows})
    files = outputs_of(tmp_path)
    settings = {
        "study": "projection_dimension", "rows": rows, "paper": None, "methods": {},
        "missing": {}, "evaluation": EVALUATION,
    }  # fmt: skip
    run_script("tabulate_study", settings, {"evaluations": tables, "bootstraps": []}, files)
    assert "### Paired" not in files["markdown"].read_text()
    assert pd.read_csv(files["csv"])["dim"].tolist() == [128] * 8 + [256] * 8


def test_curves_are_put_together(tmp_path):
    rows = [
        ["trak_10", {"label": "TRAK", "timesteps": 10}],
        ["gone", {"label": "X", "timesteps": None}],
    ]
    path = tmp_path / "evaluations" / "trak_10" / "curve.csv"
    path.parent.mkdir(parents=True)
    curve(20.0).to_csv(path, index=False)
    files = outputs_of(tmp_path)
    settings = {"study": "regularisation", "rows": rows, "evaluation": EVALUATION}
    run_script("tabulate_study", settings, {"curves": [str(path)]}, files)
    assert len(pd.read_csv(files["csv"])) == 50
    assert "| TRAK | 10 | Validation | 20.0 |" in files["markdown"].read_text()
    assert (tmp_path / "studies" / "s.png").is_file()


def test_other_outputs_are_benchmarks_of_their_own(tmp_path):
    random = np.random.default_rng(0)
    truth = {name: random.normal(size=(9, 2, 1, 2, 5)) for name in ("outputs", "outputs_square")}
    names = ("subsets", "seeds", "noises", "timestep_groups", "queries")
    prediction = truth["outputs_square"].mean((1, 2, 3))  # right for the square, not for F itself
    paths = {"outputs": [], "predictions": []}
    for split in ("validation", "generation"):
        store = tmp_path / "outputs" / f"{split}.zarr"
        arrays = {name: (names, values) for name, values in truth.items()}
        write_store(store, "outputs", {}, arrays, "again")
        paths["outputs"].append(str(store / "manifest.json"))
        store = tmp_path / "predictions" / "trak" / f"{split}.zarr"
        values = prediction[None, None] + np.zeros((1, 2, 1, 1))
        arrays = {
            "predictions": (("readouts", "lambdas", "subsets", "queries"), values),
            "lambdas": (("lambdas",), np.array([1.0, 2.0])),
        }
        write_store(
            store, "predictions", {}, arrays, "again",
            row="trak", split=split, readouts=["linear"], mean_eigenvalue=1.0, train_size=20,
        )  # fmt: skip
        paths["predictions"].append(str(store / "manifest.json"))
    files = outputs_of(tmp_path)
    settings = {
        "study": "benchmark_output", "rows": [["trak", {"function": "simple"}]], "paper": "cifar2",
        "outputs": {"function": "simple", "others": ["square"]}, "evaluation": EVALUATION,
    }  # fmt: skip
    run_script("study_benchmark_outputs", settings, paths, files)
    frame = pd.read_csv(files["csv"])
    own = frame[(frame["split"] == "validation") & (frame["lambda_rule"] == "oracle")]
    found = own.set_index("output")["lds"]
    mean = truth["outputs"].mean((1, 2, 3))
    pairs = zip(prediction.T, mean.T, strict=True)
    expected = 100 * np.mean([spearmanr(a, b).statistic for a, b in pairs])
    assert found["simple"] == pytest.approx(expected, rel=1e-4)
    assert found["square"] == pytest.approx(100)
    assert own.set_index("output")["paper_lds"].to_dict() == {"simple": 19.5, "square": 0.16}
    assert "Validation, square" in files["markdown"].read_text()
    assert (tmp_path / "studies" / "s.png").is_file()
