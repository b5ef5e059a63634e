"""The workflow as a whole: what a run leaves, and how every rule and script is written."""

import ast
import json
import re
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from workflow_copy import (
    ROOT,
    TARGETS,
    configuration,
    copy_workflow,
    dry_run,
    manifests,
    snakemake,
    succeed,
)

from attribution.configuration import SPLITS, load_experiments
from attribution.expansion import obstacle
from attribution.studies import STUDIES

RESULTS = Path("results/smoke")
SCRIPTS = sorted((ROOT / "workflow_scripts").glob("*.py"))
COLUMNS = [
    "experiment", "split", "method", "output_function", "timesteps", "noises", "projection",
    "proj_dim", "models", "readout", "own_readout", "lambda", "lambda_rule", "lds",
    "bootstrap_mean", "bootstrap_std", "ci_low", "ci_high", "subsets", "seeds", "queries",
    "train_size", "ceiling", "paper_lds", "note",
]  # fmt: skip


def rules() -> dict[str, str]:
    """The text of every rule by name."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    parts = re.split(r"^rule (\w+):\n", text, flags=re.MULTILINE)
    bodies = (re.split(r"^\S", body, maxsplit=1, flags=re.MULTILINE)[0] for body in parts[2::2])
    return dict(zip(parts[1::2], bodies, strict=True))


def directives(body: str) -> list[str]:
    """The directives of a rule in their order."""
    return re.findall(r"^    (\w+):", body, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def table(smoke: Path) -> pd.DataFrame:
    return pd.read_csv(smoke / RESULTS / "tables/lds.csv")


def test_the_run_leaves_what_the_design_names(smoke: Path) -> None:
    expected = {"data/train.zarr", "data/validation.zarr", "data/subsets.zarr", "models/base"}
    expected |= {"generated/generation.zarr"}
    expected |= {f"outputs/subsets/{split}.zarr" for split in ("validation", "generation")}
    expected |= {
        f"models/subsets/seed-{seed}/subset-{subset:04d}"
        for seed in range(2)
        for subset in range(8)
    }
    for features in ("simple_10", "square_100", "das_10", "simple__5__checkpoint-1"):
        expected |= {f"features/{features}/{split}.zarr" for split in ("train", *SPLITS)}
    expected |= {"features/path/generation.zarr", "generated/trajectories.zarr"}
    for method, split in runnable(smoke):
        expected |= {f"{place}/{method}/{split}.zarr" for place in ("scores", "predictions")}
    made = manifests(smoke / RESULTS)
    assert expected <= set(made)
    for name in expected:
        assert {"kind", "spec", "made", "sha256"} <= set(made[name]), name
        assert {"code", "settings"} <= set(made[name]["spec"]), name
    for name in (
        "lds.csv",
        "lds.md",
        "lds_differences.csv",
        "lds_differences.md",
        "lds_by_lambda.csv",
    ):
        name = f"tables/{name}"
        assert (smoke / RESULTS / name).stat().st_size, name


def test_the_table_has_the_columns_of_the_design(table: pd.DataFrame) -> None:
    assert [column for column in table.columns if column != "label"] == COLUMNS


def runnable(root: Path) -> list[tuple[str, str]]:
    """The pairs of a method and a split that a run of `all` scores."""
    smoke = load_experiments(configuration(root))["smoke"]
    return [
        (name, split)
        for name, entry in smoke["methods"].items()
        for split in SPLITS
        if not entry.get("deferred") and not obstacle(smoke, entry, split)
    ]


def test_the_table_has_a_row_a_method_split_readout_and_rule(
    smoke: Path, table: pd.DataFrame
) -> None:
    methods = configuration(smoke)["experiments"]["smoke"]["methods"]
    numbers, notes = table[table["lds"].notna()], table[table["lds"].isna()]
    with_lambda = {"kernel", "relative_if", "renormalised_if", "das"}
    expected = {
        (name, split, readout, rule)
        for name, split in runnable(smoke)
        for readout in ("linear", "square", "signed_square", "top_fraction")
        for rule in (
            ("oracle", "heldout") if methods[name]["function"] in with_lambda else ("none",)
        )
    }
    keys = ["method", "split", "readout", "lambda_rule"]
    rows = list(numbers[keys].fillna("none").itertuples(index=False, name=None))
    assert len(rows) == len(set(rows))
    assert set(rows) == expected
    without = set(notes[["method", "split"]].itertuples(index=False, name=None))
    wanted = {name for name, entry in methods.items() if entry is not None}
    assert without == set(product(wanted, SPLITS)) - set(runnable(smoke))
    assert notes["note"].notna().all() and numbers["note"].isna().all()
    assert numbers["lds"].between(-100, 100).all()
    assert (numbers["ci_low"] <= numbers["ci_high"]).all()
    assert set(table["experiment"]) == {"smoke"}
    assert set(numbers["subsets"]) == {8} and set(numbers["train_size"]) == {60}


def test_every_two_methods_are_compared_by_their_resamples(
    smoke: Path, table: pd.DataFrame
) -> None:
    pairs = pd.read_csv(smoke / RESULTS / "tables" / "lds_differences.csv")
    counted = table[
        table["own_readout"] & table["lds"].notna() & (table["lambda_rule"] != "oracle")
    ]
    for split, own in counted.groupby("split"):
        mine, values = pairs[pairs["split"] == split], own.set_index("method")
        assert len(mine) == len(own) * (len(own) - 1) // 2
        lds = [values.loc[mine[side], "lds"].to_numpy() for side in ("higher", "lower")]
        np.testing.assert_allclose(mine["difference"], lds[0] - lds[1], atol=1e-3)
        assert (mine["difference"] >= 0).all()
        first = mine.iloc[0]
        kept = []
        for method in (first["higher"], first["lower"]):
            place = values.loc[method, ["readout", "lambda_rule"]].fillna("none")
            file = np.load(smoke / RESULTS / "evaluations" / method / "bootstrap.npz")
            kept.append(file["/".join([split, *place])])
        apart = kept[0] - kept[1]
        low, high = np.percentile(apart, [2.5, 97.5]) + first["difference"] - apart.mean()
        assert [first["ci_low"], first["ci_high"]] == pytest.approx([low, high], abs=1e-3)


def test_logs_and_benchmarks_stand_in_the_results(smoke: Path) -> None:
    """Nothing is written beside `results/{experiment}` but Snakemake's own records."""
    assert {path.name for path in (smoke / "results").iterdir()} == {"smoke"}
    for folder in ("logs", "benchmarks"):
        assert len([path for path in (smoke / RESULTS / folder).rglob("*") if path.is_file()]) > 40


