"""The paper's settings: networks, grids and protocol against the paper and its authors' code."""

from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import workflow_copy
from configurations import shipped
from diffusers import UNet2DModel

from attribution.configuration import load_experiments
from attribution.diffusion import schedule, timesteps
from attribution.kernels import resolve_lambdas
from attribution.paper import method_row
from attribution.sampling import ddim_timesteps

SETTINGS = ("cifar2", "cifar10", "celeba")
LATENT = ("artbench2", "artbench5")
SHARDS = {"cifar2": 5, "cifar10": 20, "celeba": 5, "artbench2": 5, "artbench5": 13}


@pytest.fixture(scope="module")
def experiments() -> dict[str, dict[str, Any]]:
    return load_experiments(shipped())


def parameters(model: dict[str, Any], **changes: Any) -> int:
    """Counted on the meta device, which holds no numbers."""
    with torch.device("meta"):
        network = UNet2DModel(**{**model, **changes})
    return sum(parameter.numel() for parameter in network.parameters())


def test_networks_have_the_authors_numbers_of_parameters(experiments):
    assert parameters(experiments["cifar2"]["model"]) == 38_307_203
    assert experiments["cifar10"]["model"] == experiments["cifar2"]["model"]
    assert parameters(experiments["celeba"]["model"]) == 118_795_011


def test_without_the_authors_override_they_are_the_paper_s_networks(experiments):
    plain = {"resnet_time_scale_shift": "default"}
    assert parameters(experiments["cifar2"]["model"], **plain) == 35_746_307
    assert parameters(experiments["celeba"]["model"], **plain) == 113_673_219


@pytest.mark.parametrize("name", SETTINGS)
def test_training_is_as_long_as_the_authors(experiments, name):
    training, images = experiments[name]["training"], experiments[name]["data"]["train"]
    per_epoch = ceil(images / training["batch_size"])
    assert (
        per_epoch * training["epochs"]
        == {"cifar2": 8_000, "cifar10": 78_200, "celeba": 8_000}[name]
    )
    half = ceil(images // 2 / training["batch_size"])
    assert half * training["epochs"] == {"cifar2": 4_000, "cifar10": 39_200, "celeba": 4_000}[name]
    assert (training["learning_rate"], training["betas"]) == (1e-4, [0.95, 0.999])
    assert (training["weight_decay"], training["dropout"], training["flip"]) == (1e-6, 0.1, True)


@pytest.mark.parametrize("name", [*SETTINGS, *LATENT])
def test_the_benchmark_is_the_paper_s(experiments, name):
    own = experiments[name]
    assert (own["subsets"]["count"], own["subsets"]["fraction"], own["subsets"]["seed"]) == (
        64,
        0.5,
        42,
    )
    assert own["subsets"]["stratify"] == (name != "celeba")
    assert own["retraining"]["seeds"] == own["outputs"]["noises"] == 3
    assert own["outputs"]["timesteps"] == 1000
    assert (own["data"]["validation"], own["generation"]["images"]) == (1000, 1000)
    assert (own["generation"]["steps"], own["generation"]["eta"]) == (50, 0)


@pytest.mark.parametrize("name", LATENT)
def test_lora_is_trained_as_the_authors_do(experiments, name):
    own = experiments[name]
    training, diffusion, data = own["training"], own["diffusion"], own["data"]
    assert own["pretrained"] == {"model": "lambdalabs/miniSD-diffusers", "lora": {"rank": 128}}
    steps = {"artbench2": (7_900, 4_000), "artbench5": (19_600, 9_800)}[name]
    for images, expected in zip((data["train"], data["train"] // 2), steps, strict=True):
        assert ceil(images / training["batch_size"]) * training["epochs"] == expected
    assert (training["learning_rate"], training["betas"]) == (3e-4, [0.9, 0.999])
    assert (training["weight_decay"], training["dropout"], training["flip"]) == (1e-6, 0.1, True)
    assert training["caption_dropout"] == 0.1
    assert (own["generation"]["guidance"], own["generation"]["steps"]) == (7.5, 50)
    assert (data["image_size"], data["caption"]) == (256, "a {label} painting")
    sampled = ddim_timesteps(schedule(diffusion), 50)
    assert sampled.tolist() == list(range(981, 0, -20))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    torch.testing.assert_close(schedule(diffusion).alphas_cumprod, (1 - betas).cumprod(0))


@pytest.mark.parametrize("name", [*SETTINGS, *LATENT])
def test_lambdas_are_the_authors_for_features_scaled_by_the_root_of_k(experiments, name):
    kernel = experiments[name]["kernel"]
    values = [digit * 10.0**power for power in range(-2, 7) for digit in (1, 2, 5)]
    np.testing.assert_allclose(kernel["lambdas"], values, rtol=1e-12)
    ours = resolve_lambdas(kernel["lambdas"], kernel["unit"], 1.0, 32_768)
    np.testing.assert_allclose(ours, np.array(values) / 32_768, rtol=1e-12)


@pytest.mark.parametrize("name", [*SETTINGS, *LATENT])
def test_features_are_at_the_authors_timesteps(experiments, name):
    features = experiments[name]["features"]
    for function in ("simple", "square"):
        for count in (10, 100):
            entry = features[f"{function}_{count}"]
            assert entry["projection"]["dim"] == 32_768
            chosen = timesteps(entry["timesteps"], entry["strategy"], 1000)
            assert chosen.tolist() == list(range(0, 1000, 1000 // count))


@pytest.mark.parametrize("name", [*SETTINGS, *LATENT])
def test_every_row_that_names_one_of_the_paper_s_has_its_number(experiments, name):
    own = experiments[name]
    named = [entry for entry in own["methods"].values() if "paper" in entry]
    assert len(named) >= 19
    for entry in named:
        count = own["features"][entry["features"]].get("timesteps") if "features" in entry else None
        assert method_row(name, "generation", entry["paper"], count, None) is not None


@pytest.mark.parametrize("name", [*SETTINGS, *LATENT])
def test_a_dry_run_plans_the_paper_s_protocol(workflow: Path, name: str):
    rules = workflow_copy.planned(workflow, config={"run": [name]})
    assert rules["train_base"] == rules["generate_images"] == rules["prepare_data"] == 1
    assert rules["retrain_subsets"] == 64 * 3  # one model a job; the pool is for the studies
    assert rules["evaluate_outputs"] == 2 * 3 * 64 / 4  # splits, seeds, four models a job
    # 4 sets of the paper, 2 with one noise for all, DAS, 3 checkpoints before the final one; each
    # of three splits. The sampling path has one.
    stores = (4 + 2 + 1 + 3) * 3 + 1
    assert rules["extract_gradients"] == stores * SHARDS[name]
    assert rules["encode_latents"] == (3 if name in LATENT else 0)
    assert rules["encode_images"] == 3
    assert rules["assemble_features"] == stores + 3
    assert rules["decompose_kernel"] == 4 + 2 + 1
    # 31 rows, 6 of them for the studies; Journey TRAK's two have no validation split.
    assert rules["score_method"] == (31 - 6) * 2 - 2
    assert rules["tabulate_lds"] == rules["write_report"] == 1


@pytest.mark.parametrize("name", [*SETTINGS, *LATENT])
def test_the_studies_need_the_pool_where_the_paper_trains_one(workflow: Path, name: str):
    rules = workflow_copy.planned(workflow, ["studies"], config={"run": [name]})
    pool = {"cifar10": 0, "artbench5": 0}.get(name, 512)
    assert rules["retrain_subsets"] == 64 * 3 + pool
