"""Images, labels and ids of the training and validation splits, as 8-bit arrays."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from attribution.errors import DataError
from attribution.images import Split

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def load(settings: dict[str, Any]) -> dict[str, Split]:
    """The `train` and `validation` splits of a `data` section."""
    if settings["source"] == "digits":
        return _digits(settings)
    return _image_folder(settings)


def draw(labels: np.ndarray, count: int, seed: int, stratify: bool = True) -> np.ndarray:
    """`count` rows drawn without replacement, each label in its share, in shuffled order, int64.

    Raises:
        DataError: the labels cannot keep their shares.
    """
    from sklearn.model_selection import train_test_split  # a second to import, and few jobs draw

    rows = np.arange(len(labels))
    if count == len(rows):
        return rows
    try:
        chosen, _ = train_test_split(
            rows, train_size=count, random_state=seed, stratify=labels if stratify else None
        )
    except ValueError as error:
        raise DataError(
            f"{count} of {len(rows)} images cannot be drawn with each label in its share "
            f"({error}); change the number, or merge or remove rare labels"
        ) from None
    return chosen


def _digits(settings: dict[str, Any]) -> dict[str, Split]:
    """scikit-learn's 1,797 handwritten digits, 8x8; their 17 grey levels are spread over 8 bits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images[:, None] * (255 / 16)).astype(np.uint8)  # [1797, 1, 8, 8]
    labels = digits.target.astype(np.int64)
    train = draw(labels, settings["train"], settings["seed"])
    rest = np.setdiff1d(np.arange(len(labels)), train)
    validation = rest[draw(labels[rest], settings["validation"], settings["seed"])]
    names = [str(digit) for digit in range(10)]
    return {
        split: Split(images[rows], labels[rows], rows, [f"digit {row}" for row in rows], names)
        for split, rows in (("train", train), ("validation", validation))
    }


def _image_folder(settings: dict[str, Any]) -> dict[str, Split]:
    """Folders `train/` and `validation/` (or `test/`), each with one folder of images a label."""
    root = Path(settings["path"])
    folders = {
        "train": _folder(root, "train"),
        "validation": _folder(root, "validation", "test"),
    }
    label_names = sorted(p.name for p in folders["train"].iterdir() if p.is_dir())
    if not label_names:
        raise DataError(f"{folders['train']} has no subfolders; put images into one folder a label")
    return {
        split: _folder_split(folder, label_names, settings[split], settings)
        for split, folder in folders.items()
    }


def _folder(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root} has no folder {' or '.join(names)}; data.path must hold one")


def _folder_split(
    folder: Path, label_names: list[str], count: int, settings: dict[str, Any]
) -> Split:
    files = [
        (path, label)
        for label, name in enumerate(label_names)
        for path in sorted((folder / name).glob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if len(files) < count:
        raise DataError(f"{folder} has {len(files)} images, but data asks for {count}")
    rows = draw(np.array([label for _, label in files]), count, settings["seed"])
    chosen = [files[row] for row in rows]
    return Split(
        images=np.stack([read_image(path, settings) for path, _ in chosen]),
        labels=np.array([label for _, label in chosen], dtype=np.int64),
        ids=rows.astype(np.int64),
        names=[str(path.relative_to(folder)) for path, _ in chosen],
        label_names=label_names,
    )


def read_image(path: Path, settings: dict[str, Any]) -> np.ndarray:
    """One image file as [channels, height, width] uint8.

    Raises:
        DataError: the file is no image, or its size differs and `resize` is off.
    """
    size = settings["image_size"]
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if settings["channels"] == 1 else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}); remove or replace it"
        ) from None
    if image.size != (size, size):
        if not settings["resize"]:
            raise DataError(
                f"{path} is {image.width}x{image.height}, but the model takes {size}x{size}; "
                "set data.resize to true, or resize the images"
            )
        scale = size / min(image.size)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR
        )
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
