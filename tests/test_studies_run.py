"""Studies, counterfactuals and the full report of the smoke experiment, made as a user would."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import workflow_copy
from workflow_copy import configuration

from attribution.configuration import load_experiments
from attribution.counterfactual import RANDOM, RESEEDED, SAME_CLASS
from attribution.expansion import obstacle
from attribution.report import markdown_blocks
from attribution.studies import STUDIES

STUDIES_OF_SMOKE = Path("results/smoke/studies")
OPTIONS = ("--config", "run=[smoke]")
EVERYTHING = ("studies", "counterfactual", "full_report")


@pytest.fixture(scope="module")
def studied(smoke: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished smoke run in which everything else ran as well."""
    root = workflow_copy.clone(smoke, tmp_path_factory.mktemp("studied") / "copy")
    workflow_copy.succeed(root, *EVERYTHING, *OPTIONS)
    return root


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_leaves_its_tables_and_its_figure(studied: Path, study: str) -> None:
    place = studied / STUDIES_OF_SMOKE
    table = pd.read_csv(place / f"{study}.csv")
    assert len(table)
    assert (place / f"{study}.md").read_text().startswith("## ")
    assert r"\toprule" in (place / f"{study}.tex").read_text()
    assert "<svg" in (place / f"{study}.svg").read_text()
    assert (place / f"{study}.png").read_bytes().startswith(b"\x89PNG")


def test_every_row_of_a_study_has_a_number_or_a_reason(studied: Path) -> None:
    experiment = load_experiments(configuration(studied))["smoke"]
    for study, rows in experiment["study_rows"].items():
        if STUDIES[study].kind not in ("rows", "comparison"):
            continue
        table = pd.read_csv(studied / STUDIES_OF_SMOKE / f"{study}.csv")
        entries = experiment["methods"] | experiment["variants"]
        for row in {name for name, _ in rows}:
            for split in ("validation", "generation"):
                found = table[(table["row"] == row) & (table["split"] == split)]
                if obstacle(experiment, entries[row], split):
                    assert found["lds"].isna().all() and found["note"].notna().all()
                else:
                    assert found["lds"].notna().any(), (study, row, split)


def test_the_methods_that_need_a_pool_have_numbers(studied: Path) -> None:
    table = pd.read_csv(studied / STUDIES_OF_SMOKE / "methods.csv")
    for row in ("trak_ensemble_10", "dtrak_ensemble_10", "empirical_influence", "datamodel"):
        assert table[table["row"] == row]["lds"].notna().all(), row


@pytest.mark.parametrize("method", ["trak", "dtrak", "relative_if", "renormalised_if", "das"])
def test_the_best_row_of_a_kernel_method_beats_random(studied: Path, method: str) -> None:
    table = pd.read_csv(studied / STUDIES_OF_SMOKE / "methods.csv")
    best = table[table["row"].str.fullmatch(rf"{method}_\d+")]["lds"].max()
    control = table[(table["row"] == "random") & (table["readout"] == "linear")]["lds"].max()
    assert best > control


def test_counterfactuals_are_what_they_say(studied: Path) -> None:
    place = studied / "results/smoke/counterfactual"
    parts = {name: pd.read_csv(place / name / "cases.csv") for name in ("final", "step-400")}
    cases = pd.concat(parts.values(), ignore_index=True)
    masks = workflow_copy.arrays(place / "cases.zarr")["masks"]
    generated = workflow_copy.arrays(studied / "results/smoke/generated/generation.zarr")["images"]
    again = workflow_copy.arrays(place / "images.zarr")["images"]
    assert len(again) == len(cases)
    for row, case in cases.iterrows():
        assert (~masks[case["model"]]).sum() == case["removed"]
        difference = (again[row].astype(float) - generated[case["query"]]) / 127.5
        assert case["l2"] == pytest.approx(np.linalg.norm(difference), rel=1e-4)
    ways = {RESEEDED, RANDOM, SAME_CLASS, "dtrak_10"}
    journeys = {"journey_trak_at_400", "journey_trak_ensemble_at_400"}
    for name, expected in (("final", ways), ("step-400", ways | journeys)):
        summary = pd.read_csv(place / name / "summary.csv")
        assert set(summary["what"]) == expected
        for file in ("boxes.svg", "grid.png", "counterfactual.md", "counterfactual.tex"):
            assert (place / name / file).stat().st_size > 0
    # The models are the same, and share the way before the step, so that images move less.
    final, step = (
        part[part["query"].isin(parts["step-400"]["query"])].set_index(["query", "what", "model"])
        for part in parts.values()
    )
    shared = final.index.intersection(step.index)
    assert len(shared) == 4
    assert (step.loc[shared, "l2"] < final.loc[shared, "l2"]).mean() > 0.5


def test_the_full_report_shows_all_of_it(studied: Path) -> None:
    page = (studied / "results/smoke/report_full.html").read_text()
    tables = [*(studied / STUDIES_OF_SMOKE).glob("*.md")]
    tables += [*(studied / "results/smoke/counterfactual").glob("*/counterfactual.md")]
    assert len(tables) == len(STUDIES) + 2
    for table in tables:
        assert markdown_blocks(table.read_text())[0]["text"] in page, table
    assert len(page) < 10_000_000


def test_a_second_run_plans_nothing(studied: Path) -> None:
    again = workflow_copy.dry_run(studied, *EVERYTHING, *OPTIONS)
    assert "Nothing to be done" in again.text


def test_a_study_that_is_null_is_left_out(studied: Path) -> None:
    edits = {"config.yaml": workflow_copy.change("experiments", "smoke", "studies", "cost", None)}
    with workflow_copy.edited(studied, edits):
        plan = workflow_copy.dry_run(studied, "study_cost", *OPTIONS)
        assert plan.code == 0 and "tabulate_cost" not in plan.text


def test_a_method_of_the_user_s_own_file_stands_in_the_table(studied: Path) -> None:
    """As docs/methods.md shows it: a file, an entry, and nothing else of the library."""
    text = (studied / "docs/methods.md").read_text()
    source = text.split("```python\n")[1].split("```")[0]
    (studied / "my_methods.py").write_text(source)
    entry = {"function": "my_methods:centred", "features": "square_10", "label": "Centred"}
    own = {"run": ["smoke"], "experiments": {"smoke": {"methods": {"centred": entry}}}}
    (studied / "mine.yaml").write_text(workflow_copy.dump(own))
    said = workflow_copy.succeed(studied, "tables", "--configfile", "mine.yaml")
    assert "rule extract_gradients:" not in said and "rule retrain_subsets:" not in said
    table = pd.read_csv(studied / "results/smoke/tables/lds.csv")
    rows = table[table["method"] == "centred"]
    assert set(rows["split"]) == {"validation", "generation"} and rows["lds"].notna().all()
    other = source.replace("inputs.query_rows", "2 * inputs.query_rows")
    (studied / "my_methods.py").write_text(other)
    again = workflow_copy.dry_run(studied, "tables", "--configfile", "mine.yaml")
    assert again.text.count("rule score_method:") == 2  # this method alone, on both splits
