"""Generating images with DDIM (paper section 4.2), and the paths by which they come about."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from attribution.randomness import normal


@dataclass(frozen=True)
class Prompts:
    """Captions by which latents are generated, with classifier-free guidance.

    conditional: the caption's embedding of each image [images, tokens, width]; empty: that of the
    empty caption [tokens, width]; guidance: 1 follows the caption, above it exaggerates
    (Ho and Salimans 2022).
    """

    conditional: torch.Tensor
    empty: torch.Tensor
    guidance: float

    def predictor(
        self, model: torch.nn.Module, numbers: range, device: torch.device
    ) -> Callable[[torch.Tensor, int], torch.Tensor]:
        """(x_t, t) to the guided noise, for the images of these numbers."""
        wanted = self.conditional[numbers.start : numbers.stop].to(device)
        both = torch.cat([self.empty.to(device).expand_as(wanted), wanted])

        def predict(images: torch.Tensor, timestep: int) -> torch.Tensor:
            if self.guidance == 1:
                return model(images, timestep, encoder_hidden_states=wanted).sample
            twice = torch.cat([images, images])
            free, led = model(twice, timestep, encoder_hidden_states=both).sample.chunk(2)
            return free + self.guidance * (led - free)

        return predict


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
    observe: Callable[[torch.Tensor], None] | None = None,
    bounded: bool = True,
    start: int | None = None,
    stop: int | None = None,
) -> torch.Tensor:
    """Denoise `noise` in `steps` DDIM steps; the result is of the same shape, and in [-1, 1] if
    `bounded`, as images are and latents are not.

    Args:
        predict: (x_t, t) to the predicted noise.
        noise: x_T, [images, channels, height, width]; x_t at t = `start` if that is given.
        scheduler: the schedule that the model was trained with.
        eta: 0 is deterministic DDIM; above it, `step_noise(t)` is added.
        observe: is shown the predicted clean images x0-hat of every step, in the order of the
            steps, clamped to [-1, 1] if the scheduler clips; of the images' shape.
        start: a timestep of the sampler, the first that is gone through; all if not given.
        stop: a timestep of the sampler, before which the way ends: the result is then x_t at
            t = `stop`, as it is. Without it, the result is the image.
    """
    sampler = _sampler(scheduler, steps)
    images = noise
    way = sampler.timesteps.tolist()
    way = way[0 if start is None else way.index(start) : None if stop is None else way.index(stop)]
    for timestep in way:
        added = step_noise(timestep) if eta > 0 else None
        step = sampler.step(
            predict(images, timestep), timestep, images, eta=eta, variance_noise=added
        )
        if observe is not None:
            observe(step.pred_original_sample)
        images = step.prev_sample
    return images.clamp(-1, 1) if bounded and stop is None else images


def ddim_timesteps(scheduler: DDPMScheduler, steps: int) -> np.ndarray:
    """The timesteps that `ddim` goes through, from noise to image: [steps] int64."""
    return _sampler(scheduler, steps).timesteps.numpy().astype(np.int64)


def _sampler(scheduler: DDPMScheduler, steps: int) -> DDIMScheduler:
    sampler = DDIMScheduler.from_config(scheduler.config)
    sampler.set_timesteps(steps)
    return sampler


def generate(
    model: torch.nn.Module,
    scheduler: DDPMScheduler,
    settings: dict[str, Any],
    shape: tuple[int, ...],
    batch: int,
    device: torch.device,
    prompts: Prompts | None = None,
) -> Iterator[tuple[range, torch.Tensor]]:
    """Generate the images of a `generation` section, batch by batch.

    Yields:
        The numbers of the images and the images [batch, channels, height, width] in [-1, 1], or
        their latents.
    """
    for start in range(0, settings["images"], batch):
        numbers = range(start, min(start + batch, settings["images"]))
        yield (
            numbers,
            generated(model, scheduler, settings, shape, numbers, device, prompts=prompts),
        )


def trajectories(
    model: torch.nn.Module,
    scheduler: DDPMScheduler,
    settings: dict[str, Any],
    shape: tuple[int, ...],
    numbers: range,
    device: torch.device,
    prompts: Prompts | None = None,
) -> torch.Tensor:
    """What the sampler takes for the clean image at each step, for some of the generated images.

    These are the pictures that Journey TRAK (Georgiev et al. 2023) noises anew: x0-hat at every
    DDIM step, clamped to [-1, 1] if the scheduler clips; the last is the generated image.

    Args:
        numbers: which of the images that `generate` makes of the same settings.

    Returns:
        [images, steps, channels, height, width] float32, steps as in `ddim_timesteps`.
    """
    clean: list[torch.Tensor] = []
    generated(model, scheduler, settings, shape, numbers, device, clean.append, prompts)
    return torch.stack(clean, 1)


def generated(
    model: torch.nn.Module,
    scheduler: DDPMScheduler,
    settings: dict[str, Any],
    shape: tuple[int, ...],
    numbers: range,
    device: torch.device,
    observe: Callable[[torch.Tensor], None] | None = None,
    prompts: Prompts | None = None,
    start: tuple[int, torch.Tensor] | None = None,
    stop: int | None = None,
) -> torch.Tensor:
    """The images of these numbers, [images, channels, height, width].

    Args:
        start: a timestep of the sampler and the noisy images x_t there, to go on from; without it,
            from noise. stop: a timestep at which to end; the result is then x_t.
    """
    seed = settings["seed"]

    def step_noise(timestep: int) -> torch.Tensor:
        drawn = [normal(shape, "generation step", seed, i, timestep) for i in numbers]
        return torch.from_numpy(np.stack(drawn)).to(device)

    def plain(images: torch.Tensor, timestep: int) -> torch.Tensor:
        return model(images, timestep).sample

    begin, noisy = start or (None, initial_noise(numbers, seed, shape))
    return ddim(
        prompts.predictor(model, numbers, device) if prompts else plain,
        noisy.to(device),
        scheduler,
        settings["steps"],
        settings["eta"],
        step_noise,
        observe,
        bounded=prompts is None,
        start=begin,
        stop=stop,
    )
