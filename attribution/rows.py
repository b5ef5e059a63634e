"""Finished stores as row sources: `.shape` [rows, values] and slices of rows, read lazily."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attribution.errors import ConfigurationError, StoreError
from attribution.projection import KINDS, require_same_identity, shrink
from attribution.stores import Reader

COLUMNS = 1000  # training images read at a time, and in one chunk of a score store


class PixelRows:
    """The images of a store, flattened: [images, pixels] float32 in [-1, 1]."""

    def __init__(self, path: Path):
        self._images = Reader(path).array("images")
        self.shape = (self._images.shape[0], int(np.prod(self._images.shape[1:])))

    def __getitem__(self, rows: slice) -> np.ndarray:
        pixels = self._images[rows].astype(np.float32)
        return (pixels / 127.5 - 1).reshape(len(pixels), -1)


class LatentRows:
    """The latents of plain images in a store, flattened: [images, numbers] float32."""

    def __init__(self, path: Path):
        self._means = Reader(path).array("mean")  # [images, views, channels, height, width]
        self.shape = (self._means.shape[0], int(np.prod(self._means.shape[2:])))

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._means[rows][:, 0].reshape(-1, self.shape[1])


class FeatureRows:
    """The features of a finished store as a row source: `.shape` [images, k] and slices of rows.

    `identity`: of the projection; `residuals`: [images] float32, or None if they are not stored.
    """

    def __init__(self, path: Path):
        self.store = Reader(path)
        self._features = self.store.array("features")
        self._scale = (
            self.store.array("scale") if "scale" in self.store.manifest["arrays"] else None
        )
        self.shape = self._features.shape
        self.identity: dict[str, Any] = self.store.manifest["projection"]

    @property
    def ids(self) -> np.ndarray:
        """The images' ids [images] int64."""
        return self.store.read("ids")

    @property
    def residuals(self) -> np.ndarray | None:
        if "residuals" not in self.store.manifest["arrays"]:
            return None
        return self.store.read("residuals")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows [rows, k] float32."""
        values = self._features[rows]
        if self._scale is not None:
            values = values.astype(np.float32) * self._scale[rows][:, None]
        return values


class CombinedRows:
    """A weighted sum of feature sets, then brought to fewer dimensions; computed as it is read.

    Features are linear in the output function: those of a f + b g are a times those of f and b
    times those of g, if both were projected alike. So the sum needs no gradient of its own, and the
    projection of the sum is that of the parts: its `identity` is theirs, or what `shrink` makes of
    it for `dim` numbers, which says what was done. Different combinations may therefore be compared
    as their parts may be.

    `residuals`: those of the part, if there is only one; None for a sum, which predicts no noise.
    """

    def __init__(
        self, parts: Sequence[FeatureRows], weights: Sequence[float], dim: int | None = None
    ):
        """
        Args:
            parts: feature sets of the same images, at least one.
            weights: of each part.
            dim: of the result; a count-sketch is folded, a dense projection cut.

        Raises:
            StoreError: the parts are of different projections or images.
            ConfigurationError: the features cannot be brought to `dim` numbers.
        """
        if not parts or len(parts) != len(weights):
            raise ConfigurationError(
                f"{len(parts)} feature sets cannot be combined with {len(weights)} weights."
            )
        self.parts, self.weights = list(parts), [float(weight) for weight in weights]
        first, *others = self.parts
        for other in others:
            names = str(first.store.path), str(other.store.path)
            require_same_identity(first.identity, other.identity, *names)
            if not np.array_equal(first.ids, other.ids):
                raise StoreError(f"{names[0]} and {names[1]} hold features of different images.")
        self._whole: dict[str, Any] = first.identity
        self.dim = first.shape[1] if dim is None else dim
        if self.dim != first.shape[1] and self._whole["kind"] not in KINDS:
            raise ConfigurationError(
                f"{first.store.path}: features of kind {self._whole['kind']!r} are no projection "
                f"and cannot be brought to {self.dim} numbers."
            )
        none, self.identity = self._shrunk(np.zeros((0, first.shape[1]), np.float32))
        self.shape = (first.shape[0], none.shape[1])

    @property
    def ids(self) -> np.ndarray:
        """The images' ids [images] int64."""
        return self.parts[0].ids

    @property
    def residuals(self) -> np.ndarray | None:
        return self.parts[0].residuals if len(self.parts) == 1 else None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows [rows, dim] float32."""
        total = sum(
            np.float32(weight) * part[rows]
            for weight, part in zip(self.weights, self.parts, strict=True)
        )
        return self._shrunk(total)[0]

    def _shrunk(self, features: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        if self.dim == features.shape[1]:
            return features, self._whole
        return shrink(features, self.dim, self._whole)


def open_rows(
    experiment: Path, name: str, split: str, features: dict[str, dict[str, Any]]
) -> FeatureRows | CombinedRows:
    """The rows of a feature set of a finished experiment's split, stored or combined.

    Args:
        experiment: the folder results/{experiment}.
        name: of the feature set.
        split: train, validation or generation.
        features: the `features` section; of it, the entry `name` is read. A set that it does not
            name is a stored one.
    """
    entry = features.get(name) or {}
    if "combine" not in entry:
        return FeatureRows(_store(experiment, name, split))
    parts = [FeatureRows(_store(experiment, part, split)) for part in entry["combine"]]
    return CombinedRows(parts, list(entry["combine"].values()), entry.get("dim"))


def _store(experiment: Path, name: str, split: str) -> Path:
    return experiment / "features" / name / f"{split}.zarr"
