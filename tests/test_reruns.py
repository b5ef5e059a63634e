"""Promises about reruns: what changed runs again, and what stands after it."""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import workflow_copy
import yaml
from workflow_copy import Edits, change, configuration, dump

from attribution.configuration import SPLITS, load_experiments
from attribution.expansion import needs, obstacle

SMOKE = ("experiments", "smoke")
FEATURES = {"extract_gradients", "assemble_features"}
MODELS = {"train_base", "retrain_subsets"}
BENCHMARK = {"retrain_subsets", "evaluate_outputs", "assemble_outputs"}
SCORES = {"score_method", "predict_outputs"}
EVALUATION = {"evaluate_method", "tabulate_lds"}
STAGES = {"prepare_data", "draw_subsets", "generate_images", "decompose_kernel"}
STAGES |= FEATURES | MODELS | BENCHMARK | SCORES  # all that stand before the evaluation


def plan(root: Path, edits: Edits | None = None, experiment: str = "smoke") -> Counter[str]:
    """The rules that a user's next run of an experiment would run, after edits of the tree."""
    return workflow_copy.planned(root, workflow_copy.TARGETS, edits, {"run": [experiment]})


def set_smoke(*path_and_value: Any) -> Edits:
    """An edit of one setting of the experiment `smoke`."""
    return {"config.yaml": change(*SMOKE, *path_and_value)}


def scored(root: Path, wanted: Callable[[dict[str, Any]], bool]) -> int:
    """How many pairs of a method with these entries and a split a run of `all` scores."""
    smoke = load_experiments(configuration(root))["smoke"]
    return sum(
        wanted(entry) and not entry.get("deferred") and not obstacle(smoke, entry, split)
        for entry in smoke["methods"].values()
        for split in SPLITS
    )


def sources(root: Path) -> list[Path]:
    """Every file of the workflow that a person edits."""
    folders = ("attribution", "workflow_scripts", "rules", "schemas", "profiles", "envs", "report")
    inside = [path for folder in folders for path in (root / folder).rglob("*") if path.is_file()]
    return [root / "Snakefile", root / "config.yaml", *inside]


def test_no_change_plans_nothing(smoke: Path) -> None:
    assert plan(smoke) == Counter()


def test_a_target_that_was_never_made_is_planned(smoke: Path) -> None:
    """The question itself works: an experiment without results needs everything."""
    assert set(plan(smoke, experiment="digits")) >= STAGES


def test_touched_sources_plan_nothing(smoke: Path) -> None:
    files = sources(smoke)
    times = {path: path.stat() for path in files}
    for path in files:
        path.touch()
    try:
        assert plan(smoke) == Counter()
    finally:
        for path, stat in times.items():
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def with_comments(text: str) -> str:
    """Python source with another docstring, comments, blank lines and line breaks in calls."""
    text = re.sub(r'^"""', '"""Reworded. ', text, count=1)
    text = re.sub(r"^(def .*|class .*)$", r"# A comment.\n\n\1", text, flags=re.MULTILINE)
    return re.sub(
        r"^( {4}return .*)$", r"    # Another.\n\n\1  # And one.", text, flags=re.MULTILINE
    )


def test_comments_and_docstrings_plan_nothing(smoke: Path) -> None:
    python = [path for path in sources(smoke) if path.suffix == ".py" and '"""' in path.read_text()]
    assert len(python) > 20
    edits = {str(path.relative_to(smoke)): with_comments for path in python}
    assert plan(smoke, edits) == Counter()


def reformatted(text: str) -> str:
    """Python source as `ast.unparse` lays it out: other quotes, line breaks and brackets."""
    import ast

    return ast.unparse(ast.parse(text)) + "\n"


def test_another_layout_plans_nothing(smoke: Path) -> None:
    python = [path for path in sources(smoke) if path.suffix == ".py"]
    edits = {
        str(path.relative_to(smoke)): reformatted
        for path in python
        if reformatted(path.read_text()) != path.read_text()
    }
    assert len(edits) > 20
    assert plan(smoke, edits) == Counter()


