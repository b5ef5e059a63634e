"""Generating images with DDIM (paper section 4.2)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from attribution.randomness import normal


def initial_noise(images: range, seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The noise that each image starts from, by its number: [images, channels, height, width]."""
    return torch.from_numpy(np.stack([normal(shape, "generation", seed, i) for i in images]))


@torch.inference_mode()
def ddim(
    predict: Callable[[torch.Tensor, int], torch.Tensor],
    noise: torch.Tensor,
    scheduler: DDPMScheduler,
    steps: int,
    eta: float,
    step_noise: Callable[[int], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Denoise `noise` in `steps` DDIM steps; the result is in [-1, 1], of the same shape.

    Args:
        predict: (x_t, t) to the predicted noise.
        noise: x_T, [images, channels, height, width].
        scheduler: the schedule that the model was trained with.
        eta: 0 is deterministic DDIM; above it, `step_noise(t)` is added.
    """
    sampler = DDIMScheduler.from_config(scheduler.config)
    sampler.set_timesteps(steps, device=noise.device)
    images = noise
    for timestep in sampler.timesteps.tolist():
        added = step_noise(timestep) if eta > 0 else None
        images = sampler.step(
            predict(images, timestep), timestep, images, eta=eta, variance_noise=added
        ).prev_sample
    return images.clamp(-1, 1)


def generate(
    model: torch.nn.Module,
    scheduler: DDPMScheduler,
    settings: dict[str, Any],
    shape: tuple[int, ...],
    batch: int,
    device: torch.device,
) -> Iterator[tuple[range, torch.Tensor]]:
    """Generate the images of a `generation` section, batch by batch.

    Yields:
        The numbers of the images and the images [batch, channels, height, width] in [-1, 1].
    """
    seed, eta = settings["seed"], settings["eta"]
    for start in range(0, settings["images"], batch):
        numbers = range(start, min(start + batch, settings["images"]))

        def step_noise(timestep: int, numbers: range = numbers) -> torch.Tensor:
            drawn = [normal(shape, "generation step", seed, i, timestep) for i in numbers]
            return torch.from_numpy(np.stack(drawn)).to(device)

        yield (
            numbers,
            ddim(
                lambda images, timestep: model(images, timestep).sample,
                initial_noise(numbers, seed, shape).to(device),
                scheduler,
                settings["steps"],
                eta,
                step_noise,
            ),
        )
