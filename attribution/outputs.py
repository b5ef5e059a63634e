"""Model outputs of the benchmark: F(x; theta) of Definition 1, for every query and model.

F is `outputs.function`; the functions of `outputs.others` are taken of the same predictions, so
that comparing benchmarks (paper Table 4) costs no further pass.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from attribution.diffusion import NoiseBank, add_noise, schedule, timesteps
from attribution.errors import NumericalError
from attribution.output_functions import elbo_weights, output_function
from attribution.randomness import KeyPart


class OutputEvaluator:
    """Evaluates F and others for one set of queries; the noises are the same for every model."""

    def __init__(
        self,
        images: torch.Tensor,
        keys: Sequence[KeyPart],
        settings: dict[str, Any],
        diffusion: dict[str, Any],
        precision: str,
        batch: int,
        device: torch.device,
        conditioning: Callable[[torch.Tensor], dict[str, torch.Tensor]] = lambda rows: {},
    ):
        """
        Args:
            images: queries [queries, channels, height, width] in [-1, 1].
            keys: what tells each query from others, for noises of its own.
            settings: an `outputs` section; its `others` may be empty.
            batch: (query, timestep) pairs at once.
            conditioning: keyword arguments of the network for these queries.
        """
        self.conditioning = conditioning
        self.images, self.keys, self.settings = images.to(device), list(keys), settings
        self.precision, self.batch, self.device = precision, batch, device
        scheduler = schedule(diffusion)
        self.alphas_cumprod = scheduler.alphas_cumprod.to(device)
        self.weights = elbo_weights(scheduler.betas).to(device)
        names = (settings["function"], *settings["others"])
        self.functions = {name: output_function(name) for name in names}
        self.steps = timesteps(settings["timesteps"], settings["strategy"], diffusion["timesteps"])
        self.bank = NoiseBank(
            "output noise", settings["seed"], settings["bank"], tuple(images.shape[1:])
        )

    @torch.inference_mode()
    def __call__(self, model: torch.nn.Module) -> dict[str, np.ndarray]:
        """Of each function, by name, [noises, groups, queries] float32: means over each group's
        timesteps.

        Timestep number j is in group j mod groups, so every group is evenly spaced.

        Raises:
            NumericalError: an output is not finite.
        """
        noises, groups = self.settings["noises"], self.settings["groups"]
        values = torch.zeros(len(self.functions), noises, len(self.steps), len(self.images))
        for index in range(noises):
            for pairs in self._passes():
                values[:, index, *pairs] = self._evaluate(model, index, *pairs)
        if not torch.isfinite(values).all():
            raise NumericalError("a model output is not finite; the model may have diverged")
        groups_of = np.arange(len(self.steps)) % groups
        means = [values[:, :, groups_of == group].mean(2) for group in range(groups)]
        return dict(zip(self.functions, torch.stack(means, 2).numpy(), strict=True))

    def _passes(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All (timestep, query) pairs, timestep by timestep, `batch` at once: two index tensors."""
        queries = len(self.images)
        for pairs in torch.arange(len(self.steps) * queries).split(self.batch):
            yield pairs // queries, pairs % queries

    def _evaluate(
        self,
        model: torch.nn.Module,
        index: int,
        which_step: torch.Tensor,
        which_query: torch.Tensor,
    ) -> torch.Tensor:
        """[functions, pairs] float32, from one forward pass."""
        steps = torch.from_numpy(self.steps)[which_step].to(self.device)
        noise = self._noise(index, which_step, which_query)
        noisy = add_noise(self.images[which_query], noise, self.alphas_cumprod[steps])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            given = self.conditioning(which_query)
            given = {name: value.to(self.device) for name, value in given.items()}
            predicted = model(noisy, steps, **given).sample
        weights = self.weights[steps]
        values = [one(predicted, noise, weights) for one in self.functions.values()]
        return torch.stack(values).float().cpu()

    def _noise(
        self, index: int, which_step: torch.Tensor, which_query: torch.Tensor
    ) -> torch.Tensor:
        """[pairs, channels, height, width]; the pairs come ordered by timestep."""
        parts = []
        for step in which_step.unique_consecutive().tolist():
            queries = which_query[which_step == step].tolist()
            keys = [self.keys[query] for query in queries]
            drawn = torch.from_numpy(self.bank.noise(index, self.steps[step], keys))
            parts.append(drawn.expand(len(queries), *drawn.shape[1:]))
        return torch.cat(parts).to(self.device)
