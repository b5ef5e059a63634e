"""DDIM against diffusers' own pipeline, with and without added noise; images alone or together."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler
from scripted import run_script, save_network
from small_network import DIFFUSION, network

from attribution.diffusion import nearest_timestep
from attribution.images import read_split, to_pixels
from attribution.randomness import normal
from attribution.sampling import (
    ddim,
    ddim_timesteps,
    generate,
    generated,
    initial_noise,
    trajectories,
)
from attribution.stores import Reader

torch.set_num_threads(1)
SHAPE = (1, 8, 8)
CPU = torch.device("cpu")


def predict(images: torch.Tensor, timestep: int) -> torch.Tensor:
    return network(8)(images, timestep).sample


def scheduler(**more) -> DDPMScheduler:
    return DDPMScheduler(num_train_timesteps=1000, **more)


def ours(numbers: dict, batch: int) -> torch.Tensor:
    settings = {"images": 5, "steps": 6, "eta": 0.0, "seed": 0, **numbers}
    pieces = list(generate(network(8), scheduler(), settings, SHAPE, batch, CPU))
    assert [i for part, _ in pieces for i in part] == list(range(settings["images"]))
    return torch.cat([images for _, images in pieces])


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("steps", [10, 7])
def test_ddim_equals_the_pipeline_of_diffusers(steps: int, eta: float, clip: bool):
    """The pipeline draws its noises from one generator: x_T first, then one a step."""
    pipeline = DDIMPipeline(
        network(8), DDIMScheduler.from_config(scheduler(clip_sample=clip).config)
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        batch_size=3,
        generator=torch.Generator().manual_seed(5),
        eta=eta,
        num_inference_steps=steps,
        output_type="np",
    ).images  # [images, height, width, channels] in [0, 1]
    draws = torch.Generator().manual_seed(5)
    computed = ddim(
        predict,
        torch.randn(3, *SHAPE, generator=draws),
        scheduler(clip_sample=clip),
        steps,
        eta,
        lambda timestep: torch.randn(3, *SHAPE, generator=draws),
    )
    np.testing.assert_allclose(computed.permute(0, 2, 3, 1).numpy(), expected * 2 - 1, atol=2e-5)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_equals_the_formula_in_float64(eta: float):
    """Song et al. 2021, Eq. 12 and 16, for timesteps 750, 500, 250, 0 (and abar 1 at the end)."""
    random = np.random.default_rng(0)
    start, added = random.normal(size=(2, *SHAPE)), random.normal(size=(4, 2, *SHAPE))
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    x = start
    for number, t in enumerate([750, 500, 250, 0]):
        noise = np.tanh(x) * (1 + t / 1000)
        now, then = abar[t], abar[t - 250] if t else 1.0
        clean = ((x - np.sqrt(1 - now) * noise) / np.sqrt(now)).clip(-1, 1)
        sigma = eta * np.sqrt((1 - then) / (1 - now)) * np.sqrt(1 - now / then)
        x = np.sqrt(then) * clean + np.sqrt(1 - then - sigma**2) * noise + sigma * added[number]
    computed = ddim(
        lambda images, t: torch.tanh(images) * (1 + t / 1000),
        torch.from_numpy(start).float(),
        scheduler(beta_start=1e-4, beta_end=0.02, clip_sample=True),
        4,
        eta,
        lambda t: torch.from_numpy(added[[750, 500, 250, 0].index(t)]).float(),
    )
    np.testing.assert_allclose(computed.numpy(), x.clip(-1, 1), atol=2e-4)


def test_results_are_in_the_model_s_range():
    images = ddim(lambda x, t: -x, 3 * torch.randn(2, *SHAPE), scheduler(clip_sample=False), 5, 0.0)
    assert images.abs().max() <= 1
    assert images.shape == (2, *SHAPE)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_an_image_does_not_depend_on_its_batch(eta: float):
    whole = ours({"eta": eta}, batch=5)
    for batch in (1, 2, 3):
        torch.testing.assert_close(ours({"eta": eta}, batch), whole, rtol=0, atol=1e-4)


def test_added_noise_is_keyed_by_image_and_timestep():
    seen = {}

    def step_noise(timestep: int) -> torch.Tensor:
        seen[timestep] = np.stack(
            [normal(SHAPE, "generation step", 0, i, timestep) for i in range(5)]
        )
        return torch.from_numpy(seen[timestep])

    expected = ddim(predict, initial_noise(range(5), 0, SHAPE), scheduler(), 6, 1.0, step_noise)
    torch.testing.assert_close(ours({"eta": 1.0}, 5), expected, rtol=0, atol=1e-6)
    assert len({row.tobytes() for noise in seen.values() for row in noise}) == 6 * 5


def test_more_images_leave_the_first_ones_as_they_are():
    torch.testing.assert_close(ours({"images": 7}, 4)[:5], ours({}, 4), rtol=0, atol=1e-4)


def test_seed_and_eta_change_the_images():
    first = ours({}, 5)
    assert torch.equal(ours({}, 5), first)
    assert not torch.allclose(ours({"seed": 1}, 5), first, atol=1e-2)
    assert not torch.allclose(ours({"eta": 1.0}, 5), first, atol=1e-3)
    assert len({image.numpy().tobytes() for image in first}) == 5


def test_initial_noise_is_keyed_by_the_number_of_the_image():
    whole = initial_noise(range(6), 0, SHAPE)
    assert whole.shape == (6, *SHAPE)
    assert torch.equal(initial_noise(range(2, 4), 0, SHAPE), whole[2:4])
    assert not torch.equal(initial_noise(range(6), 1, SHAPE), whole)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_an_image_goes_on_from_a_step_as_if_it_had_not_paused(eta: float):
    settings = {"images": 5, "steps": 6, "eta": eta, "seed": 0}
    timesteps = ddim_timesteps(scheduler(), 6).tolist()
    whole = generated(network(8), scheduler(), settings, SHAPE, range(5), CPU)
    for step in (timesteps[0], timesteps[3], timesteps[-1]):
        way = (network(8), scheduler(), settings, SHAPE, range(5), CPU)
        noisy = generated(*way, stop=step)
        again = generated(*way, start=(step, noisy))
        torch.testing.assert_close(again, whole, rtol=0, atol=1e-5)
    assert torch.equal(generated(*way, stop=timesteps[0]), initial_noise(range(5), 0, SHAPE))


def test_the_noisy_image_at_a_step_is_that_of_the_formula():
    """x_500 of timesteps 750, 500, 250, 0 is one DDIM step (Song et al. 2021, Eq. 12) from noise,
    and is not clamped."""
    start = 2 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    noise = torch.tanh(start).double().numpy()
    clean = (start.numpy() - np.sqrt(1 - abar[750]) * noise) / np.sqrt(abar[750])
    expected = np.sqrt(abar[500]) * clean.clip(-1, 1) + np.sqrt(1 - abar[500]) * noise
    config = {"beta_start": 1e-4, "beta_end": 0.02}
    found = ddim(lambda x, t: torch.tanh(x), start, scheduler(**config), 4, 0.0, stop=500)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.abs().max() > 1


def test_the_nearest_timestep_of_a_sampler():
    assert nearest_timestep(ddim_timesteps(scheduler(), 50), 400) == 400
    assert nearest_timestep(np.array([981, 661, 341, 21]), 400) == 341
    assert nearest_timestep(np.array([750, 500, 250, 0]), 375) == 500


def path(numbers: dict, images: range = range(5), clip: bool = True) -> torch.Tensor:
    settings = {"images": 5, "steps": 6, "eta": 0.0, "seed": 0, **numbers}
    return trajectories(network(8), scheduler(clip_sample=clip), settings, SHAPE, images, CPU)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_the_last_step_s_clean_image_is_the_generated_one(eta: float):
    clean = path({"eta": eta})
    assert clean.shape == (5, 6, *SHAPE)
    images = ours({"eta": eta}, 5)
    np.testing.assert_array_equal(to_pixels(clean[:, -1]), to_pixels(images))
    torch.testing.assert_close(clean[:, -1], images, rtol=0, atol=1e-6)
    apart = (clean[:, :-1] - images[:, None]).abs().amax((2, 3, 4))
    assert (apart > 1e-3).all()  # the earlier steps have other ideas


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_clean_images_are_those_of_the_formula_in_float64(eta: float, clip: bool):
    """x0-hat = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t), clamped where the scheduler clips."""
    random = np.random.default_rng(0)
    start, added = random.normal(size=(2, *SHAPE)), random.normal(size=(4, 2, *SHAPE))
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    x, expected = start, []
    for number, t in enumerate([750, 500, 250, 0]):
        noise = np.tanh(x) * (1 + t / 1000)
        now, then = abar[t], abar[t - 250] if t else 1.0
        clean = (x - np.sqrt(1 - now) * noise) / np.sqrt(now)
        clean = clean.clip(-1, 1) if clip else clean
        expected.append(clean)
        sigma = eta * np.sqrt((1 - then) / (1 - now)) * np.sqrt(1 - now / then)
        x = np.sqrt(then) * clean + np.sqrt(1 - then - sigma**2) * noise + sigma * added[number]
    seen: list[torch.Tensor] = []
    ddim(
        lambda images, t: torch.tanh(images) * (1 + t / 1000),
        torch.from_numpy(start).float(),
        scheduler(beta_start=1e-4, beta_end=0.02, clip_sample=clip),
        4,
        eta,
        lambda t: torch.from_numpy(added[[750, 500, 250, 0].index(t)]).float(),
        seen.append,
    )
    np.testing.assert_allclose(torch.stack(seen).numpy(), np.stack(expected), rtol=1e-3, atol=1e-3)
    largest = np.abs(np.stack(expected)).max()
    assert largest == 1 if clip else largest > 1.1


def test_the_path_of_an_image_does_not_depend_on_the_others():
    whole = path({"eta": 0.5})
    for images in (range(0, 1), range(2, 5)):
        alone = path({"eta": 0.5}, images)
        torch.testing.assert_close(alone, whole[images.start : images.stop], rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [4, 7, 50])
def test_timesteps_are_those_that_the_sampler_goes_through(steps: int):
    seen: list[int] = []

    def noting(images: torch.Tensor, timestep: int) -> torch.Tensor:
        seen.append(timestep)
        return images

    ddim(noting, torch.zeros(1, *SHAPE), scheduler(), steps, 0.0)
    timesteps = ddim_timesteps(scheduler(), steps)
    assert timesteps.dtype == np.int64
    assert timesteps.tolist() == seen
    if steps == 50:
        assert seen == list(range(980, -1, -20))


def test_the_script_records_what_the_generated_images_came_from(tmp_path: Path):
    generation = {"images": 5, "steps": 4, "eta": 0.5, "seed": 0}
    settings = {"diffusion": DIFFUSION, "generation": generation}
    model = {"model": save_network(tmp_path / "base", network(8))}
    folder = tmp_path / "generated"
    record = {"manifest": folder / "trajectories.zarr/manifest.json"}
    run_script("record_trajectories", settings, model, record)
    store = Reader(folder / "trajectories.zarr")
    clean = store.read("trajectories")
    assert clean.shape == (5, 4, *SHAPE)
    assert clean.dtype == np.float32
    assert np.abs(clean).max() <= 1
    assert store.read("timesteps").tolist() == [750, 500, 250, 0]
    assert store.read("ids").tolist() == [0, 1, 2, 3, 4]
    assert store.manifest["kind"] == "trajectories"
    run_script(
        "generate_images", settings, model, {"manifest": folder / "generation.zarr/manifest.json"}
    )
    images, _ = read_split(folder / "generation.zarr")
    np.testing.assert_array_equal(to_pixels(torch.from_numpy(clean[:, -1])), images.images)
    # A lost chunk is made again, the others are kept.
    chunks = folder / "trajectories.zarr/trajectories/c"
    lost, kept = chunks / "1/0/0/0/0", chunks / "0/0/0/0/0"
    lost.unlink()
    before = kept.stat().st_mtime_ns
    run_script("record_trajectories", settings, model, record)
    assert kept.stat().st_mtime_ns == before
    again = Reader(folder / "trajectories.zarr")
    assert again.manifest["sha256"] == store.manifest["sha256"]
