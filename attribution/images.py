"""Image stores: the images of one split with their labels, ids and names; 8-bit and model range."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from attribution.stores import Layout, Reader, Writer

LARGEST_CHUNK = 4 * 2**20  # bytes of images before compression: what is read at once
MOST_IMAGES = 1000  # of a chunk


class ImageSource(Protocol):
    """Images [images, channels, height, width] uint8: a numpy array, or what reads when sliced."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def __getitem__(self, selection: Any) -> np.ndarray: ...


class LazyImages:
    """Images that are decoded when an integer or a slice selects them, and then forgotten."""

    dtype = np.dtype(np.uint8)

    def __init__(self, read: Callable[[int], np.ndarray], count: int, channels: int, size: int):
        """
        Args:
            read: the image of a row, [channels, size, size] uint8.
            count: how many rows there are.
        """
        self._read = read
        self.shape = (count, channels, size, size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, selection: int | slice) -> np.ndarray:
        if not isinstance(selection, slice):
            return self._read(range(len(self))[selection])
        rows = range(len(self))[selection]
        images = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for image, row in zip(images, rows, strict=True):
            image[:] = self._read(row)
        return images


@dataclass(frozen=True)
class Split:
    """Images of one split.

    images: [images, channels, height, width] uint8, possibly read only when sliced; labels:
    [images] int64, an index into `label_names`, or -1 for none; ids: [images] int64, the row in
    the dataset that the split was drawn from; names: what a person calls each image (a file name,
    or the id).
    """

    images: ImageSource
    labels: np.ndarray
    ids: np.ndarray
    names: list[str]
    label_names: list[str]


def write_split(
    path: Path, split: Split, spec: dict[str, Any], repair: str, **content: Any
) -> dict[str, Any]:
    """Store a split; returns the manifest, which also holds the names of images and labels.

    Images are read chunk by chunk, and those of chunks that an interrupted job of the same `spec`
    has written are not read again. The array `digests` holds `image_digests`. `content` is what
    else the manifest says.
    """
    count, *image = split.images.shape
    most = min(MOST_IMAGES, max(LARGEST_CHUNK // math.prod(image), 1))
    arrays = {"labels": split.labels, "ids": split.ids, "digests": np.zeros(count, np.uint64)}
    layouts = {
        "images": Layout(
            ("images", "channels", "height", "width"),
            (count, *image),
            (max(min(most, count), 1), *image),
            "uint8",
            compress=True,
        )
    } | {
        name: Layout(("images",), (count,), (max(count, 1),), str(values.dtype), compress=True)
        for name, values in arrays.items()
    }
    writer = Writer(path, spec, layouts)
    for number in range(layouts["images"].grid[0]):
        chunk = (number, 0, 0, 0)
        rows = layouts["images"].region(chunk)[0]
        if writer.has("images", chunk):
            images = writer.read("images", chunk)
        else:
            images = split.images[rows]
            writer.write("images", chunk, images)
        arrays["digests"][rows] = image_digests(images)
    for name, values in arrays.items():
        writer.write_all(name, values)
    return writer.finish(
        "images",
        repair,
        names=split.names,
        label_names=split.label_names,
        **content,
    )


def read_split(path: Path, lazy: bool = False) -> tuple[Split, str]:
    """A stored split and the sha256 of its data.

    Args:
        lazy: leave the images on the disk until they are sliced (one image or many).
    """
    store = Reader(path)
    split = Split(
        images=store.array("images") if lazy else store.read("images"),
        labels=store.read("labels"),
        ids=store.read("ids"),
        names=store.manifest["names"],
        label_names=store.manifest["label_names"],
    )
    return split, store.manifest["sha256"]


def image_digests(images: np.ndarray) -> np.ndarray:
    """What tells each image from any other: 8 bytes of the sha256 of its pixels, uint64 [images].

    The bytes are the first ones, read as a big-endian number.
    """
    firsts = [hashlib.sha256(np.ascontiguousarray(image)).digest()[:8] for image in images]
    return np.array([int.from_bytes(first, "big") for first in firsts], dtype=np.uint64)


def image_keys(split: str, ids: np.ndarray) -> list[str]:
    """What tells each image from all images of all splits, for noises of its own."""
    return [f"{split}:{image}" for image in ids]


class ModelRange:
    """Images of a source as float32 in [-1, 1], read when a slice asks for them."""

    def __init__(self, images: ImageSource):
        self._images, self.shape = images, images.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> torch.Tensor:
        return to_model_range(self._images[rows])


def to_model_range(images: np.ndarray) -> torch.Tensor:
    """8-bit images as float32 in [-1, 1], the same shape."""
    return torch.from_numpy(images).float() / 127.5 - 1


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Images in [-1, 1] as 8-bit, values outside clipped."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
