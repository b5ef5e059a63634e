"""Predicted outputs by brute force, from whole matrices and from pieces; the jobs that do it."""

import importlib.util
import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from snakemake.iocontainers import InputFiles, OutputFiles

from attribution.errors import ConfigurationError, StoreError
from attribution.kernels import decompose
from attribution.predictions import from_pieces, from_scores, predicted_outputs
from attribution.readouts import ELEMENTWISE, READOUTS
from attribution.stores import Reader, write_store

ROOT = Path(__file__).resolve().parent.parent
RANDOM = np.random.default_rng(0)
LAMBDAS, QUERIES, IMAGES, SUBSETS = 3, 4, 17, 6
SCORES = RANDOM.normal(size=(LAMBDAS, QUERIES, IMAGES))
MASKS = RANDOM.random((SUBSETS, IMAGES)) < 0.5


class SlicesOnly:
    """An array that is read by leading slices of one, as the matrices of a store are."""

    def __init__(self, values: np.ndarray):
        self.values, self.shape = values, values.shape

    def __getitem__(self, rows: slice) -> np.ndarray:
        assert rows.stop - rows.start == 1
        return self.values[rows]


def pieces(width: int) -> Any:
    """The scores as a method yields them: all lambdas of a block, then the next block."""
    for start in range(0, IMAGES, width):
        for index in range(LAMBDAS):
            columns = slice(start, min(start + width, IMAGES))
            yield index, columns, SCORES[index, :, columns]


def of_one(readout: str, row: np.ndarray, image: int, kappa: float) -> float:
    t = row[image]
    if readout == "top_fraction":
        kept = sorted(range(IMAGES), key=lambda other: -row[other])[: max(1, round(kappa * IMAGES))]
        return t if image in kept else 0.0
    return {"linear": t, "square": t * t, "signed_square": t * abs(t)}[readout]


def by_loops(scores: np.ndarray, masks: np.ndarray, readouts: Any, kappa: float) -> np.ndarray:
    expected = np.zeros((len(readouts), len(scores), len(masks), scores.shape[1]))
    for place, index, subset, query in product(*map(range, expected.shape)):
        row = scores[index, query]
        inside = [image for image in range(len(row)) if masks[subset, image]]
        readout = readouts[place]
        total = sum(of_one(readout, row, image, kappa) for image in inside)
        expected[place, index, subset, query] = -total
    return expected


def test_predictions_are_minus_the_sum_over_the_subset():
    expected = by_loops(SCORES, MASKS, READOUTS, 0.25)
    computed = from_scores(SlicesOnly(SCORES), MASKS, READOUTS, 0.25)
    np.testing.assert_allclose(computed, expected, atol=1e-12)
    np.testing.assert_array_equal(computed[0, 1], predicted_outputs(MASKS, SCORES[1]))


@pytest.mark.parametrize("width", [1, 5, 17])
def test_pieces_give_the_predictions_of_the_whole_matrix(width: int):
    computed = from_pieces(pieces(width), MASKS, (LAMBDAS, QUERIES), list(ELEMENTWISE))
    np.testing.assert_allclose(
        computed, from_scores(SCORES, MASKS, list(ELEMENTWISE)), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        computed, by_loops(SCORES, MASKS, list(ELEMENTWISE), 1.0), atol=1e-12
    )


def test_a_readout_that_needs_whole_rows_does_not_take_pieces():
    with pytest.raises(AssertionError, match="top_fraction"):
        from_pieces(pieces(5), MASKS, (LAMBDAS, QUERIES), ["linear", "top_fraction"])


# The jobs, on stores made by hand: two stored feature sets a and b, a combination of both, a pool.

