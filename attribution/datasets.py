"""The training and validation splits of an experiment, drawn from a dataset, as 8-bit arrays."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from attribution.errors import DataError
from attribution.images import LazyImages, Split
from attribution.listing import IMAGE_SUFFIXES, image_files

NO_LABEL = -1


@dataclass(frozen=True)
class Parent:
    """A whole part of a dataset, of which a split is drawn; images are read when they are drawn.

    what: what messages call it; labels: [rows] int64, an index into `label_names`, or -1 for none;
    read: row to image; name: row to what a person calls the image; ids: of the rows [rows] int64,
    if they are not their numbers;
    found: row to where a person finds the image, which a message says, if that is not its name.
    """

    what: str
    labels: np.ndarray
    label_names: list[str]
    read: Callable[[int], Image.Image]
    name: Callable[[int], str]
    ids: np.ndarray | None = None
    found: Callable[[int], str] | None = None


def load(settings: dict[str, Any]) -> dict[str, Split]:
    """The `train` and `validation` splits of a `data` section.

    Both are drawn with the same seed from the rows whose label is kept, in the dataset's order, as
    the authors' code does (scikit-learn's `train_test_split`); a part of which all rows are asked
    for keeps its order. `ids` are rows of the dataset's own part.

    Raises:
        DataError: images, labels or files are missing or cannot be read.
    """
    if settings["source"] == "digits":
        return _digits(settings)
    return {
        split: _split(parent, drawn_rows(parent, settings[split], settings), settings)
        for split, parent in parents(settings).items()
    }


def parents(settings: dict[str, Any]) -> dict[str, Parent]:
    """The parts of the dataset from which `train` and `validation` are drawn."""
    from attribution import archives  # which makes Parents

    source = settings["source"]
    if source == "cifar10":
        return archives.cifar10(settings["path"])
    if source == "celeba":
        return archives.celeba(settings["path"])
    if source == "artbench":
        return archives.artbench(settings["path"])
    if source == "hub":
        return archives.hub(settings["path"])
    return class_folders(Path(settings["path"]).expanduser())


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


def drawn_rows(parent: Parent, count: int, settings: dict[str, Any]) -> np.ndarray:
    """The rows of a part that make a split, in the split's order, int64."""
    known = np.flatnonzero(np.isin(parent.labels, _kept(parent, settings["labels"])))
    if len(known) < count:
        only = f" of {', '.join(settings['labels'])}" if settings["labels"] else ""
        raise DataError(f"{parent.what} has {len(known)} images{only}, but data asks for {count}")
    return known[draw(parent.labels[known], count, settings["seed"], settings["stratify"])]


def _kept(parent: Parent, wanted: list[str] | None) -> list[int]:
    """The labels that are kept, in the dataset's order."""
    names = parent.label_names
    if wanted is None:
        return [NO_LABEL, *range(len(names))]
    for name in wanted:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            known = f" Known: {', '.join(names)}" if names else " It has no labels"
            raise DataError(f"data.labels: {parent.what} has no label {name!r}{hint}{known}")
    return [label for label, name in enumerate(names) if name in wanted]


def _split(parent: Parent, rows: np.ndarray, settings: dict[str, Any]) -> Split:
    kept = [label for label in _kept(parent, settings["labels"]) if label != NO_LABEL]
    position = np.full(len(parent.label_names) + 1, NO_LABEL)  # the last stands for no label
    position[kept] = np.arange(len(kept))
    shape = (len(rows), settings["channels"], settings["image_size"], settings["image_size"])
    images = np.empty(shape, np.uint8)
    found = parent.found or parent.name
    for place, row in enumerate(rows.tolist()):
        images[place] = fitted(parent.read(row), found(row), settings)
    return Split(
        images=images,
        labels=position[parent.labels[rows]].astype(np.int64),
        ids=rows.astype(np.int64) if parent.ids is None else parent.ids[rows],
        names=[parent.name(row) for row in rows.tolist()],
        label_names=[parent.label_names[label] for label in kept],
    )


def _digits(settings: dict[str, Any]) -> dict[str, Split]:
    """scikit-learn's 1,797 handwritten digits, 8x8; their 17 grey levels are spread over 8 bits."""
    from sklearn.datasets import load_digits

    digits, stratify = load_digits(), settings["stratify"]
    images = np.rint(digits.images[:, None] * (255 / 16)).astype(np.uint8)  # [1797, 1, 8, 8]
    labels = digits.target.astype(np.int64)
    train = draw(labels, settings["train"], settings["seed"], stratify)
    rest = np.setdiff1d(np.arange(len(labels)), train)
    chosen = draw(labels[rest], settings["validation"], settings["seed"], stratify)
    names = [str(digit) for digit in range(10)]
    return {
        split: Split(images[rows], labels[rows], rows, [f"digit {row}" for row in rows], names)
        for split, rows in (("train", train), ("validation", rest[chosen]))
    }


