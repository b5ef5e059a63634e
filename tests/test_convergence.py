"""Convergence of the benchmark: against scipy by brute force, costs by hand, sampling theory."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, spearmanr
from scripted import run_script
from study_data import evaluation

from attribution.convergence import (
    Costs,
    Protocol,
    best_predictions,
    ceiling_of,
    cheapest,
    convergence_table,
    evaluate,
    protocols,
    standard_ranks,
    summarise,
)
from attribution.lds import ceiling, score
from attribution.stores import write_store

SHAPE = (10, 3, 2, 4)
FULL = Protocol(*SHAPE)


def benchmark(methods=4, queries=6, seed=0):
    random = np.random.default_rng(seed)
    truth = random.normal(size=(SHAPE[0], 1, 1, 1, queries))
    outputs = truth + random.normal(size=(*SHAPE, queries))
    weights = np.linspace(0, 2, methods)[:, None, None]
    predictions = weights * truth[:, 0, 0, 0] + random.normal(size=(methods, SHAPE[0], queries))
    return predictions, outputs


def mean_spearman(prediction, outputs):
    """LDS in per cent of [subsets, queries] both, query by query with scipy."""
    pairs = zip(prediction.T, outputs.T, strict=True)
    return 100 * np.mean([spearmanr(a, b).statistic for a, b in pairs])


def test_the_full_protocol_is_the_benchmark_itself():
    predictions, outputs = benchmark()
    ((protocol, _, lds, top),) = evaluate(predictions, outputs, [FULL], draws=5)
    mean = outputs.mean((1, 2, 3))
    assert protocol == FULL
    assert lds == pytest.approx([mean_spearman(one, mean) for one in predictions])
    assert lds == pytest.approx([score(one, mean) for one in predictions])
    assert top == pytest.approx(ceiling(outputs.mean((2, 3))))


def test_a_part_is_evaluated_as_that_part_alone():
    """Every draw is one of the possible choices, computed here by brute force over all of them."""
    predictions, outputs = benchmark(methods=3)
    wanted = Protocol(subsets=9, seeds=1, noises=1, groups=2)
    possible = [
        [
            mean_spearman(
                np.delete(one, left_out, 0),
                np.delete(outputs, left_out, 0)[:, seed, noise, start::2].mean(1),
            )
            for one in predictions
        ]
        for left_out in range(10)
        for seed in range(3)
        for noise in range(2)
        for start in range(2)
    ]
    found = list(evaluate(predictions, outputs, [wanted], draws=8))
    assert [draw for _, draw, _, _ in found] == list(range(8))
    for _, _, lds, _ in found:
        assert np.isclose(possible, lds).all(1).any()
    assert len({round(lds[0], 9) for _, _, lds, _ in found}) > 3


def test_ties_and_constants_are_ranked_as_scipy_does():
    values = np.array([[1.0, 2.0, 7.0], [1.0, 2.0, 5.0], [3.0, 2.0, 6.0], [2.0, 2.0, 1.0]])
    other = np.array([2.0, 2.0, 9.0, 4.0])
    ranks = standard_ranks(values)
    mine = standard_ranks(other[:, None])
    assert (ranks[:, 0] * mine[:, 0]).sum() == pytest.approx(
        spearmanr(values[:, 0], other).statistic
    )
    assert ranks[:, 1].tolist() == [0, 0, 0, 0]


def test_the_ceiling_of_fewer_seeds_is_spearman_browns():
    outputs = benchmark(seed=3)[1].mean((2, 3))
    mean_correlation = (ceiling(outputs) / 100) ** 2  # of three seeds
    single = mean_correlation / (3 - 2 * mean_correlation)
    assert ceiling_of(ceiling(outputs), 3, 1) == pytest.approx(100 * np.sqrt(single))
    assert ceiling_of(ceiling(outputs), 3, 3) == pytest.approx(ceiling(outputs))
    pairs = [(a, b) for a in range(3) for b in range(a)]
    by_hand = np.mean([mean_spearman(outputs[:, a], outputs[:, b]) for a, b in pairs]) / 100
    assert single == pytest.approx(by_hand)
    assert np.isnan(ceiling_of(float("nan"), 2, 1))


def test_costs_are_by_model_and_by_pass():
    costs = Costs(training=600.0, evaluation=400.0)
    assert costs.of(FULL, FULL) == 1000
    assert costs.of(Protocol(5, 3, 2, 4), FULL) == 500
    assert costs.of(Protocol(10, 1, 2, 4), FULL) == pytest.approx(1000 / 3)
    assert costs.of(Protocol(10, 3, 1, 1), FULL) == 600 + 400 / 8


def test_protocols_keep_evenly_spaced_groups():
    found = protocols(FULL, [2, 5, 10, 64])
    assert {one.subsets for one in found} == {5, 10}
    assert {one.groups for one in found} == {1, 2, 4}
    assert len(found) == 2 * 3 * 2 * 3
    assert FULL in found


def test_the_summary_is_by_hand():
    part = Protocol(5, 1, 2, 4)
    truth = np.array([10.0, 20.0, 30.0])
    results = [
        (FULL, 0, truth, 60.0),
        (part, 0, np.array([11.0, 21.0, 24.0]), 50.0),
        (part, 1, np.array([9.0, 8.0, 26.0]), 40.0),
    ]
    errors = np.array([1.0, 9.0, 5.0])
    whole, single = summarise(results, FULL, errors, Costs(600.0, 400.0))
    one = whole[whole["subsets"] == 5].iloc[0]
    assert one["cost"] == pytest.approx(1 / 6)
    deviations = [1.0, np.sqrt((1 + 144) / 2), np.sqrt((36 + 16) / 2)]
    assert one["deviation_over_error"] == pytest.approx(max(np.array(deviations) / errors))
    assert not one["keeps_all"]
    taus = [kendalltau([11, 21, 24], truth).statistic, kendalltau([9, 8, 26], truth).statistic]
    assert one["tau"] == pytest.approx(np.mean(taus))
    assert one["lds_ratio"] == pytest.approx((56 / 3 + 43 / 3) / 2 / 20)
    scaled = np.array([[11, 21, 24], [9, 8, 26]]) / np.array([[50], [40]]) * 60
    worst = np.sqrt(((scaled - truth) ** 2).mean(0)) / errors
    assert one["scaled_over_error"] == pytest.approx(worst.max())
    mine = single[(single["subsets"] == 5)].set_index("method")
    assert mine["deviation"].tolist() == pytest.approx(deviations)
    assert mine["keeps"].tolist() == [True, True, False]
    assert mine.loc[0, "lds_over_ceiling"] == pytest.approx(100 * (11 / 50 + 9 / 40) / 2)
    assert whole.loc[whole["subsets"] == 10, "keeps_all"].all()


def test_half_of_the_subsets_deviate_by_one_error_of_the_full_ones():
    """The claim of the docstring: std of (half - full) is that of the full LDS over populations."""
    random = np.random.default_rng(0)
    halves, fulls = [], []
    for _ in range(60):
        truth = random.normal(size=(24, 30))
        outputs = (truth + random.normal(size=(24, 30)))[:, None, None, None]
        prediction = (0.5 * truth + random.normal(size=(24, 30)))[None]
        half, full = Protocol(12, 1, 1, 1), Protocol(24, 1, 1, 1)
        found = {one: lds[0] for one, _, lds, _ in evaluate(prediction, outputs, [half, full], 1)}
        halves.append(found[half] - found[full])
        fulls.append(found[full])
    assert np.std(halves) == pytest.approx(np.std(fulls), rel=0.4)


def test_the_cheapest_protocol_keeps_every_method_on_every_split():
    place = {"subsets": [8, 8, 4, 4], "seeds": 1, "noises": 1, "groups": 1}
    frame = pd.DataFrame(
        {**place, "split": ["a", "b"] * 2, "cost": [1.0, 1.0, 0.5, 0.5],
         "keeps_all": [True, True, True, False]}
    )  # fmt: skip
    assert cheapest(frame)["subsets"] == 8
    assert cheapest(frame.assign(keeps_all=True))["subsets"] == 4
    assert cheapest(frame.assign(keeps_all=False)) is None


def test_lambda_is_the_best_on_the_whole_benchmark():
    predictions, outputs = benchmark(methods=4)
    mean = outputs.mean((1, 2, 3))
    best = int(np.argmax([score(one, mean) for one in predictions]))
    assert np.array_equal(best_predictions(predictions, outputs), predictions[best])
    assert np.array_equal(best_predictions(predictions[:1], outputs), predictions[0])


def test_the_table_names_what_is_saved():
    predictions, outputs = benchmark()
    results = list(evaluate(predictions, outputs, protocols(FULL, [5]), 3))
    whole, _ = summarise(results, FULL, np.full(4, 20.0), Costs(600.0, 400.0))
    markdown, latex = convergence_table(whole.assign(split="validation"), 100, "How small?")
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert names[:2] == ["full", "fewer subsets"]
    assert names.count("fewer timesteps") == 2
    assert lines[2].split("|")[2:7] == [" 10 ", " 3 ", " 2 ", " 100 ", " 100.0 "]
    assert "The cheapest protocol that keeps all:" in markdown
    assert latex.count(r"\\") == len(lines) - 1


def test_a_benchmark_of_noise_has_no_ceiling_and_still_a_table():
    random = np.random.default_rng(0)
    outputs = random.normal(size=(6, 2, 1, 2, 3))
    outputs[:, 1] = -outputs[:, 0]  # two seeds that contradict each other
    full = Protocol(6, 2, 1, 2)
    predictions = np.stack([np.zeros((6, 3)), random.normal(size=(6, 3))])
    results = list(evaluate(predictions, outputs, protocols(full, [4]), 2))
    whole, _ = summarise(results, full, np.array([0.0, 5.0]), Costs(1.0, 1.0))
    assert whole["ceiling"].isna().all()
    assert whole["deviation_over_error"].notna().all()
    markdown, _ = convergence_table(whole.assign(split="validation"), 10, "How small?")
    assert "nan" not in markdown
    assert "No cheaper protocol keeps all of LDS ÷ ceiling." in markdown


def test_the_script_reads_stores_and_weighs_what_they_cost(tmp_path):
    predictions, outputs = benchmark(methods=2)
    names = ("subsets", "seeds", "noises", "timestep_groups", "queries")
    models = tmp_path / "models"
    for subset in range(2):
        folder = models / f"subset-{subset:04d}"
        folder.mkdir(parents=True)
        made = {"kind": "model", "made": {"seconds": 300.0}}
        (folder / "manifest.json").write_text(json.dumps(made))
    (models / "0-1.json").write_text(json.dumps({"models": {"0": "", "1": ""}}))
    inputs = {"models": [str(models / "0-1.json")], "outputs": [], "predictions": []}
    inputs["evaluations"] = []
    for split in ("validation", "generation"):
        store = tmp_path / "outputs" / f"{split}.zarr"
        write_store(store, "outputs", {}, {"outputs": (names, outputs)}, "again")
        inputs["outputs"].append(str(store / "manifest.json"))
        for number in range(2):
            store = tmp_path / "predictions" / f"m{number}" / f"{split}.zarr"
            values = np.stack(
                [np.zeros_like(predictions), predictions[number : number + 1].repeat(2, 0)]
            )
            dimensions = ("readouts", "lambdas", "subsets", "queries")
            write_store(
                store, "predictions", {}, {"predictions": (dimensions, values)}, "again",
                row=f"m{number}", split=split, readouts=["square", "linear"],
            )  # fmt: skip
            inputs["predictions"].append(str(store / "manifest.json"))
    for number in range(2):
        path = tmp_path / "evaluations" / f"m{number}" / "lds.csv"
        path.parent.mkdir(parents=True)
        evaluation(10.0).to_csv(path, index=False)
        inputs["evaluations"].append(str(path))
    files = {"csv": "c.csv", "methods": "c_methods.csv", "markdown": "c.md", "latex": "c.tex"}
    settings = {
        "study": "convergence",
        "rows": [
            [f"m{number}", {"label": f"Method {number}", "timesteps": None}] for number in range(2)
        ],
        "settings": {"subsets": [5], "draws": 2},
        "outputs": {"timesteps": 8},
    }
    run_script(
        "study_convergence", settings, inputs,
        {name: tmp_path / "studies" / file for name, file in files.items()}
        | {"figure": [tmp_path / "studies" / "c.svg"]},
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "studies" / "c_methods.csv")
    full = table[(table["subsets"] == 10) & (table["seeds"] == 3) & (table["groups"] == 4)]
    full = full[(full["noises"] == 2) & (full["split"] == "generation")].set_index("row")
    mean = outputs.mean((1, 2, 3))
    for number in range(2):
        expected = mean_spearman(predictions[number], mean)
        assert full.loc[f"m{number}", "lds"] == pytest.approx(expected, rel=1e-4)
    assert (tmp_path / "studies" / "c.png").is_file()
    whole = pd.read_csv(tmp_path / "studies" / "c.csv")
    half = whole[(whole["subsets"] == 5) & (whole["seeds"] == 3) & (whole["noises"] == 2)]
    assert half[half["groups"] == 4]["cost"].tolist() == pytest.approx([0.5, 0.5])
