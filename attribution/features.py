"""Feature stores: projected gradients of a split, chunk by chunk (paper Eq. 7, Appendix A.3)."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from attribution.diffusion import NoiseBank, schedule, timesteps
from attribution.errors import ConfigurationError, NumericalError
from attribution.gradients import GradientEngine
from attribution.output_functions import elbo_weights
from attribution.projection import Projector, build_projector
from attribution.randomness import KeyPart
from attribution.reuse import Previous, previous_path
from attribution.stores import Layout, Writer

logger = logging.getLogger(__name__)


class Images(Protocol):
    """Images in [-1, 1] that are read by slices: [images, channels, height, width], or
    [images, steps, channels, height, width] for the paths of generated images."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Any: ...


class OneStep:
    """One step of stored paths, read by slices of images: [images, 1, channels, height, width]."""

    def __init__(self, paths: Any, step: int):
        """
        Args:
            paths: an array [images, steps, channels, height, width]. step: which of its steps.
        """
        self.paths, self.step = paths, step
        self.shape = (len(paths), 1, *paths.shape[2:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.asarray(self.paths[rows])[:, [self.step]]


class FeatureExtractor:
    """Projected gradients of images under one feature set: f averaged over timesteps and noises.

    Along a trajectory (Journey TRAK, Georgiev et al. 2023), the timesteps are those of the sampler,
    all or one of them, and the picture that is noised at each is what the sampler then took for the
    clean image.

    Attributes: `seconds_gradients` (residuals with them) and `seconds_projection`, the wall-clock
    time spent in each so far.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        settings: dict[str, Any],
        diffusion: dict[str, Any],
        precision: str,
        shape: tuple[int, ...],
        device: torch.device,
        engine: str = "auto",
        trajectory_steps: np.ndarray | None = None,
    ):
        """
        Args:
            model: the network at the checkpoint that the feature set names.
            settings: one entry of `features`.
            shape: of one image, [channels, height, width].
            trajectory_steps: the sampler's timesteps [steps], in the order of the pictures, for a
                feature set along trajectories; its `timesteps` and `strategy` are not read then.

        Raises:
            ConfigurationError: steps are missing along trajectories, or given for plain images.
        """
        scheduler = schedule(diffusion)
        self.device, self.noises = device, settings["noises"]
        self.along_trajectory = settings["along"] == "trajectory"
        if self.along_trajectory != (trajectory_steps is not None):
            raise ConfigurationError(
                f"features along {settings['along']!r} "
                f"{'need' if self.along_trajectory else 'take no'} timesteps of a sampler"
            )
        if trajectory_steps is not None:
            self.steps = trajectory_steps
        else:
            self.steps = timesteps(
                settings["timesteps"], settings["strategy"], diffusion["timesteps"]
            )
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
            normalise=settings["normalise"],
        )
        wanted = settings["projection"]
        self.projector: Projector = build_projector(
            wanted["kind"], self.engine.dimension, wanted["dim"], wanted["seed"], device=str(device)
        )
        self.seconds_gradients = self.seconds_projection = 0.0

    def __call__(
        self,
        images: torch.Tensor,
        keys: Sequence[KeyPart],
        conditioning: dict[str, torch.Tensor] | None = None,
    ) -> np.ndarray:
        """Features of images [images, …] in [-1, 1]: [images, k] float32.

        Along trajectories, images are [images, steps, …]. conditioning: keyword arguments of the
        network, each [images, …].

        Raises:
            NumericalError: a gradient is not finite, or zero throughout; the message names the
            image.
        """
        try:
            with self._timed("seconds_gradients"):
                gradients = self.engine(*self._pairs(images, keys), self._moved(conditioning))
            with self._timed("seconds_projection"):
                return self.projector.project(gradients).cpu().numpy()
        except NumericalError as error:
            raise _with_ids(error, getattr(error, "rows", []), keys) from None

    def _moved(self, conditioning: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        return {name: value.to(self.device) for name, value in (conditioning or {}).items()}

    def residuals(
        self,
        images: torch.Tensor,
        keys: Sequence[KeyPart],
        conditioning: dict[str, torch.Tensor] | None = None,
    ) -> np.ndarray:
        """How far the predicted noise is off at the same timesteps and noises: [images] float32.

        The mean over them of sqrt(mean (eps_theta - eps)^2); see `GradientEngine.residuals`.

        Raises:
            NumericalError: one is not finite; the message names the image.
        """
        with self._timed("seconds_gradients"):
            pairs, given = self._pairs(images, keys), self._moved(conditioning)
            values = self.engine.residuals(*pairs, given).cpu().numpy()
        rows = np.flatnonzero(~np.isfinite(values))
        if len(rows):
            raise _with_ids(NumericalError("The residual is not finite."), rows, keys)
        return values

    def _pairs(
        self, images: torch.Tensor, keys: Sequence[KeyPart]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images, their noises and timesteps; each timestep stands once for each of its noises."""
        noise = torch.from_numpy(self.bank.noises(self.steps, self.noises, keys))
        steps = torch.from_numpy(self.steps).repeat_interleave(self.noises)
        if self.along_trajectory:
            images = images.repeat_interleave(self.noises, dim=1)
        return images.to(self.device), noise.to(self.device), steps.to(self.device)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # kernels run on after their launch
        setattr(self, what, getattr(self, what) + time.perf_counter() - start)


def _with_ids(
    error: NumericalError, rows: Sequence[int], keys: Sequence[KeyPart]
) -> NumericalError:
    named = ", ".join(str(keys[row]) for row in rows[:5])
    return NumericalError(f"{error} (image id {named})")


def layouts(
    images: int,
    settings: dict[str, Any],
    dimension: int,
    rows_per_chunk: int,
    digests: bool = False,
) -> dict:
    """The arrays of a feature store: features [images, k], ids [images], and what is asked for.

    In half precision each row is divided by its largest magnitude, kept in `scale` [images], so
    that small gradients do not vanish. With `residuals`, an array [images] of that name; with
    `digests`, one that tells whose features they are.
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
    if settings["residuals"]:
        arrays["residuals"] = Layout(("images",), (images,), (rows,))
    if digests:
        arrays["digests"] = Layout(("images",), (images,), (rows,), "uint64")
    return arrays


def extract(
    extractor: FeatureExtractor,
    writer: Writer,
    images: Images,
    ids: np.ndarray,
    keys: Sequence[KeyPart],
    shard: tuple[int, int],
    batch: int,
    digests: np.ndarray | None = None,
    conditioning: Callable[[np.ndarray], dict[str, torch.Tensor]] = lambda rows: {},
) -> list[int]:
    """Write the chunks of one shard that are not there yet; returns the numbers of its chunks.

    Args:
        images: all images of the split, in [-1, 1], or their trajectories.
        shard: (number, of how many); chunk c belongs to shard c mod how many.
        digests: of the images [images], for a store that has this array; rows of the same images
            are then taken from the store that was set aside for this one.
        conditioning: keyword arguments of the network for these rows of the images.
    """
    rows = writer.layouts["features"].chunks[0]
    mine = list(range(shard[0], writer.layouts["features"].grid[0], shard[1]))
    missing = [chunk for chunk in mine if not _is_written(writer, chunk)]
    known = None
    if digests is not None and missing:
        known = Previous(previous_path(writer.path), writer.spec)
    computed = 0
    for chunk in tqdm(missing, desc="gradients", unit="chunk", disable=None):
        part = np.arange(chunk * rows, min((chunk + 1) * rows, len(images)))
        taken, values = known.take(digests[part]) if known else (np.zeros(len(part), bool), {})
        computed += np.count_nonzero(~taken)
        new = _computed(extractor, writer, images, keys, part[~taken], batch, conditioning)
        if digests is not None:
            new["digests"], values["digests"] = digests[part[~taken]], digests[part[taken]]
        _write(writer, chunk, {**_together(taken, values, new), "ids": ids[part]})
    logger.info("features of %d images computed; the others were there", computed)
    return mine


def _computed(
    extractor: FeatureExtractor,
    writer: Writer,
    images: Images,
    keys: Sequence[KeyPart],
    rows: np.ndarray,
    batch: int,
    conditioning: Callable[[np.ndarray], dict[str, torch.Tensor]],
) -> dict[str, np.ndarray]:
    """What is stored of these images [rows], by array; empty for no rows."""
    values = []
    for some in np.split(rows, range(batch, len(rows), batch)) if len(rows) else []:
        block = torch.as_tensor(images[some[0] : some[-1] + 1])[some - some[0]]
        asked = (block, [keys[row] for row in some], *filter(None, [conditioning(some)]))
        values.append(_values(extractor, writer, *asked))
    return {
        name: np.concatenate([one[name] for one in values])
        for name in writer.layouts
        if values and name in values[0]
    }


def _together(
    taken: np.ndarray, old: dict[str, np.ndarray], new: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Rows that were taken over and rows that are new, each in its place."""
    whole = {}
    for name in {**old, **new}:
        some = new[name] if name in new and len(new[name]) else old[name]
        whole[name] = np.empty((len(taken), *some.shape[1:]), some.dtype)
        for rows, values in ((taken, old), (~taken, new)):
            if rows.any():
                whole[name][rows] = values[name]
    return whole


def _values(extractor: FeatureExtractor, writer: Writer, *asked: Any) -> dict[str, np.ndarray]:
    """Features (divided by their `scale` where the store has one) and residuals, as stored."""
    values = {"features": extractor(*asked)}
    if "scale" in writer.layouts:
        values["scale"] = np.abs(values["features"]).max(axis=1)  # [images]
        values["features"] = values["features"] / values["scale"][:, None]
    if "residuals" in writer.layouts:
        values["residuals"] = extractor.residuals(*asked)
    return {name: value.astype(writer.layouts[name].dtype) for name, value in values.items()}


def _is_written(writer: Writer, chunk: int) -> bool:
    return all(
        writer.has(name, (chunk,) + (0,) * (len(layout.shape) - 1))
        for name, layout in writer.layouts.items()
    )


def _write(writer: Writer, chunk: int, values: dict[str, np.ndarray]) -> None:
    """One chunk of every array, by its name."""
    for name, value in values.items():
        layout = writer.layouts[name]
        writer.write(name, (chunk,) + (0,) * (len(layout.shape) - 1), value)