def reordered(value: Any) -> Any:
    """The same mapping with all its keys in reverse order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return value


def test_the_order_of_keys_plans_nothing(smoke: Path) -> None:
    """All keys of config.yaml but the methods, whose order is that of the table's rows."""

    def reorder(text: str) -> str:
        content = yaml.safe_load(text)
        new = reordered(content)
        for name, experiment in content["experiments"].items():
            if "methods" in experiment:
                new["experiments"][name]["methods"] = experiment["methods"]
        return dump(new)

    assert plan(smoke, {"config.yaml": reorder}) == Counter()


def test_comments_in_rules_plan_nothing(smoke: Path) -> None:
    """Also inside `script:`, whose text Snakemake records as the code of a rule."""

    def comment(text: str) -> str:
        return re.sub(r"^    script:$", "    # A comment.\n    script:\n        # And one.", text,
                      flags=re.MULTILINE)  # fmt: skip

    edits = {
        str(path.relative_to(smoke)): comment
        for path in (smoke / "rules").glob("*.smk")
        if "    script:\n" in path.read_text()
    }
    assert len(edits) >= 6
    assert plan(smoke, edits) == Counter()


def meaning(function: str) -> Callable[[str], str]:
    """An edit that changes what a function does: its first statement is one more."""

    def edit(text: str) -> str:
        return re.sub(
            rf"^(def {function}\(.*?\)(?: -> [^\n]*)?:\n)",
            r"\1    _ = 'changed'\n",
            text,
            count=1,
            flags=re.MULTILINE | re.DOTALL,
        )

    return edit


def test_lds_plans_only_the_evaluation(smoke: Path) -> None:
    rules = plan(smoke, {"attribution/lds.py": meaning("spearman")})
    assert rules["tabulate_lds"] == 1
    assert rules["evaluate_method"] > 10
    assert not STAGES & set(rules)


def test_kernels_plan_no_gradients_and_no_models(smoke: Path) -> None:
    rules = plan(smoke, {"attribution/kernels.py": meaning("kernel_scores")})
    assert {"decompose_kernel"} | SCORES | EVALUATION <= set(rules)
    assert not (STAGES - {"decompose_kernel"} - SCORES) & set(rules)


def test_gradients_plan_no_models(smoke: Path) -> None:
    rules = plan(smoke, {"attribution/features.py": meaning("layouts")})
    assert set(rules) >= FEATURES
    assert not (MODELS | BENCHMARK | {"prepare_data", "generate_images"}) & set(rules)


def test_lambdas_plan_only_kernel_scores(smoke: Path) -> None:
    rules = plan(smoke, set_smoke("kernel", {"lambdas": [0.1, 1.0]}))
    assert rules["score_method"] == scored(smoke, lambda entry: needs(entry) == "kernel")
    assert rules["tabulate_lds"] == 1
    assert not (STAGES - SCORES) & set(rules)


def test_timesteps_of_a_feature_set_plan_that_set_alone(smoke: Path) -> None:
    """That set at the final model and at the checkpoint of TracInCP and GAS: of three splits."""
    rules = plan(smoke, set_smoke("features", "simple_10", "timesteps", 4))
    assert rules["extract_gradients"] == rules["assemble_features"] == 2 * 3
    assert rules["decompose_kernel"] == 1
    assert rules["score_method"] == scored(
        smoke, lambda entry: entry.get("features") == "simple_10"
    )
    assert not (MODELS | BENCHMARK | {"prepare_data", "draw_subsets", "generate_images"}) & set(
        rules
    )


@pytest.mark.parametrize(
    "edits",
    [
        set_smoke("training", "epochs", 5),
        set_smoke("model", "layers_per_block", 2),
        {"attribution/training.py": meaning("learning_rate")},
    ],
    ids=["epochs", "model", "code"],
)
def test_the_recipe_plans_everything_after_data(smoke: Path, edits: Edits) -> None:
    rules = plan(smoke, edits)
    assert not {"prepare_data", "draw_subsets"} & set(rules)
    assert STAGES - {"prepare_data", "draw_subsets"} <= set(rules)


def test_data_plans_everything(smoke: Path) -> None:
    assert set(plan(smoke, set_smoke("data", "seed", 1))) >= STAGES