PROJECTION = {"kind": "count_sketch", "source_dim": 100, "dim": 6, "seed": 0}
GRID = [0.01, 1.0]
EXPERIMENT = Path("results/small")
FEATURES: dict[str, Any] = {
    "a": {"function": "simple"},
    "b": {"function": "square"},
    "mix": {"combine": {"a": 0.5, "b": 2.0}},
}


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """The stores of a small experiment, in the folder where snakemake would run; their values."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(1)
    made: dict[str, np.ndarray] = {}

    def write(place: str, kind: str, dims: dict[str, tuple[str, ...]], **content: Any) -> None:
        named = {name: (axes, made[f"{place}/{name}"]) for name, axes in dims.items()}
        write_store(EXPERIMENT / f"{place}.zarr", kind, {}, named, "make it", **content)

    for split, images in (("train", IMAGES), ("validation", QUERIES)):
        made[f"data/{split}/images"] = random.integers(0, 256, (images, 1, 2, 2), np.uint8)
        write(f"data/{split}", "images", {"images": ("images", "channels", "height", "width")})
        for name in ("a", "b"):
            place = f"features/{name}/{split}"
            made[f"{place}/features"] = random.normal(size=(images, 6)).astype(np.float32)
            made[f"{place}/ids"] = np.arange(images)
            made[f"{place}/residuals"] = random.uniform(1, 2, images).astype(np.float32)
            axes = {"features": ("images", "k"), "ids": ("images",), "residuals": ("images",)}
            write(place, "features", axes, projection=PROJECTION)
    for name, masks in (("subsets", MASKS), ("pool", random.random((12, IMAGES)) < 0.5)):
        made[f"data/{name}/masks"] = masks
        write(f"data/{name}", name, {"masks": ("subsets", "images")})
    made["outputs/pool/validation/outputs"] = random.normal(size=(12, 1, 2, 3, QUERIES))
    axes = ("subsets", "seeds", "noises", "timestep_groups", "queries")
    write("outputs/pool/validation", "outputs", {"outputs": axes})
    return made


def decomposed(name: str, arrays: dict[str, np.ndarray]) -> str:
    kernel = decompose(arrays[f"features/{name}/train/features"])
    write_store(
        EXPERIMENT / f"kernels/{name}.zarr",
        "kernel",
        {},
        {
            "eigenvalues": (("eigenvalues",), kernel.eigenvalues.numpy()),
            "eigenvectors": (("rows", "eigenvalues"), kernel.eigenvectors.numpy()),
            "feature_norms": (("images",), kernel.feature_norms.numpy()),
        },
        "make it",
        form=kernel.kind,
        mean_eigenvalue=kernel.mean_eigenvalue,
        shape=list(kernel.shape),
        projection=PROJECTION,
    )
    return manifest(f"kernels/{name}")


def manifest(place: str) -> str:
    return str(EXPERIMENT / f"{place}.zarr" / "manifest.json")


def input_files(named: dict[str, str | list[str]]) -> InputFiles:
    """Snakemake's inputs: one flat list, parts of which have names."""
    files = InputFiles()
    for name, paths in named.items():
        start = len(files)
        files.extend([paths] if isinstance(paths, str) else paths)
        files._set_name(name, start, end=None if isinstance(paths, str) else len(files))
    return files


