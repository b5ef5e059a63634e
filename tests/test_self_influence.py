"""Self-influence: against the formula written out, and what the study says of both ends."""

import numpy as np
import pandas as pd
import pytest
from reporting_data import split
from scripted import run_script, save_images
from study_data import evaluation

from attribution.errors import ConfigurationError
from attribution.kernels import decompose
from attribution.self_influence import chosen_lambda, ends, ranked, self_influence_table
from attribution.stores import write_store


def stored(tmp_path, features):
    """A feature store and its decomposition, as the workflow leaves them; their manifests."""
    identity = {"kind": "none", "dim": features.shape[1]}
    arrays = {
        "features": (("images", "k"), features),
        "ids": (("images",), np.arange(len(features))),
    }
    write_store(tmp_path / "train.zarr", "features", {}, arrays, "again", projection=identity)
    kernel = decompose(features)
    arrays = {
        "eigenvalues": (("eigenvalues",), kernel.eigenvalues.numpy()),
        "eigenvectors": (("rows", "eigenvalues"), kernel.eigenvectors.numpy()),
        "feature_norms": (("images",), kernel.feature_norms.numpy()),
    }
    write_store(
        tmp_path / "kernel.zarr", "kernel", {}, arrays, "again",
        form=kernel.kind, mean_eigenvalue=kernel.mean_eigenvalue, shape=list(kernel.shape),
        projection=identity,
    )  # fmt: skip
    return tmp_path / "train.zarr" / "manifest.json", tmp_path / "kernel.zarr" / "manifest.json"


@pytest.mark.parametrize("dim", [4, 30])
def test_the_script_ranks_by_the_formula(tmp_path, dim):
    random = np.random.default_rng(0)
    features = random.normal(size=(12, dim)).astype(np.float32)
    features[5] *= 10
    train, kernel = stored(tmp_path, features)
    images = split(12)
    manifest = save_images(tmp_path / "images.zarr", images.images, images.ids)
    lds = tmp_path / "lds.csv"
    evaluation(20.0).to_csv(lds, index=False)
    names = {"csv": "s.csv", "markdown": "s.md", "latex": "s.tex"}
    outputs = {name: tmp_path / "studies" / file for name, file in names.items()}
    outputs["figure"] = [tmp_path / "studies" / "s.svg"]
    paths = {"train": manifest, "features": train, "kernel": kernel, "evaluation": lds}
    settings = {"study": "self_influence", "settings": {"images": 3}}
    run_script("study_self_influence", settings, {k: str(v) for k, v in paths.items()}, outputs)
    table = pd.read_csv(outputs["csv"])
    wide = features.astype(np.float64)
    inverse = np.linalg.inv(wide.T @ wide + 2.5 * np.eye(dim))  # 2.5: the held-out lambda
    expected = np.einsum("nk,kl,nl->n", wide, inverse, wide)
    assert table["self_influence"].tolist() == pytest.approx(sorted(expected)[::-1], rel=1e-4)
    assert table["row"].tolist() == np.argsort(-expected).tolist()
    assert table["id"].tolist() == images.ids[np.argsort(-expected)].tolist()
    assert table.loc[0, "row"] == 5
    assert (tmp_path / "studies" / "s.png").is_file()
    assert "12 training images" in outputs["markdown"].read_text()


def test_lambda_is_the_held_out_one_of_both_splits_or_a_multiple():
    frame = evaluation(20.0)
    frame.loc[frame["split"] == "generation", "lambda"] = 10.0
    frame.loc[frame["lambda_rule"] == "oracle", "lambda"] = 99.0
    assert chosen_lambda(frame, 4.0) == pytest.approx(5.0)  # the geometric mean of 2.5 and 10
    assert chosen_lambda(frame, 4.0, multiple=0.1) == pytest.approx(0.4)
    with pytest.raises(ConfigurationError, match="no held-out lambda"):
        chosen_lambda(evaluation(20.0, rules=("none",)), 4.0)


def test_both_ends_come_strongest_first():
    train = split(6)
    table = ranked(train, np.array([0.3, 0.9, 0.1, 0.9, 0.2, 0.5]))
    assert table["row"].tolist() == [1, 3, 5, 0, 4, 2]  # equal ones in the order of their rows
    assert table["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    highest, lowest = ends(train, table, 2)
    assert [one.row for one in highest] == [1, 3]
    assert [(one.row, one.rank) for one in lowest] == [(2, 6), (4, 5)]
    assert np.array_equal(lowest[0].image, train.images[2])
    assert lowest[0].label == "2"


def test_the_table_holds_both_ends_once():
    train = split(5, labelled=False)
    table = ranked(train, np.linspace(0.1, 0.9, 5))
    markdown, latex = self_influence_table(table, 3, 2.0, 4.0, "Title")
    lines = [line for line in markdown.splitlines() if line.startswith("|")][2:]
    assert [line.split("|")[1].strip() for line in lines] == ["1", "2", "3", "4", "5"]
    assert lines[0].split("|")[4].strip() == "–"
    assert "λ = 0.5 times" in markdown
    assert "Their mean is 0.5." in latex