def test_swapped_values_are_noticed(smoke: Path) -> None:
    """Snakemake compares params as a set: two values that change places are the same to it."""

    def swap(text: str) -> str:
        content = yaml.safe_load(text)
        training = content["experiments"]["smoke"]["training"]
        training["weight_decay"] = training["learning_rate"]
        training["learning_rate"] = content["defaults"]["training"]["weight_decay"]
        return dump(content)

    assert set(plan(smoke, {"config.yaml": swap})) >= MODELS


@pytest.mark.parametrize("key", ["seed", "checkpoints"])
def test_what_concerns_the_base_model_alone_retrains_no_subset(smoke: Path, key: str) -> None:
    rules = plan(smoke, set_smoke("training", key, 3))
    assert rules["train_base"] == 1
    assert "retrain_subsets" not in rules


def test_outputs_plan_no_training(smoke: Path) -> None:
    rules = plan(smoke, set_smoke("outputs", "noises", 1))
    assert {"evaluate_outputs", "assemble_outputs"} | EVALUATION <= set(rules)
    assert not (MODELS | FEATURES | SCORES) & set(rules)


def test_more_seeds_train_only_the_new_ones(smoke: Path) -> None:
    rules = plan(smoke, set_smoke("retraining", "seeds", 3))
    assert rules["retrain_subsets"] == 1
    assert not (FEATURES | SCORES | {"train_base"}) & set(rules)


def test_a_new_method_plans_its_scores_and_the_evaluation(smoke: Path) -> None:
    new = {"function": "gradient_dot", "features": "square_10"}
    rules = plan(smoke, set_smoke("methods", "new_method", new))
    assert rules["score_method"] == rules["predict_outputs"] == 2
    assert rules["evaluate_method"] == rules["tabulate_lds"] == 1
    assert not (STAGES - SCORES) & set(rules)


def test_a_label_plans_no_scores(smoke: Path) -> None:
    rules = plan(smoke, set_smoke("methods", "random", "label", "Chance"))
    assert rules["tabulate_lds"] == 1
    assert not (STAGES | {"evaluate_method"}) & set(rules)


def test_another_experiment_is_not_touched(smoke: Path) -> None:
    """Neither by a change of one experiment nor by a new one."""
    digits = {"config.yaml": change("experiments", "digits", "training", "epochs", 41)}
    assert plan(smoke, digits) == Counter()
    new = {"config.yaml": change("experiments", "another", {"data": {"train": 70}})}
    assert plan(smoke, new) == Counter()


@pytest.mark.parametrize(
    "path_and_value",
    [
        ("save_seconds", 7),
        ("rows_per_chunk", 7),
        ("batch", {"outputs": 7, "generation": 3, "features": 2}),
        ("gradient_engine", "hooks"),
    ],
    ids=lambda path_and_value: path_and_value[0],
)
def test_how_a_job_works_plans_nothing(smoke: Path, path_and_value: tuple[str, Any]) -> None:
    assert plan(smoke, set_smoke("execution", *path_and_value)) == Counter()


def test_models_per_job_plan_a_collection_of_the_models(smoke: Path) -> None:
    """Jobs of another cut have other names; they find their models (test_resume) and list them."""
    rules = plan(smoke, set_smoke("execution", "models_per_job", 3))
    assert rules["retrain_subsets"] == 6  # 8 subsets in threes, two seeds
    assert not (STAGES - BENCHMARK) & set(rules)


def test_output_models_per_job_plan_a_collection_of_the_outputs(smoke: Path) -> None:
    rules = plan(smoke, set_smoke("execution", "output_models_per_job", 4))
    assert rules["evaluate_outputs"] == 8  # 8 subsets in fours, two seeds, two splits
    assert not (STAGES - {"evaluate_outputs", "assemble_outputs"}) & set(rules)


def test_feature_shards_plan_a_collection_of_the_features(smoke: Path) -> None:
    """Shards find their chunks (test_resume); what stands after a rewritten manifest follows."""
    rules = plan(smoke, set_smoke("execution", "feature_shards", 2))
    sets = len(list((smoke / "results/smoke/features").glob("*/*.zarr")))
    assert rules["extract_gradients"] == 2 * sets
    assert not (STAGES - FEATURES - SCORES - {"decompose_kernel"}) & set(rules)
