"""Cost of methods: the paper's formulas by hand, and what manifests add up to."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scripted import run_script
from study_data import evaluation

from attribution.cost import FAMILIES, Times, costs, family, predicted, seconds, times, total


def manifest(folder: Path, kind: str, took: float, **content) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    made = {"seconds": took, "machine": "x86_64"}
    (folder / "manifest.json").write_text(json.dumps({"kind": kind, "made": made, **content}))
    return str(folder / "manifest.json")


def features(root: Path, name: str, took: float, gradients: float, projection: float) -> list[str]:
    """Feature stores of all splits, each of which took as long."""
    timings = {"gradients": gradients, "projection": projection}
    return [
        manifest(
            root / f"features/{name}/{split}.zarr", "features", took, parameters=7, timings=timings
        )
        for split in ("train", "validation", "generation")
    ]


@pytest.fixture
def workspace(tmp_path):
    """Entries and uses of one method of each family."""
    first = features(tmp_path, "simple_10", 10.0, 8.0, 1.0)
    second = features(tmp_path, "simple_10__checkpoint-1", 12.0, 9.0, 1.0)
    pools = [features(tmp_path, f"simple_10__pool-{i}", 10.0, 8.0, 1.0) for i in range(2)]
    clip = manifest(tmp_path / "features/clip/train.zarr", "features", 2.0)
    models = [manifest(tmp_path / f"models/pool/subset-{i:04d}", "model", 50.0) for i in range(4)]
    marker = tmp_path / "models/pool/0-3.json"
    marker.write_text(json.dumps({"seed": 0, "models": {str(i): "" for i in range(4)}}))
    outputs = manifest(tmp_path / "outputs/pool/validation.zarr", "outputs", 7.0)
    kernel = manifest(tmp_path / "kernels/simple_10.zarr", "kernel", 1.0)
    uses = {
        "pixels": [manifest(tmp_path / "predictions/pixels/validation.zarr", "predictions", 0.5)],
        "clip": [clip],
        "trak": [*first, kernel],
        "gas": [*first, *second],
        "ensemble": [*pools[0], *pools[1], *models[:2]],
        "datamodel": [str(marker), outputs],
    }
    pair = ["simple_10", "simple_10"]
    entries = {
        "pixels": {"label": "Pixels", "sets": []},
        "clip": {"label": "CLIP", "sets": [["clip", "clip"]]},
        "trak": {"label": "TRAK", "sets": [pair]},
        "gas": {"label": "GAS", "sets": [pair, ["simple_10__checkpoint-1"] * 2]},
        "ensemble": {
            "label": "E",
            "ensemble": 2,
            "sets": [[f"simple_10__pool-{i}"] * 2 for i in (0, 1)],
        },
        "datamodel": {"label": "Datamodel", "sets": []},
    }
    return entries, uses


def test_formulas_are_the_papers():
    one = Times(gradients=30.0, projection=2.0)
    assert predicted("gradients", 1, 100.0, one) == 32
    assert predicted("checkpoints", 4, 100.0, one) == 4 * 32
    assert predicted("ensemble", 8, 100.0, one) == 8 * 132
    assert predicted("retraining", 512, 100.0, one) == 51_200
    assert np.isnan(predicted("similarity", 1, 100.0, one))


def test_manifests_say_what_their_seconds_were_for(workspace):
    _, uses = workspace
    assert times(Path(uses["trak"][0])) == Times(0, 8.0, 1.0, 1.0)
    assert times(Path(uses["clip"][0])) == Times(other=2.0)
    assert times(Path(uses["datamodel"][0])) == Times(training=200.0)  # a marker of four models
    assert times(Path(uses["ensemble"][-1])) == Times(training=50.0)
    twice = [Path(path) for path in uses["trak"] * 2]
    assert total(twice) == Times(0, 24.0, 3.0, 4.0)


def test_without_timings_all_seconds_are_gradients(tmp_path):
    path = manifest(tmp_path / "train.zarr", "features", 9.0, parameters=7)
    assert times(Path(path)) == Times(0, 9.0, 0, 0)


def test_families_follow_from_what_a_method_uses(workspace):
    entries, uses = workspace
    assert {row: family(entries[row], uses[row]) for row in entries} == {
        "pixels": ("similarity", 1), "clip": ("similarity", 1), "trak": ("gradients", 1),
        "gas": ("checkpoints", 2), "ensemble": ("ensemble", 2), "datamodel": ("retraining", 4),
    }  # fmt: skip
    assert family({**entries["datamodel"], "models": 3}, uses["datamodel"]) == ("retraining", 3)


def test_costs_are_predicted_and_measured(workspace):
    entries, uses = workspace
    table = costs(entries, uses, training=100.0).set_index("row")
    assert list(table.index) == list(entries)
    assert table["predicted"].fillna(0).tolist() == [0, 0, 27, 54, 2 * 127, 400]
    assert table["measured"].tolist() == [0.5, 2, 31, 66, 160, 207]
    assert table.loc["ensemble", "measured_training"] == 100
    assert table.loc["gas", "formula"] == "2 × (GRAD + PROJ)"
    assert set(table["family"]) <= set(FAMILIES)


def test_the_script_puts_cost_beside_lds(workspace, tmp_path):
    entries, uses = workspace
    base = manifest(tmp_path / "models/base", "model", 100.0, device="cpu")
    paths = []
    for place, row in enumerate(entries):
        path = tmp_path / "evaluations" / row / "lds.csv"
        path.parent.mkdir(parents=True)
        evaluation(10.0 + place, rules=("none",)).to_csv(path, index=False)
        paths.append(str(path))
    rows = [
        [row, {"label": entry["label"], "timesteps": 10 if row == "trak" else None}]
        for row, entry in entries.items()
    ]
    rows.append(["gone", {"label": "Cannot run", "timesteps": None}])
    settings = {
        "study": "cost",
        "rows": rows,
        "methods": {**entries, "gone": {"sets": []}},
        "uses": uses,
    }
    names = {"csv": "c.csv", "markdown": "c.md", "latex": "c.tex"}
    outputs = {name: tmp_path / "studies" / file for name, file in names.items()}
    outputs["figure"] = [tmp_path / "studies" / "c.svg"]
    run_script("study_cost", settings, {"base": base, "evaluations": paths}, outputs)
    table = pd.read_csv(outputs["csv"])
    assert len(table) == 6 * 2
    trak = table[(table["row"] == "trak") & (table["split"] == "validation")].iloc[0]
    assert (trak["lds"], trak["timesteps"], trak["measured"]) == (12, 10, 31)
    text = outputs["markdown"].read_text()
    assert "| TRAK | 10 | GRAD + PROJ | 24 | 3 | 27 | 31 | 12.0" in text.replace("\\", "")
    assert "took 100 s" in text
    assert (tmp_path / "studies/c.png").is_file()


def test_seconds_have_three_digits():
    assert [seconds(value) for value in (0.01234, 9.876, 123.4, 12345.6)] == [
        "0.0123", "9.88", "123", "12,346",
    ]  # fmt: skip
    assert seconds(float("nan")) == "–"
