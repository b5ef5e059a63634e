"""Image stores: the images of one split with their labels, ids and names; 8-bit and model range."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attribution.stores import Reader, write_store


@dataclass(frozen=True)
class Split:
    """Images of one split.

    images: [images, channels, height, width] uint8; labels: [images] int64, an index into
    `label_names`; ids: [images] int64, the row in the dataset that the split was drawn from;
    names: what a person calls each image (a file name, or the id).
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    names: list[str]
    label_names: list[str]


def write_split(path: Path, split: Split, spec: dict[str, Any], repair: str) -> dict[str, Any]:
    """Store a split; returns the manifest, which also holds the names of images and labels."""
    arrays = {
        "images": (("images", "channels", "height", "width"), split.images),
        "labels": (("images",), split.labels),
        "ids": (("images",), split.ids),
    }
    return write_store(
        path, "images", spec, arrays, repair, names=split.names, label_names=split.label_names
    )


def read_split(path: Path) -> tuple[Split, str]:
    """A stored split and the sha256 of its data."""
    store = Reader(path)
    split = Split(
        images=store.read("images"),
        labels=store.read("labels"),
        ids=store.read("ids"),
        names=store.manifest["names"],
        label_names=store.manifest["label_names"],
    )
    return split, store.manifest["sha256"]


def image_keys(split: str, ids: np.ndarray) -> list[str]:
    """What tells each image from all images of all splits, for noises of its own."""
    return [f"{split}:{image}" for image in ids]


def to_model_range(images: np.ndarray) -> torch.Tensor:
    """8-bit images as float32 in [-1, 1], the same shape."""
    return torch.from_numpy(images).float() / 127.5 - 1


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Images in [-1, 1] as 8-bit, values outside clipped."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