def test_a_second_run_plans_nothing(smoke: Path) -> None:
    again = dry_run(smoke, *TARGETS, "--config", "run=[smoke]")
    assert again.code == 0
    assert "Nothing to be done" in again.text


def test_waiting_jobs_start_no_timers(tmp_path: Path) -> None:
    """Snakemake's limit of jobs a second, which starts one with every scheduling round, is off."""
    root = copy_workflow(tmp_path / "copy")
    data = str(RESULTS / "data" / "train.zarr" / "manifest.json")
    said = succeed(root, data, "--verbose", "--config", "run=[smoke]")
    limits = re.findall("'_job_count': ([0-9]+)", said)
    assert limits and set(limits) <= {str(sys.maxsize), str(sys.maxsize - 1)}


def test_every_target_of_the_interface_can_be_planned(smoke: Path) -> None:
    studies = ["studies", *(f"study_{name}" for name in STUDIES)]
    for target in ("models", "features", "scores", "tables", "figures", "all", *studies):
        plan = dry_run(smoke, target, "--config", "run=[smoke]")
        assert plan.code == 0, f"{target}: {plan.text}"


def test_the_default_target_is_all(workflow: Path) -> None:
    plan = dry_run(workflow)
    assert plan.code == 0, plan.text
    assert re.search(r"^all +1$", plan.text, flags=re.MULTILINE)


def test_lint_has_nothing_to_say(workflow: Path) -> None:
    lint = snakemake(workflow, "--lint")
    assert lint.code == 0, lint.text


@pytest.mark.parametrize("name", rules())
def test_rules_have_everything_in_its_order(name: str) -> None:
    """Directives in the order of the design; a rule with a script has all that tracks it."""
    body = rules()[name]
    found = directives(body)
    order = ["input", "output", "log", "benchmark", "conda", "threads", "resources", "params"]
    found = [name for name in found if name != "wildcard_constraints"]
    order += ["retries", "script"]
    assert [name for name in order if name in found] == found
    if "output" in found:
        assert {"output", "log", "benchmark", "conda", "params", "script"} <= set(found)
        assert re.search(
            r'^        code=(method_)?code\("\w+"(, "\w+")?\),$', body, flags=re.MULTILINE
        )
        assert re.search(r"^        settings=", body, flags=re.MULTILINE)
    else:
        assert found == ["input"]  # a collector


@pytest.mark.parametrize("name", [name for name, body in rules().items() if "script:" in body])
def test_the_digest_of_a_rule_is_that_of_its_script(name: str) -> None:
    body = rules()[name]
    assert re.search(r'code\("(\w+)"', body)[1] == re.search(r"workflow_scripts/(\w+)\.py", body)[1]


def test_every_script_belongs_to_a_rule() -> None:
    used = {re.search(r"workflow_scripts/(\w+)\.py", body) for body in rules().values()}
    assert {found[1] for found in used if found} == {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_import_what_exists_and_run_only_when_asked(script: Path) -> None:
    """A script is a docstring, imports, `main(snakemake)`, helpers, and one guarded call."""
    tree = ast.parse(script.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert all(find_spec(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert find_spec(node.module), node.module
            if node.module.startswith("attribution."):
                source = ast.parse(Path(find_spec(node.module).origin).read_text())
                assert {alias.name for alias in node.names} <= defined(source), node.module
    assert ast.get_docstring(tree)
    assert [one.args.args[0].arg for one in tree.body if getattr(one, "name", "") == "main"] == [
        "snakemake"
    ]
    assert ast.unparse(tree.body[-1].test) == "__name__ == '__main__'"


def defined(module: ast.Module) -> set[str]:
    """The names that a module defines or imports at its top."""
    names: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
    return names


def test_the_library_does_not_know_the_workflow() -> None:
    for path in (ROOT / "attribution").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if str(name).split(".")[0] == "snakemake"], path


def test_what_made_an_artifact_is_what_the_rule_says(smoke: Path) -> None:
    """The settings in a manifest are those of config.yaml, and only the stage's own."""
    spec = json.loads((smoke / RESULTS / "models/base/manifest.json").read_text())["spec"]
    assert set(spec["settings"]) == {"compute", "pretrained", "model", "diffusion", "training"}
    assert spec["settings"]["training"]["epochs"] == 4
