"""What networks take in: images in [-1, 1], or latents of images with their captions.

A store of latents (`results/{experiment}/latents/{split}.zarr`) holds for each image the mean of
the autoencoder's distribution and, for training, its standard deviation, plain and mirrored (the
latents of a mirrored image are not the mirrored latents); and the embeddings of all captions, of
which the first is the empty one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attribution.images import ModelRange, to_model_range
from attribution.randomness import generator
from attribution.stores import Reader

PLAIN, MIRRORED = 0, 1


class Conditioning:
    """Keyword arguments of the network for each image of a store; none where it has no captions."""

    def __init__(self, store: Reader):
        self._captions = self._embeddings = None
        if "captions" in store.manifest["arrays"]:
            self._captions = torch.from_numpy(store.read("captions"))  # [images]
            self._embeddings = torch.from_numpy(store.read("embeddings"))  # [captions, tokens, …]

    def __call__(self, rows: Sequence[int] | np.ndarray | Tensor) -> dict[str, Tensor]:
        """Of these images: {} or {"encoder_hidden_states": [rows, tokens, width]}."""
        if self._captions is None:
            return {}
        return {"encoder_hidden_states": self._embeddings[self._captions[torch.as_tensor(rows)]]}

    def without(self, rows: Sequence[int] | np.ndarray, dropped: np.ndarray) -> dict[str, Tensor]:
        """The same, with the empty caption where `dropped` [rows] is true."""
        chosen = self._captions[torch.as_tensor(rows)]
        chosen = torch.where(torch.as_tensor(dropped), 0, chosen)
        return {"encoder_hidden_states": self._embeddings[chosen]}


class LatentRange:
    """The means of plain latents as float32 [images, channels, height, width], read by slices."""

    def __init__(self, store: Reader):
        self._means = store.array("mean")
        images, _, *shape = self._means.shape
        self.shape = (images, *shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        return torch.from_numpy(self._means[rows][:, PLAIN])


def clean_images(store: Reader) -> Any:
    """What a store's images are to a network before noise: [images, channels, height, width], to
    be read by slices."""
    return (
        LatentRange(store)
        if "mean" in store.manifest["arrays"]
        else ModelRange(store.array("images"))
    )


class PixelSet:
    """Training images in memory, in [-1, 1]."""

    def __init__(self, images: np.ndarray):
        """images: [images, channels, height, width] uint8."""
        self._images = to_model_range(images)
        self.shape = tuple(self._images.shape[1:])

    def batch(
        self, rows: np.ndarray, mirrored: np.ndarray, seed: int, step: int, dropped: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images [batch, …] of these rows, some mirrored [batch] bool, and no conditioning."""
        clean, chosen = self._images[torch.from_numpy(rows)], torch.from_numpy(mirrored)
        clean[chosen] = clean[chosen].flip(-1)
        return clean, {}


class LatentSet:
    """Latents of training images in memory, from which each step draws, and their captions."""

    def __init__(self, store: Reader):
        self._mean, self._std = (torch.from_numpy(store.read(name)) for name in ("mean", "std"))
        self._conditioning = Conditioning(store)
        self.shape = tuple(self._mean.shape[2:])

    def batch(
        self, rows: np.ndarray, mirrored: np.ndarray, seed: int, step: int, dropped: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents [batch, …] drawn for these rows, and their captions, a share `dropped` of them
        replaced by the empty one (paper, Appendix A.1)."""
        index = torch.from_numpy(rows), torch.from_numpy(mirrored.astype(np.int64))
        drawn = generator("latents", seed, step).standard_normal(
            (len(rows), *self.shape), dtype=np.float32
        )
        clean = self._mean[index] + self._std[index] * torch.from_numpy(drawn)
        empty = generator("captions", seed, step).random(len(rows)) < dropped
        return clean, self._conditioning.without(rows, empty)


def training_set(path: Path) -> tuple[PixelSet | LatentSet, int, str]:
    """The training set of a store of images or latents, its number of images, and its sha256."""
    store = Reader(path)
    count, digest = len(store.read("ids")), store.manifest["sha256"]
    if "mean" in store.manifest["arrays"]:
        return LatentSet(store), count, digest
    return PixelSet(store.read("images")), count, digest