def class_folders(root: Path) -> dict[str, Parent]:
    """Folders `train/` and `validation/` (or `test/`), each with one folder of images a label.

    Labels are the folders' names, sorted; rows are files, by label and then by name.
    """
    folders = {
        "train": _folder(root, "train"),
        "validation": _folder(root, "validation", "test"),
    }
    label_names = sorted(p.name for p in folders["train"].iterdir() if p.is_dir())
    if not label_names:
        raise DataError(f"{folders['train']} has no subfolders; put images into one folder a label")
    return {split: _files(folder, label_names) for split, folder in folders.items()}


def _folder(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root} has no folder {' or '.join(names)}; data.path must hold one")


def _files(folder: Path, label_names: list[str]) -> Parent:
    files = [
        (path, label)
        for label, name in enumerate(label_names)
        for path in sorted((folder / name).glob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    return Parent(
        what=str(folder),
        labels=np.array([label for _, label in files], dtype=np.int64),
        label_names=label_names,
        read=lambda row: opened(files[row][0]),
        name=lambda row: str(files[row][0].relative_to(folder)),
        found=lambda row: str(files[row][0]),
    )


def files_below(folder: Path, channels: int, size: int) -> tuple[Split, int]:
    """All images below a folder, each decoded when it is read, and how many are not of the size.

    Rows are files by relative path; where they lie in several folders, these are the labels.

    Args:
        channels, size: of the images that the model takes; others are brought to them, see
            `fitted`.

    Raises:
        DataError: there is no image, or files with an image's ending are none.
    """
    files = image_files(folder)
    if not files:
        raise DataError(
            f"{folder} holds no images (files ending in {', '.join(IMAGE_SUFFIXES)}); name another"
        )
    sizes = _sizes(files)
    folders = [file.parent.relative_to(folder).as_posix() for file in files]
    label_names = sorted(set(folders)) if len(set(folders)) > 1 else []
    settings = {"image_size": size, "channels": channels, "crop": None, "resize": True}
    split = Split(
        images=LazyImages(
            lambda row: fitted(ImageOps.exif_transpose(opened(files[row])), "", settings),
            len(files),
            channels,
            size,
        ),
        labels=np.array([label_names.index(one) if label_names else NO_LABEL for one in folders]),
        ids=np.arange(len(files)),
        names=[file.relative_to(folder).as_posix() for file in files],
        label_names=label_names,
    )
    return split, sum(one != (size, size) for one in sizes)


def _sizes(files: list[Path]) -> list[tuple[int, int]]:
    """Width and height of each file, from its head; DataError names those that are no images."""
    sizes, faulty = [], []
    for file in files:
        try:
            with Image.open(file) as image:
                sizes.append(image.size)
        except (UnidentifiedImageError, OSError, SyntaxError):
            faulty.append(file)
    if faulty:
        shown = ", ".join(map(str, faulty[:5])) + (", …" if len(faulty) > 5 else "")
        count = "1 file" if len(faulty) == 1 else f"{len(faulty)} files"
        raise DataError(
            f"{count} of {len(files)} cannot be read as images: {shown}; remove or replace them"
        )
    return sizes


def opened(path: Path) -> Image.Image:
    """The image of a file, decoded.

    Raises:
        DataError: there is no such file, or it is no image.
    """
    try:
        with Image.open(path) as file:
            file.load()
            return file.copy()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}); remove or replace it"
        ) from None


def read_image(path: Path, settings: dict[str, Any]) -> np.ndarray:
    """One image file as [channels, height, width] uint8; see `fitted`."""
    return fitted(opened(path), str(path), settings)


def fitted(image: Image.Image, name: str, settings: dict[str, Any]) -> np.ndarray:
    """An image as [channels, height, width] uint8, as the `data` section says.

    A square of `crop` pixels is cut out of its centre, where there is such a setting; then the
    shorter side is brought to `image_size` (bilinear, with antialiasing) and the centre is kept.

    Raises:
        DataError: the size differs and `resize` is off, or the image is smaller than `crop`.
    """
    size, crop = settings["image_size"], settings["crop"]
    image = image.convert("L" if settings["channels"] == 1 else "RGB")
    if crop is not None:
        if min(image.size) < crop:
            raise DataError(
                f"{name} is {image.width}x{image.height}, too small for data.crop {crop}; lower it"
            )
        image = _centre(image, crop)
    if image.size != (size, size):
        if not settings["resize"]:
            raise DataError(
                f"{name} is {image.width}x{image.height}, but the model takes {size}x{size}; "
                "set data.resize to true, or resize the images"
            )
        scale = size / min(image.size)
        sides = (round(image.width * scale), round(image.height * scale))
        image = _centre(image.resize(sides, Image.Resampling.BILINEAR), size)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _centre(image: Image.Image, size: int) -> Image.Image:
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
