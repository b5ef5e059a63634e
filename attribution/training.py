"""Training a denoising network on a subset of the images, resumable at any moment.

All draws are keyed by the seed and the step, and not by the subset: two models of one seed start
from the same weights and meet the same timesteps, noises and flips, as in the authors' code. Their
outputs then differ by the subset and less by chance, which is what a benchmark over subsets needs
(docs/benchmark-design.md has the measurement).
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from attribution.diffusion import add_noise, schedule
from attribution.errors import NumericalError
from attribution.inputs import LatentSet, PixelSet
from attribution.models import build, build_lora, trained_state
from attribution.provenance import canonical_digest
from attribution.randomness import generator
from attribution.randomness import seed as seed_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How to train: an experiment's sections `model`, `diffusion`, `training`, `compute`, and
    `pretrained` where LoRA is trained on a published network."""

    model: dict[str, Any]
    diffusion: dict[str, Any]
    training: dict[str, Any]
    compute: dict[str, Any]
    pretrained: dict[str, Any] | None = None

    def network(self, seed: int) -> torch.nn.Module:
        """The network at the beginning of a training of this seed."""
        dropout = self.training["dropout"]
        if self.pretrained is None:
            return build(self.model, dropout, seed)
        return build_lora(self.pretrained, dropout, seed)


def learning_rate(step: int, steps: int, settings: dict[str, Any]) -> float:
    """Linear warm-up from 0, then half a cosine to 0 (paper section 4.2); `step` counts from 0."""
    warmup = math.ceil(settings["warmup_fraction"] * steps)
    if step < warmup:
        return settings["learning_rate"] * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return settings["learning_rate"] * 0.5 * (1 + math.cos(math.pi * progress))