def run(script: str, output: str, settings: dict[str, Any], **inputs: Any) -> Reader:
    """Run a job's script as the workflow does, from the folder of the results."""
    spec = importlib.util.spec_from_file_location(script, ROOT / f"workflow_scripts/{script}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = "validation" if script == "predict_variant" else "manifest"
    module.main(
        SimpleNamespace(
            input=input_files(inputs),
            output=OutputFiles(fromdict={written: manifest(output)}),
            wildcards=SimpleNamespace(
                experiment="small", method="mine", variant="other__row", split="validation"
            ),
            params=SimpleNamespace(code="abc", settings=json.dumps(settings)),
        )
    )
    return Reader(EXPERIMENT / f"{output}.zarr")


def settings(method: dict[str, Any], unit: str = "mean_eigenvalue") -> dict[str, Any]:
    compute = {"device": "cpu", "threads": 1, "tf32": False}
    kernel = {"unit": unit, "lambdas": GRID}
    return {"compute": compute, "method": method, "features": FEATURES, "kernel": kernel}


def feature_inputs(*names: str) -> dict[str, list[str]]:
    return {
        "train": [manifest(f"features/{name}/train") for name in names],
        "queries": [manifest(f"features/{name}/validation") for name in names],
    }


def both(name: str, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Queries and training features of a set, float64."""
    if name == "mix":
        (qa, ta), (qb, tb) = both("a", arrays), both("b", arrays)
        return 0.5 * qa + 2 * qb, 0.5 * ta + 2 * tb
    values = (arrays[f"features/{name}/{split}/features"] for split in ("validation", "train"))
    return tuple(one.astype(np.float64) for one in values)


def by_inverse(queries: np.ndarray, train: np.ndarray) -> np.ndarray:
    unit = (train**2).sum(1).mean()
    ridges = [train.T @ train + lam * unit * np.eye(6) for lam in GRID]
    return np.array([queries @ np.linalg.inv(ridge) @ train.T for ridge in ridges])


@pytest.mark.parametrize("stored", [True, False])
def test_a_job_scores_with_a_decomposition_of_its_own_or_a_stored_one(
    arrays: dict[str, np.ndarray], stored: bool
):
    kernels = [decomposed("a", arrays)]
    entry = {"function": "kernel", "features": "a", "sets": [["a", "a"]]}
    more = {"kernels": kernels} if stored else {}
    store = run(
        "score_method", "scores/mine/validation", settings(entry), **feature_inputs("a"), **more
    )
    queries, train = both("a", arrays)
    np.testing.assert_allclose(store.read("scores"), by_inverse(queries, train), rtol=1e-4)
    unit = (train**2).sum(1).mean()
    np.testing.assert_allclose(store.read("lambdas"), np.array(GRID) * unit)
    assert store.manifest["kind"] == "scores"
    assert store.manifest["mean_eigenvalue"] == pytest.approx(unit)
    assert (store.manifest["method"], store.manifest["split"]) == ("mine", "validation")
    assert store.manifest["projection"] == PROJECTION
    read = set(store.manifest["spec"]["inputs"])
    assert read == {
        path for paths in [*feature_inputs("a").values(), *more.values()] for path in paths
    }


def test_a_job_scores_the_mean_of_stored_and_combined_sets(arrays: dict[str, np.ndarray]):
    kernels = [decomposed("a", arrays)]
    entry = {"function": "kernel", "features": "a", "sets": [["a", "b"], ["mix", "mix"]]}
    inputs = {**feature_inputs("a", "b"), "kernels": kernels}
    store = run("score_method", "scores/mine/validation", settings(entry), **inputs)
    first = by_inverse(both("b", arrays)[0], both("a", arrays)[1])
    expected = (first + by_inverse(*both("mix", arrays))) / 2
    np.testing.assert_allclose(store.read("scores"), expected, rtol=1e-3, atol=1e-5)
    unit = store.manifest["mean_eigenvalue"]
    np.testing.assert_allclose(store.read("lambdas") / unit, GRID)


def test_a_job_hands_das_its_residuals(arrays: dict[str, np.ndarray]):
    entry = {"function": "das", "features": "a", "sets": [["a", "a"]], "leverage": False}
    store = run("score_method", "scores/mine/validation", settings(entry), **feature_inputs("a"))
    expected = by_inverse(*both("a", arrays)) * arrays["features/a/train/residuals"]
    np.testing.assert_allclose(store.read("scores"), expected, rtol=1e-4)


def test_a_job_scores_images_and_the_pool(arrays: dict[str, np.ndarray]):
    paths = {"train": manifest("data/train"), "queries": manifest("data/validation")}
    store = run(
        "score_method",
        "scores/dot/validation",
        settings({"function": "raw_pixel_dot", "sets": []}),
        **paths,
    )
    train, queries = (
        arrays[f"data/{split}/images"].reshape(-1, 4) / 127.5 - 1
        for split in ("train", "validation")
    )
    np.testing.assert_allclose(store.read("scores")[0], queries @ train.T, rtol=1e-4, atol=1e-5)
    assert np.isnan(store.read("lambdas")).all()
    assert store.manifest["mean_eigenvalue"] is None
    pool = {"masks": manifest("data/pool"), "outputs": manifest("outputs/pool/validation")}
    entry = {"function": "empirical_influence", "sets": [], "models": 8}
    store = run("score_method", "scores/empirical/validation", settings(entry), **pool)
    outputs = arrays["outputs/pool/validation/outputs"].mean((1, 2, 3))[:8]
    masks = arrays["data/pool/masks"][:8]
    image = int(np.flatnonzero(masks.any(0) & ~masks.all(0))[0])
    inside = masks[:, image]
    expected = outputs[~inside].mean(0) - outputs[inside].mean(0)
    np.testing.assert_allclose(store.read("scores")[0, :, image], expected, rtol=1e-5)


def test_a_job_runs_a_function_of_the_user_s_file(arrays: dict[str, np.ndarray]):
    Path("mine.py").write_text(
        "def score(inputs):\n"
        "    return inputs.options['weight'] * inputs.query_rows @ inputs.train[0:17].T\n"
    )
    entry = {
        "function": "mine:score",
        "features": "b",
        "sets": [["b", "b"]],
        "options": {"weight": 3},
    }
    store = run("score_method", "scores/mine/validation", settings(entry), **feature_inputs("b"))
    queries, train = both("b", arrays)
    np.testing.assert_allclose(store.read("scores")[0], 3 * queries @ train.T, rtol=1e-4, atol=1e-5)


def test_features_of_different_projections_do_not_meet(arrays: dict[str, np.ndarray]):
    place = EXPERIMENT / "features/a/validation.zarr/manifest.json"
    content = json.loads(place.read_text())
    content["projection"]["seed"] = 1
    place.write_text(json.dumps(content))
    entry = {"function": "gradient_dot", "features": "a", "sets": [["a", "a"]]}
    with pytest.raises(StoreError, match="were not projected alike"):
        run("score_method", "scores/mine/validation", settings(entry), **feature_inputs("a"))


def test_predictions_of_scores_and_of_a_variant_are_the_same(arrays: dict[str, np.ndarray]):
    """The two ways to a store of predictions: through stored scores, and past them."""
    entry = {"function": "kernel", "features": "a", "sets": [["a", "a"], ["b", "b"]]}
    inputs, chosen = feature_inputs("a", "b"), settings(entry)
    subsets = manifest("data/subsets")
    scored = run("score_method", "scores/mine/validation", chosen, **inputs)
    evaluation = {"readouts": list(READOUTS), "top_fraction": 0.25}
    stored = run(
        "predict_outputs",
        "predictions/mine/validation",
        {"evaluation": evaluation},
        scores=manifest("scores/mine/validation"),
        subsets=subsets,
    )
    variant = run(
        "predict_variant", "predictions/other__row/validation", chosen, **inputs, subsets=subsets
    )
    expected = by_loops(scored.read("scores"), MASKS, READOUTS, 0.25)
    np.testing.assert_allclose(stored.read("predictions"), expected, rtol=1e-5, atol=1e-6)
    assert stored.read("predictions").dtype == np.float32
    both_have = [READOUTS.index(readout) for readout in variant.manifest["readouts"]]
    assert variant.manifest["readouts"] == ["linear", "signed_square"]
    np.testing.assert_allclose(
        variant.read("predictions"), stored.read("predictions")[both_have], rtol=1e-4, atol=1e-5
    )
    for store, row in ((stored, "mine"), (variant, "other__row")):
        assert store.manifest["kind"] == "predictions"
        assert (store.manifest["row"], store.manifest["split"]) == (row, "validation")
        assert store.manifest["mean_eigenvalue"] == scored.manifest["mean_eigenvalue"]
        np.testing.assert_array_equal(store.read("lambdas"), scored.read("lambdas"))
    assert not (EXPERIMENT / "scores/other__row").exists()


def test_too_many_models_of_the_pool_are_refused(arrays: dict[str, np.ndarray]):
    pool = {"masks": manifest("data/pool"), "outputs": manifest("outputs/pool/validation")}
    entry = {"function": "datamodel", "sets": [], "models": 13}
    with pytest.raises(ConfigurationError, match="13 models are asked for, and the pool has 12"):
        run("score_method", "scores/datamodel/validation", settings(entry), **pool)
