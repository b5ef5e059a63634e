"""Someone's finished model: what is taken, as it is, and what is refused with which sentence."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from own_models import edit, write_pipeline
from safetensors.torch import load_file, save_file

from attribution.diffusion import schedule
from attribution.errors import ConfigurationError
from attribution.models import adopt
from attribution.own_model import describe, fetch, fingerprint

torch.set_num_threads(1)
UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "model")


def test_a_pipeline_is_described_and_adopted_as_diffusers_loads_it(folder: Path):
    described = describe(folder)
    assert (described.image_size, described.channels) == (8, 1)
    assert described.pipeline == "DDPMPipeline"
    theirs = DDPMPipeline.from_pretrained(folder)
    ours, noisy = adopt(described.unet), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(ours(noisy, 7).sample, theirs.unet(noisy, 7).sample)
    whole = {"timesteps": 1000, "beta_schedule": "linear", "beta_start": 0.1, "clip_sample": False}
    of_schedule = schedule({**whole, **described.diffusion})
    assert torch.equal(of_schedule.alphas_cumprod, theirs.scheduler.alphas_cumprod)


def test_a_network_alone_leaves_the_schedule_to_the_settings(folder: Path):
    described = describe(folder / "unet")
    assert described.diffusion == {}
    assert described.pipeline == "UNet2DModel"


def test_a_changed_file_changes_the_fingerprint(folder: Path):
    before = fingerprint(str(folder))
    assert fingerprint(str(folder)) == before
    edit(folder / SCHEDULER, beta_end=0.01)
    assert fingerprint(str(folder)) != before
    assert fingerprint("someone/model") == "someone/model"


@pytest.mark.parametrize(
    ("file", "changes", "sentence"),
    [
        (UNET, {"_class_name": "UNet2DConditionModel"}, "is a UNet2DConditionModel of a DDPMPip"),
        (UNET, {"num_class_embeds": 10}, "is conditioned on classes"),
        (UNET, {"out_channels": 2}, "predicts variances or something else"),
        (UNET, {"in_channels": 4, "out_channels": 4}, "takes images of 4 channels"),
        (UNET, {"sample_size": [8, 16]}, "not square"),
        (SCHEDULER, {"prediction_type": "v_prediction"}, "predicts v_prediction"),
        (SCHEDULER, {"trained_betas": [0.1]}, "trained_betas"),
        (SCHEDULER, {"beta_schedule": "sigmoid"}, "has the schedule sigmoid"),
        (SCHEDULER, {"rescale_betas_zero_snr": True}, "rescales its betas"),
    ],
)
def test_what_cannot_be_attributed_is_refused(
    folder: Path, file: str, changes: dict, sentence: str
):
    edit(folder / file, **changes)
    with pytest.raises(ConfigurationError, match=sentence):
        describe(folder)


def without_network(folder: Path) -> None:
    edit(folder / "model_index.json", _class_name="FluxPipeline")
    (folder / UNET).unlink()


def nothing(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / "model_index.json").unlink()


def broken_json(folder: Path) -> None:
    (folder / UNET).write_text("{")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without_network, "holds a FluxPipeline, which has no UNet"),
        (nothing, "holds no diffusers model"),
        (broken_json, "is not JSON"),
    ],
)
def test_a_folder_that_is_none(folder: Path, spoil: Callable[[Path], None], sentence: str):
    spoil(folder)
    with pytest.raises(ConfigurationError, match=sentence):
        describe(folder)


def test_weights_that_are_not_whole(folder: Path):
    weights = load_file(folder / WEIGHTS)
    weights.pop(sorted(weights)[0])
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match=r"lack .* they are not whole"):
        adopt(folder / "unet")


@pytest.mark.parametrize("source", ["/no/such/folder", "./typo", "nothing"])
def test_a_folder_with_a_typo_is_not_asked_of_the_hub(source: str):
    with pytest.raises(ConfigurationError, match="neither a folder nor a hub id"):
        fetch(source)
