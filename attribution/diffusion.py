"""The forward process: noise schedule, choice of timesteps, and the bank of noises."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler

from attribution.randomness import KeyPart, normal


def schedule(settings: dict[str, Any]) -> DDPMScheduler:
    """The noise schedule of a `diffusion` section; `.alphas_cumprod` is abar_t [timesteps].

    Its configuration also holds what the sampler reads: `steps_offset` and `set_alpha_to_one`.
    """
    scheduler = DDPMScheduler(
        num_train_timesteps=settings["timesteps"],
        beta_schedule=settings["beta_schedule"],
        beta_start=settings["beta_start"],
        beta_end=settings["beta_end"],
        clip_sample=settings["clip_sample"],
        prediction_type="epsilon",
        steps_offset=settings.get("steps_offset", 0),
    )
    scheduler.register_to_config(set_alpha_to_one=settings.get("set_alpha_to_one", True))
    return scheduler


def add_noise(
    images: torch.Tensor, noise: torch.Tensor, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps (paper section 2.1).

    Args:
        images: [pairs, channels, height, width] in [-1, 1].
        noise: broadcastable to the images.
        alphas_cumprod: abar of each pair, [pairs].
    """
    kept = alphas_cumprod.view(-1, *[1] * (images.dim() - 1))
    return kept.sqrt() * images + (1 - kept).sqrt() * noise


def timesteps(count: int, strategy: str, whole: int) -> np.ndarray:
    """`count` of the timesteps 0 … whole-1, ascending, int64.

    `midpoints`: the middles of `count` equal intervals (50, 150, … for 10 of 1,000). `uniform`:
    0, whole/count, …, the paper's "evenly spaced" (section 4.3). `cumulative`: 0 … count-1, the
    paper's alternative (Appendix B).
    """
    if strategy == "midpoints":
        return (2 * np.arange(count) + 1) * whole // (2 * count)
    if strategy == "uniform":
        return np.arange(count) * (whole // count)
    return np.arange(count)


def nearest_timestep(timesteps: np.ndarray, wanted: int) -> int:
    """The timestep of a sampler [steps] that is nearest to the wanted one; of two, the earlier in
    sampling."""
    return int(timesteps[np.abs(timesteps - wanted).argmin()])


class NoiseBank:
    """The noises that images meet: image i uses row i mod rows; without rows, one of its own.

    With one row, every image (training and query alike) meets the same noise at a timestep. All
    draws are keyed by purpose, seed, index of the noise, timestep and row.
    """

    def __init__(
        self,
        purpose: str,
        seed: int,
        rows: int | None,
        shape: tuple[int, ...],
        one_for_all: bool = False,
    ):
        """
        Args:
            purpose: what the noise is for; features and outputs of one seed differ by it.
            rows: rows of the bank, or None for a noise of its own for each image.
            shape: of one noise, [channels, height, width].
            one_for_all: use one noise for all timesteps.
        """
        self.purpose, self.seed, self.rows, self.shape = purpose, seed, rows, shape
        self.one_for_all = one_for_all
        self._row = lru_cache(maxsize=4096 if rows else 0)(self._draw)

    def _draw(self, index: int, timestep: int | None, row: KeyPart) -> np.ndarray:
        return normal(self.shape, self.purpose, self.seed, index, timestep, row)

    def noise(self, index: int, timestep: int, images: Sequence[KeyPart]) -> np.ndarray:
        """Noise number `index` of a timestep, [1 or images, channels, height, width].

        Args:
            images: what tells each image from all others: its id, or `split:id` where ids of
                different origins meet.
        """
        step = None if self.one_for_all else int(timestep)
        if self.rows == 1:
            return self._row(index, step, 0)[None]
        rows = [image if self.rows is None else _number(image) % self.rows for image in images]
        return np.stack([self._row(index, step, row) for row in rows])

    def noises(self, steps: np.ndarray, count: int, images: Sequence[KeyPart]) -> np.ndarray:
        """`count` noises of every timestep, [1 or images, timesteps * count, …], timestep-major."""
        drawn = [self.noise(j, t, images) for t in steps for j in range(count)]
        return np.stack(drawn, axis=1)


def _number(image: KeyPart) -> int:
    return int(str(image).rsplit(":", 1)[-1])
