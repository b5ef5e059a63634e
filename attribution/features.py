"""Feature stores: projected gradients of a split, chunk by chunk (paper Eq. 7, Appendix A.3)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from attribution.diffusion import NoiseBank, schedule, timesteps
from attribution.errors import NumericalError
from attribution.gradients import GradientEngine
from attribution.output_functions import elbo_weights
from attribution.projection import Projector, build_projector
from attribution.randomness import KeyPart
from attribution.stores import Layout, Writer


class FeatureExtractor:
    """Projected gradients of images under one feature set: f averaged over timesteps and noises."""

    def __init__(
        self,
        model: torch.nn.Module,
        settings: dict[str, Any],
        diffusion: dict[str, Any],
        precision: str,
        shape: tuple[int, ...],
        device: torch.device,
        engine: str = "auto",
    ):
        """
        Args:
            model: the network at the checkpoint that the feature set names.
            settings: one entry of `features`.
            shape: of one image, [channels, height, width].
        """
        scheduler = schedule(diffusion)
        self.device, self.noises = device, settings["noises"]
        self.steps = timesteps(settings["timesteps"], settings["strategy"], diffusion["timesteps"])
        self.bank = NoiseBank(
            "feature noise",
            settings["seed"],
            settings["bank"],
            shape,
            one_for_all=settings["noise"] == "one_for_all",
        )
        self.engine = GradientEngine(
            model,
            scheduler.alphas_cumprod,
            settings["function"],
            engine=engine,
            precision=precision,
            elbo_weight=elbo_weights(scheduler.betas),
        )
        wanted = settings["projection"]
        self.projector: Projector = build_projector(
            wanted["kind"], self.engine.dimension, wanted["dim"], wanted["seed"], device=str(device)
        )

    def __call__(self, images: torch.Tensor, keys: Sequence[KeyPart]) -> np.ndarray:
        """Features of images [images, …] in [-1, 1]: [images, k] float32.

        Raises:
            NumericalError: a gradient is not finite, or zero throughout; the message names the
            image.
        """
        noise = torch.from_numpy(self.bank.noises(self.steps, self.noises, keys))
        steps = torch.from_numpy(self.steps).repeat_interleave(self.noises)
        try:
            gradients = self.engine(
                images.to(self.device), noise.to(self.device), steps.to(self.device)
            )
            return self.projector.project(gradients).cpu().numpy()
        except NumericalError as error:
            rows = getattr(error, "rows", [])
            named = ", ".join(str(keys[row]) for row in rows[:5])
            raise NumericalError(f"{error} (image id {named})") from None


def layouts(images: int, settings: dict[str, Any], dimension: int, rows_per_chunk: int) -> dict:
    """The arrays of a feature store: features [images, k], ids [images], and for float16 a scale.

    In half precision each row is divided by its largest magnitude, kept in `scale` [images], so
    that small gradients do not vanish.
    """
    rows = min(rows_per_chunk, images)
    arrays = {
        "features": Layout(
            ("images", "k"), (images, dimension), (rows, dimension), settings["dtype"]
        ),
        "ids": Layout(("images",), (images,), (rows,), "int64"),
    }
    if settings["dtype"] == "float16":
        arrays["scale"] = Layout(("images",), (images,), (rows,))
    return arrays


def extract(
    extractor: FeatureExtractor,
    writer: Writer,
    images: np.ndarray,
    ids: np.ndarray,
    keys: Sequence[KeyPart],
    shard: tuple[int, int],
    batch: int,
) -> list[int]:
    """Write the chunks of one shard that are not there yet; returns the numbers of its chunks.

    Args:
        images: all images of the split, in [-1, 1].
        shard: (number, of how many); chunk c belongs to shard c mod how many.
    """
    rows = writer.layouts["features"].chunks[0]
    mine = list(range(shard[0], writer.layouts["features"].grid[0], shard[1]))
    missing = [chunk for chunk in mine if not _is_written(writer, chunk)]
    for chunk in tqdm(missing, desc="gradients", unit="chunk", disable=None):
        part = slice(chunk * rows, min((chunk + 1) * rows, len(images)))
        values = [
            extractor(images[start:stop], keys[start:stop]) for start, stop in _batches(part, batch)
        ]
        _write(writer, chunk, np.concatenate(values), ids[part])
    return mine


def _batches(part: slice, batch: int) -> Iterator[tuple[int, int]]:
    for start in range(part.start, part.stop, batch):
        yield start, min(start + batch, part.stop)


def _is_written(writer: Writer, chunk: int) -> bool:
    return all(
        writer.has(name, (chunk,) + (0,) * (len(layout.shape) - 1))
        for name, layout in writer.layouts.items()
    )


def _write(writer: Writer, chunk: int, values: np.ndarray, ids: np.ndarray) -> None:
    if "scale" in writer.layouts:
        scale = np.abs(values).max(axis=1)  # [images]
        writer.write("scale", (chunk,), scale)
        values = values / scale[:, None]
    writer.write("features", (chunk, 0), values.astype(writer.layouts["features"].dtype))
    writer.write("ids", (chunk,), ids)
