"""LoRA on Stable Diffusion, against diffusers' own pipeline of the same files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tiny_models import TOKENS, WIDTH, write_stable_diffusion

from attribution import models
from attribution.diffusion import schedule
from attribution.errors import ConfigurationError, StoreError
from attribution.gradients import GradientEngine
from attribution.models import build_lora, trained_state
from attribution.provenance import Stopwatch
from attribution.sampling import Prompts, ddim
from attribution.stable_diffusion import (
    SD_V1_UNET,
    Autoencoder,
    TextEncoder,
    add_lora,
    latent_shape,
    load_lora,
    lora_state,
    network,
)

torch.set_num_threads(1)
CPU = torch.device("cpu")
DIFFUSION = {
    "timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
CAPTIONS = ["", "a cat painting", "a very long caption of words beyond the number of tokens"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("sd") / "model")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)


def lora(folder: Path, seed: int = 0, shaken: bool = True) -> UNet2DConditionModel:
    """The network with LoRA of rank 2; `shaken`, so that LoRA does something."""
    unet = build_lora({"model": str(folder), "lora": {"rank": 2}}, 0.0, seed)
    if shaken:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in unet.named_parameters():
            if "lora_B" in name:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return unet.eval()


def predicted(unet: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    noisy = torch.randn(2, 4, 8, 8, generator=generator)
    states = torch.randn(2, TOKENS, WIDTH, generator=generator)
    with torch.no_grad():
        return unet(noisy, 300, encoder_hidden_states=states).sample


def test_parameters_are_the_papers():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD_V1_UNET)
    assert sum(one.numel() for one in unet.parameters()) == 859_520_964
    add_lora(unet, 128)
    assert sum(one.numel() for one in unet.parameters() if one.requires_grad) == 25_509_888


def test_training_begins_at_the_published_network(folder: Path, pipeline):
    torch.testing.assert_close(predicted(lora(folder, shaken=False)), predicted(pipeline.unet))


def test_lora_is_drawn_from_the_seed_with_the_authors_variance(folder: Path):
    first = {name: value.clone() for name, value in lora_state(lora(folder, 1)).items()}
    other = lora_state(lora(folder, 2))
    again = lora_state(lora(folder, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    downs = [name for name in first if "lora_A" in name]
    assert not any(torch.equal(first[name], other[name]) for name in downs)
    drawn = torch.cat([first[name].flatten() for name in downs])
    assert drawn.std() == pytest.approx(1 / 2, rel=0.1)  # 1 / rank


def test_dropout_is_on_the_outputs_of_attentions_only(folder: Path):
    unet = build_lora({"model": str(folder), "lora": {"rank": 2}}, 0.1, 0)
    dropouts = {
        name: module.p
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Dropout)
    }
    assert {p for name, p in dropouts.items() if name.endswith("to_out.1")} == {0.1}
    assert {p for name, p in dropouts.items() if not name.endswith("to_out.1")} <= {0.0}


def test_a_saved_lora_is_loaded_by_diffusers_and_by_us(folder: Path, tmp_path: Path):
    expected, spec = (
        predicted(unet := lora(folder, 3)),
        {"settings": {"pretrained": {"model": str(folder), "lora": {"rank": 2}}}},
    )
    record = models.save(unet, tmp_path / "lora", spec, Stopwatch(), "train it")
    assert record["parameters"] == sum(one.numel() for one in lora_state(unet).values())
    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs.load_lora_weights(tmp_path / "lora")
    torch.testing.assert_close(predicted(theirs.unet), expected, atol=1e-5, rtol=1e-5)
    lora(folder, 4)  # other matrices in the process's network
    assert torch.equal(predicted(models.load(tmp_path / "lora", CPU)), expected)


def test_lora_of_another_rank_does_not_fit(folder: Path, tmp_path: Path):
    models.save(lora(folder), tmp_path / "lora", {}, Stopwatch(), "train it")
    with pytest.raises(StoreError, match="does not fit the network"):
        load_lora(network(str(folder), 3), tmp_path / "lora")


def test_only_lora_is_trained_and_saved_in_an_unfinished_run(folder: Path):
    assert set(trained_state(lora(folder))) == {
        name for name, one in lora(folder).named_parameters() if one.requires_grad
    }


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_guided_sampling_is_that_of_diffusers(folder: Path, guidance: float):
    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = theirs(
        CAPTIONS[1:],
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=noise.clone(),
        output_type="latent",
        height=16,
        width=16,
    ).images
    embedded = TextEncoder(str(folder), CPU).embed(CAPTIONS)
    prompts = Prompts(embedded[1:], embedded[0], guidance)
    predict = prompts.predictor(lora(folder, shaken=False), range(2), CPU)
    ours = ddim(predict, noise, schedule(DIFFUSION), 4, 0.0, bounded=False)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_captions_and_images_are_encoded_as_by_the_pipeline(folder: Path, pipeline):
    ours = TextEncoder(str(folder), CPU).embed(CAPTIONS)
    theirs, _ = pipeline.encode_prompt(CAPTIONS, CPU, 1, False)
    torch.testing.assert_close(ours, theirs)
    autoencoder = Autoencoder(str(folder), CPU)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, std = autoencoder.encode(images)
    with torch.no_grad():
        found, scale = pipeline.vae.encode(images).latent_dist, pipeline.vae.config.scaling_factor
        torch.testing.assert_close(mean, found.mode() * scale)
        torch.testing.assert_close(std, found.var.sqrt() * scale)
        torch.testing.assert_close(autoencoder.decode(mean), pipeline.vae.decode(found.mode())[0])
    assert latent_shape(str(folder), 16) == tuple(mean.shape[1:])
    with pytest.raises(ConfigurationError, match="no multiple of 2"):
        latent_shape(str(folder), 15)


@pytest.mark.parametrize("engine", ["hooks", "batched_backward", "vmap"])
def test_gradients_of_lora_are_those_of_autograd(folder: Path, engine: str):
    unet, generator = lora(folder), torch.Generator().manual_seed(1)
    images = torch.randn(2, 4, 8, 8, generator=generator)
    noise = torch.randn(1, 2, 4, 8, 8, generator=generator)
    states = torch.randn(2, TOKENS, WIDTH, generator=generator)
    steps, abar = torch.tensor([100, 700]), schedule(DIFFUSION).alphas_cumprod
    made = GradientEngine(unet, abar, "square", engine=engine)
    found = made(images, noise, steps, {"encoder_hidden_states": states})
    assert made.name == engine
    trained = [one for one in unet.parameters() if one.requires_grad]
    for row in range(2):
        total = 0
        for k, step in enumerate(steps.tolist()):
            noisy = abar[step].sqrt() * images[row] + (1 - abar[step]).sqrt() * noise[0, k]
            output = unet(noisy[None], step, encoder_hidden_states=states[row : row + 1]).sample
            gradients = torch.autograd.grad(output.square().mean(), trained)
            total = total + torch.cat([one.flatten() for one in gradients]) / 2
        np.testing.assert_allclose(found[row], total, atol=2e-4 * total.abs().max().item())