def batches(rows: np.ndarray, batch: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The rows of one epoch in shuffled batches; the last one may be smaller."""
    order = generator("order", seed, epoch).permutation(np.sort(rows))
    return [order[start : start + batch] for start in range(0, len(order), batch)]


def draws(
    seed: int, step: int, batch: int, shape: tuple[int, ...], timesteps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Timesteps [batch] int64, flips [batch] bool and noise [batch, *shape] of one step."""
    random = generator("training", seed, step)
    steps = random.integers(timesteps, size=batch)
    flips = random.random(batch) < 0.5
    return steps, flips, random.standard_normal((batch, *shape), dtype=np.float32)


class Trainer:
    """One training run: `images` all training images, `rows` the ones to train on."""

    def __init__(
        self,
        images: PixelSet | LatentSet,
        rows: np.ndarray,
        recipe: Recipe,
        seed: int,
        device: torch.device,
    ):
        self.images, self.rows, self.recipe, self.seed = images, rows, recipe, seed
        self.device, self.settings = device, recipe.training
        self.scheduler = schedule(recipe.diffusion)
        self.alphas_cumprod = self.scheduler.alphas_cumprod.to(device)
        self.model = recipe.network(seed).to(device)
        self.trained = [one for one in self.model.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=self.settings["learning_rate"],
            betas=tuple(self.settings["betas"]),
            eps=self.settings["epsilon"],
            weight_decay=self.settings["weight_decay"],
            fused=True,
        )
        self.steps_per_epoch = math.ceil(len(rows) / self.settings["batch_size"])
        self.steps = self.steps_per_epoch * self.settings["epochs"]
        self.step = 0
        self.losses: list[float] = []
        self._total = torch.zeros((), device=device)  # the loss summed over the epoch so far

    def run(
        self,
        state: Path,
        spec: dict[str, Any],
        save_seconds: float,
        at_checkpoint: Callable[[int, torch.nn.Module], None] | None = None,
    ) -> tuple[torch.nn.Module, list[float]]:
        """Train to the end; returns the model in evaluation mode and the mean loss of each epoch.

        Args:
            state: file of the unfinished run; read if it is of this spec, removed at the end.
            spec: what decides the result.
            save_seconds: time between two saves of the state.
            at_checkpoint: called with (number from 1, model) at each evenly spaced checkpoint.

        Raises:
            NumericalError: the loss is not finite.
        """
        self._resume(state, spec)
        marks = self._checkpoint_steps() if at_checkpoint else {}
        saved = time.monotonic()
        self.model.train()
        progress = tqdm(
            total=self.steps, initial=self.step, desc="training", disable=None, leave=False
        )
        with torch.random.fork_rng():
            while self.step < self.steps:
                epoch, first = divmod(self.step, self.steps_per_epoch)
                order = batches(self.rows, self.settings["batch_size"], self.seed, epoch)
                for rows in order[first:]:
                    self._total += self._update(rows) * len(rows)
                    progress.update()
                    if self.step in marks:
                        at_checkpoint(marks[self.step], self.model)
                    if self.step % self.steps_per_epoch == 0:
                        self._close_epoch(epoch)
                    if time.monotonic() - saved > save_seconds:
                        self._save(state, spec)
                        saved = time.monotonic()
        progress.close()
        state.unlink(missing_ok=True)
        return self.model.eval(), self.losses

    def _checkpoint_steps(self) -> dict[int, int]:
        count = self.settings["checkpoints"]
        return {round(self.steps * number / count): number for number in range(1, count + 1)}

    def _update(self, rows: np.ndarray) -> torch.Tensor:
        """One optimiser step on the simple loss (paper Eq. 2); returns the detached mean loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.settings)
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(seed_of("dropout", self.seed, self.step))
        total = torch.zeros((), device=self.device)
        for share, loss in self._losses(rows):
            (loss * share).backward()
            total += loss.detach() * share
        torch.nn.utils.clip_grad_norm_(self.trained, self.settings["gradient_clip"])
        self.optimizer.step()
        self.step += 1
        return total

    def _losses(self, rows: np.ndarray) -> Iterator[tuple[float, torch.Tensor]]:
        """The mean losses of the batch's parts, which go through the network one after the other,
        and the share of the batch that each is."""
        settings, whole = self.settings, len(self.alphas_cumprod)
        steps, flips, noise = draws(self.seed, self.step, len(rows), self.images.shape, whole)
        clean, conditioning = self.images.batch(
            rows, flips & settings["flip"], self.seed, self.step, settings["caption_dropout"]
        )
        tensors = clean, torch.from_numpy(noise), torch.from_numpy(steps), *conditioning.values()
        size = math.ceil(len(rows) / settings["accumulation"])
        for parts in zip(*(tensor.split(size) for tensor in tensors), strict=True):
            clean, noise, steps, *given = (
                part.to(self.device, non_blocking=True) for part in parts
            )
            noisy = add_noise(clean, noise, self.alphas_cumprod[steps])
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.recipe.compute["precision"] == "bf16"
            ):
                named = dict(zip(conditioning, given, strict=True))
                predicted = self.model(noisy, steps, **named).sample
            loss = torch.nn.functional.mse_loss(predicted.float(), noise)
            yield len(clean) / len(rows), loss

    def _close_epoch(self, epoch: int) -> None:
        self.losses.append(self._total.item() / len(self.rows))
        self._total.zero_()
        if not math.isfinite(self.losses[-1]):
            raise NumericalError(
                f"the training loss is {self.losses[-1]} in epoch {epoch + 1} (seed {self.seed}); "
                "lower training.learning_rate, or use precision fp32"
            )
        if (epoch + 1) % max(1, self.settings["epochs"] // 10) == 0:
            logger.info(
                "epoch %d of %d: loss %.4f", epoch + 1, self.settings["epochs"], self.losses[-1]
            )

    def _save(self, state: Path, spec: dict[str, Any]) -> None:
        state.parent.mkdir(parents=True, exist_ok=True)
        scratch = state.with_name(f".{state.name}.new")
        torch.save(
            {
                "spec": canonical_digest(spec),
                "step": self.step,
                "model": trained_state(self.model),
                "optimizer": self.optimizer.state_dict(),
                "losses": self.losses,
                "total": self._total.item(),
            },
            scratch,
        )
        scratch.replace(state)

    def _resume(self, state: Path, spec: dict[str, Any]) -> None:
        """Load the state of an interrupted run of the same spec, if there is a readable one."""
        if not state.is_file():
            return
        try:
            saved = torch.load(state, map_location=self.device, weights_only=True)
        except (RuntimeError, EOFError, ValueError, OSError, UnpicklingError) as error:
            logger.warning("%s cannot be read (%s); training starts anew", state, error)
            return
        if saved["spec"] != canonical_digest(spec):
            logger.info("%s belongs to other settings; training starts anew", state)
            return
        self.model.load_state_dict(saved["model"], strict=False)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.losses = saved["step"], saved["losses"]
        self._total.fill_(saved["total"])
        logger.info("going on at step %d of %d", self.step, self.steps)
