"""Finished stores as row sources: `.shape` [rows, values] and slices of rows, read lazily."""

from pathlib import Path
from typing import Any

import numpy as np

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


class FeatureRows:
    """The features of a finished store as a row source: `.shape` [images, k] and slices of rows."""

    def __init__(self, path: Path):
        self.store = Reader(path)
        self._features = self.store.array("features")
        self._scale = (
            self.store.array("scale") if "scale" in self.store.manifest["arrays"] else None
        )
        self.shape = self._features.shape
        self.identity: dict[str, Any] = self.store.manifest["projection"]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Rows [rows, k] float32."""
        values = self._features[rows]
        if self._scale is not None:
            values = values.astype(np.float32) * self._scale[rows][:, None]
        return values
