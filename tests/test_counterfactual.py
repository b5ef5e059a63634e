"""Counterfactual evaluation: who is removed, and what distances mean."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scripted import run_script, save_images
from sklearn.model_selection import train_test_split
from small_network import DIFFUSION, network, network_settings

from attribution.counterfactual import (
    RANDOM,
    RESEEDED,
    SAME_CLASS,
    chosen_queries,
    classes_of,
    compare,
    cosine,
    draw_cases,
    l2,
    network_features,
    summarise,
)
from attribution.counterfactual_figures import counterfactual_tables, plot_counterfactual
from attribution.diffusion import schedule
from attribution.errors import ConfigurationError
from attribution.images import Split
from attribution.models import load
from attribution.randomness import normal
from attribution.stores import write_store

torch.set_num_threads(1)
LABELS = np.array([0, 1, 0, 1, 0, 1, 0, 1, 2, 2])
SETTINGS = {
    "queries": 2,
    "query_seed": 42,
    "methods": ["m"],
    "removed": [3],
    "controls": [RESEEDED, RANDOM, SAME_CLASS],
    "reseeded": 2,
    "steps": [],
    "seed": 0,
}
BOOTSTRAP = {"interval_resamples": 400, "confidence": 0.95, "seed": 1}


def test_queries_are_those_of_the_authors_code():
    expected = train_test_split(list(range(1000)), test_size=60, random_state=42)[1]
    found = chosen_queries(1000, {"queries": 60, "query_seed": 42}).tolist()
    assert found == expected
    assert (found[:5], found[-1]) == ([521, 737, 740, 660, 411], 820)  # published with the code
    zero = chosen_queries(1000, {"queries": 60, "query_seed": 0}).tolist()
    assert (zero[:5], zero[-1]) == ([993, 859, 298, 553, 672], 319)
    with pytest.raises(ConfigurationError, match="one must be left over"):
        chosen_queries(60, {"queries": 60, "query_seed": 0})


def test_a_method_removes_its_highest_scores_and_equal_sets_are_trained_once():
    scores = np.zeros((4, 10))
    scores[1, [7, 2, 5]] = [3.0, 2.0, 1.0]
    scores[3, [7, 2, 5]] = [1.0, 2.0, 3.0]  # the same set in another order
    rows, classes = np.array([1, 3]), np.array([0, 2])
    cases, kept, seeds = draw_cases(rows, classes, LABELS, {"m": scores}, SETTINGS, 42, 1000)
    by = {(case.what, case.query, case.model): case for case in cases}
    assert len(by) == len(cases)
    of_method = [case for case in cases if case.what == "m"]
    assert len({case.model for case in of_method}) == 1
    assert np.flatnonzero(~kept[of_method[0].model]).tolist() == [2, 5, 7]
    assert (kept.sum(1) == np.array([10 if seed != 42 else 7 for seed in seeds])).all()
    reseeded = [case for case in cases if case.what == RESEEDED]
    assert sorted({seeds[case.model] for case in reseeded}) == [43, 44]
    assert len(reseeded) == 2 * 2
    (own,) = [case for case in cases if case.what == SAME_CLASS]  # class 2 has two images only
    assert own.query == 1
    assert set(LABELS[~kept[own.model]]) == {0}
    drawn = [np.flatnonzero(~kept[case.model]) for case in cases if case.what == RANDOM]
    assert len(drawn) == 2
    again, *_ = draw_cases(rows, classes, LABELS, {"m": scores}, SETTINGS, 42, 1000)
    assert again == cases
    assert {case.start for case in cases} == {1000}


def test_a_step_has_methods_of_its_own_and_shares_the_models_of_the_others():
    random = np.random.default_rng(0)
    scores = {"m": random.normal(size=(4, 10)), "at_step": random.normal(size=(4, 10))}
    rows, classes = np.array([1, 3]), np.array([0, 1])
    steps = [{"timestep": 400, "queries": 1, "methods": ["at_step"]}]
    settings = {**SETTINGS, "steps": steps}
    cases, kept, _ = draw_cases(rows, classes, LABELS, scores, settings, 42, 1000)
    whole = {(case.what, case.query): case for case in cases if case.start == 1000}
    at_step = {case.what: case for case in cases if case.start == 400}
    assert {what for what, _ in whole} == {RESEEDED, RANDOM, SAME_CLASS, "m"}
    assert set(at_step) == {RESEEDED, RANDOM, SAME_CLASS, "m", "at_step"}
    assert {case.query for case in at_step.values()} == {1}
    for what in (RANDOM, SAME_CLASS, "m"):
        assert at_step[what].model == whole[what, 1].model
    removed = np.flatnonzero(~kept[at_step["at_step"].model])
    assert set(removed) == set(np.argsort(-scores["at_step"][1])[:3])
    assert len(kept) == 2 + 3 * 2 + 1


def split(images: np.ndarray, labels: np.ndarray) -> Split:
    names = [str(row) for row in range(len(images))]
    return Split(images, labels, np.arange(len(images)), names, ["0", "1"])


def test_the_class_of_a_generated_image_is_that_of_its_neighbours():
    random = np.random.default_rng(0)
    dark, light = random.integers(0, 60, (20, 1, 4, 4)), random.integers(190, 256, (20, 1, 4, 4))
    train = split(np.concatenate([dark, light]).astype(np.uint8), np.repeat([0, 1], 20))
    asked = np.stack([np.full((1, 4, 4), 220), np.full((1, 4, 4), 20)]).astype(np.uint8)
    queries = split(asked, np.array([-1, -1]))
    assert classes_of(queries, train, np.array([0, 1])).tolist() == [1, 0]
    assert classes_of(split(asked, np.array([0, 1])), train, np.array([1])).tolist() == [1]
    unlabelled = split(train.images, np.full(40, -1))
    assert classes_of(queries, unlabelled, np.array([0])).tolist() == [-1]


def test_distances_by_hand():
    first, second = np.zeros((2, 1, 2, 2)), np.zeros((2, 1, 2, 2))
    second[0], second[1, 0, 0, 0] = 1.0, -3.0
    np.testing.assert_allclose(l2(first, second), [2.0, 3.0])
    np.testing.assert_allclose(
        cosine(np.array([[1.0, 0], [3, 4]]), np.array([[1.0, 1], [3, 4]])), [2**-0.5, 1]
    )


@torch.no_grad()  # in inference mode the network, which other tests share, would be made for it
def test_the_networks_features_are_its_middle_block():
    model, levels = network(8), schedule(DIFFUSION).alphas_cumprod
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    found = network_features(model, levels, images, batch=2)
    noise = torch.from_numpy(normal((1, 8, 8), "counterfactual features", 100))
    hidden = model.conv_in(levels[100].sqrt() * images + (1 - levels[100]).sqrt() * noise)
    time = model.time_embedding(model.time_proj(torch.tensor([100, 100, 100])))
    for block in model.down_blocks:
        hidden, _ = block(hidden, time)
    expected = model.mid_block(hidden, time).flatten(1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_with_nothing_removed_the_base_s_seed_gives_the_base_model(tmp_path: Path):
    """So that what a removal changes is due to the removal, and not to how models are trained."""
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 8, 8), dtype=np.uint8)
    train = save_images(tmp_path / "train.zarr", images, np.arange(12))
    training = {
        "epochs": 3, "batch_size": 5, "learning_rate": 0.01, "betas": [0.9, 0.99], "epsilon": 1e-8,
        "weight_decay": 0.0, "warmup_fraction": 0.1, "gradient_clip": 1.0, "dropout": 0.1,
        "flip": True, "caption_dropout": 0.0, "accumulation": 1,
    }  # fmt: skip
    settings = {"model": network_settings(8), "diffusion": DIFFUSION, "training": training}
    base = {**settings, "training": {**training, "seed": 7, "checkpoints": 2}}
    scratch = {"scratch": str(tmp_path / "scratch")}
    made = {"manifest": tmp_path / "base/manifest.json"}
    run_script("train_base", base, {"train": train}, made, scratch)
    masks = np.array([np.ones(12, bool), np.arange(12) != 3, np.ones(12, bool)])
    arrays = {"masks": (("models", "images"), masks), "seeds": (("models",), np.array([7, 7, 8]))}
    write_store(tmp_path / "cases.zarr", "counterfactual cases", {}, arrays, "make it")
    given = {"train": train, "cases": tmp_path / "cases.zarr/manifest.json"}
    part = {"part": tmp_path / "models/0-of-1.json"}
    run_script("retrain_cases", settings, given, part, scratch, number="0", of="1")
    original = load(tmp_path / "base", torch.device("cpu")).state_dict()
    for model, same in enumerate([True, False, False]):
        again = load(tmp_path / f"models/model-{model:04d}", torch.device("cpu")).state_dict()
        assert all(torch.equal(again[name], original[name]) for name in original) == same


def cases_by_hand() -> pd.DataFrame:
    rows = []
    for query in range(30):
        for what, removed, distance in (
            (RESEEDED, 0, 1 + 0.01 * query),
            (RESEEDED, 0, 3 + 0.01 * query),
            (RANDOM, 5, 2.5 + 0.02 * query),
            ("m", 5, 4.0 + 0.02 * query),
        ):
            rows.append((query, what, removed, distance, 0.5, np.nan))
    return pd.DataFrame(rows, columns=["query", "what", "removed", "l2", "features", "clip"])


def test_means_medians_and_paired_differences():
    frame = cases_by_hand()
    summary = summarise(frame, BOOTSTRAP).set_index(["what", "measure"])
    queries = np.arange(30)
    np.testing.assert_allclose(summary.loc[(RESEEDED, "l2"), "mean"], 2 + 0.01 * queries.mean())
    np.testing.assert_allclose(summary.loc[("m", "l2"), "median"], 4 + 0.02 * np.median(queries))
    assert "clip" not in summary.index.get_level_values("measure")
    low, high = summary.loc[("m", "l2"), ["mean_low", "mean_high"]]
    standard = 0.02 * queries.std() / 30**0.5
    assert high - low == pytest.approx(2 * 1.96 * standard, rel=0.2)
    found = compare(frame, BOOTSTRAP).set_index(["what", "against", "measure"])
    pair = found.loc[("m", RANDOM, "l2")]
    np.testing.assert_allclose([pair["difference"], pair["ci_low"], pair["ci_high"]], 1.5)
    noise = found.loc[("m", RESEEDED, "l2")]
    np.testing.assert_allclose(noise["difference"], 2 + 0.01 * queries.mean())


def test_tables_and_boxes_name_everything():
    frame = cases_by_hand()
    summary, differences = summarise(frame, BOOTSTRAP), compare(frame, BOOTSTRAP)
    labels = {"m": "D-TRAK"}
    markdown, latex = counterfactual_tables(summary, differences, labels, ["No CLIP."], 0.95)
    for text in ("D-TRAK", "random images", "nothing, another seed", "No CLIP.", "+1.5 \\["):
        assert text in markdown
    assert r"\toprule" in latex
    figure = plot_counterfactual(frame, labels)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["nothing, another seed", "random images", "D-TRAK"]
    assert len(figure.axes) == 2  # there is no CLIP
