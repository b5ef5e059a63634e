"""The paper's settings in small: the originals' files in, an LDS table out, by the same rules."""

from pathlib import Path
from typing import Any

import archive_files
import pandas as pd
import pytest
import workflow_copy
from diffusers import StableDiffusionPipeline
from tiny_models import write_stable_diffusion

NO_CLIP = {"clip": {"clip": None}}
SHORT = {
    "compute": {"device": "cpu"},
    "subsets": {"count": 4},
    "retraining": {"seeds": 1},
    "training": {"epochs": 2, "batch_size": 6, "learning_rate": 0.001},
    "generation": {"images": 4, "steps": 4},
    "outputs": {"timesteps": 4, "strategy": "midpoints", "noises": 1, "groups": 2},
    "pool": {"count": 0},
    "counterfactual": None,
    "feature_defaults": {"projection": {"dim": 256}},
    "features": NO_CLIP,
    "studies": {"projection_dimension": None, "retraining_based": None},
    "evaluation": {"bootstrap": {"interval_resamples": 10}, "heldout": {"splits": 2}},
    "galleries": {"queries": 1, "images": 2, "generated": 4, "methods": ["raw_pixel_cosine"]},
    "execution": {"models_per_job": 4, "feature_shards": 1, "rows_per_chunk": 12},
}
# 100 timesteps show nothing here that 10 do not.
LEFT_OUT = [
    f"{method}_100"
    for method in (
        "gradient_dot", "gradient_cosine", "tracincp", "gas", "journey_trak", "relative_if",
        "renormalised_if", "trak", "dtrak",
    )
] + [
    "trak_ensemble_10", "dtrak_ensemble_10", "empirical_influence", "datamodel",
    "journey_trak_at_400", "journey_trak_ensemble_at_400", "journey_trak_at_300",
    "journey_trak_ensemble_at_300",
]  # fmt: skip
NETWORKS = {
    "cifar2": {"block_out_channels": [8, 8, 8, 8]},
    "celeba": {"block_out_channels": [8] * 6, "attention_head_dim": 4},
}


def twin(root: Path, name: str, data: dict[str, Any], kept: list[str] | None = None) -> None:
    """Write the user's configuration that shrinks a setting, to the methods `kept` if any."""
    shipped = workflow_copy.configuration(root)["experiments"][name]["methods"]
    absent = LEFT_OUT if kept is None else [method for method in shipped if method not in kept]
    own = {
        **SHORT,
        "data": {"train": 24, "validation": 6, **data},
        "model": {**NETWORKS[name], "norm_num_groups": 4, "attn_norm_num_groups": 4},
        "methods": dict.fromkeys(absent),
    }
    workflow_copy.write_experiment(root / "twin.yaml", name, own)


def test_artbench2_in_small_trains_lora_on_latents_to_the_report(root: Path, tmp_path: Path):
    archive_files.write_artbench(tmp_path / "art")
    write_stable_diffusion(tmp_path / "sd")
    kept = [
        "raw_pixel_dot", "gradient_cosine_10", "tracincp_10", "journey_trak_10", "trak_10",
        "dtrak_10_shared", "das_10", "random",
    ]  # fmt: skip
    shipped = workflow_copy.configuration(root)["experiments"]["artbench2"]["methods"]
    own = {
        **SHORT,
        "compute": {"device": "cpu", "precision": "fp32"},
        "pretrained": {"model": str(tmp_path / "sd"), "lora": {"rank": 2}},
        "data": {"path": str(tmp_path / "art"), "train": 24, "validation": 6, "image_size": 16},
        "training": {**SHORT["training"], "accumulation": 2},
        "methods": dict.fromkeys(name for name in shipped if name not in kept),
        "galleries": {**SHORT["galleries"], "methods": ["trak_10"]},
    }
    workflow_copy.write_experiment(root / "twin.yaml", "artbench2", own)
    workflow_copy.succeed(root, "--configfile", "twin.yaml")
    found = table(root, "artbench2")
    assert set(found["method"]) == set(kept)
    empty = found[found["lds"].isna()]
    assert set(empty["method"]) == {"journey_trak_10"}
    assert set(empty["split"]) == {"validation"}
    results = root / "results/artbench2"
    assert (results / "report.html").is_file()
    generated = workflow_copy.arrays(results / "generated/generation.zarr")
    names = ["post_impressionism", "ukiyo_e"]
    assert [names[label] for label in generated["labels"]] == [names[1]] * 2 + [names[0]] * 2
    latents = workflow_copy.arrays(results / "latents/generation.zarr")
    assert latents["captions"].tolist() == (generated["labels"] + 1).tolist()
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "sd", safety_checker=None)
    theirs.load_lora_weights(results / "models/subsets/seed-0/subset-0000")


def table(root: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(root / "results" / name / "tables" / "lds.csv")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return workflow_copy.copy_workflow(tmp_path / "workflow")


def test_cifar2_in_small_runs_from_the_original_batches_to_the_report(root: Path, tmp_path: Path):
    data = tmp_path / "cifar"
    data.mkdir()
    archive_files.write_cifar_python(data)
    twin(root, "cifar2", {"path": str(data)})
    workflow_copy.succeed(root, "--configfile", "twin.yaml")
    found = table(root, "cifar2")
    methods = set(workflow_copy.configuration(root)["experiments"]["cifar2"]["methods"])
    assert set(found["method"]) == methods - set(LEFT_OUT)
    empty = found[found["lds"].isna()]
    assert set(empty["method"]) <= {"clip_dot", "clip_cosine", "journey_trak_10"}
    assert empty["note"].notna().all()
    assert found[found["method"] == "dtrak_10"]["paper_lds"].notna().any()
    assert (root / "results/cifar2/report.html").is_file()
    options = ("--configfile", "twin.yaml")
    assert "Nothing to be done" in workflow_copy.dry_run(root, *options).text
    with next(data.rglob("test_batch")).open("ab") as file:
        file.write(b"more")
    assert "rule prepare_data:" in workflow_copy.dry_run(root, *options).text


def test_celeba_in_small_runs_from_the_original_files_to_the_table(root: Path, tmp_path: Path):
    archive_files.write_celeba(tmp_path, train=26, validation=8)
    kept = ["raw_pixel_cosine", "trak_10", "dtrak_10"]
    twin(root, "celeba", {"path": str(tmp_path)}, kept)
    target = "results/celeba/tables/lds.csv"
    workflow_copy.succeed(root, target, "--configfile", "twin.yaml")
    found = table(root, "celeba")
    assert set(found["method"]) == set(kept)
    assert found["lds"].notna().all()
