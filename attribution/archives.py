"""Public datasets as their authors distribute them, as the hub holds them, or as class folders.

Nothing that is read is executed: an unpickler that admits only arrays opens CIFAR's pickles.
"""

import csv
import io
import logging
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attribution.datasets import NO_LABEL, Parent, class_folders, opened
from attribution.errors import DataError

logger = logging.getLogger(__name__)

ARTBENCH = "ArtBench-10.csv"
CIFAR10_ID = "uoft-cs/cifar10"
CIFAR10_LABELS = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
]  # fmt: skip
# The hub's rows follow the original archive, whose members come in this order; the ids that the
# authors published are rows of the hub's dataset.
CIFAR10_BATCHES = [f"data_batch_{number}" for number in (4, 3, 2, 5, 1)]
HELD_OUT = ("validation", "valid", "val", "test")
# Everything that the pickles of arrays name: plain numpy, and bytes as newer Pythons write them.
HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def cifar10(place: str | None) -> dict[str, Parent]:
    """CIFAR-10 (Krizhevsky 2009): 50,000 training images, and 10,000 test images as validation.

    Args:
        place: None or a hub id; the archive `cifar-10-python.tar.gz` or `cifar-10-binary.tar.gz`,
            or its folder; a folder of parquet files; or class folders `train/` and `test/`, whose
            rows are not the original ones.
    """
    if place is None:
        return hub(CIFAR10_ID)
    path = Path(place).expanduser()
    if path.is_file():
        return _cifar10_batches(path, _members(path))
    for folder in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin"):
        if any((folder / f"test_batch{suffix}").is_file() for suffix in ("", ".bin")):
            return _cifar10_batches(folder, lambda name, at=folder: _content(at / name))
    if (path / "train").is_dir():
        logger.warning(
            "%s holds class folders; ids are positions in them, not rows of the original CIFAR-10",
            path,
        )
        return class_folders(path)
    if not path.exists() or next(path.rglob("*.parquet"), None):
        return hub(place)
    raise DataError(
        f"data.path: {path} holds no CIFAR-10: neither its batches, nor parquet files, nor class "
        "folders train and test"
    )


def celeba(place: str) -> dict[str, Parent]:
    """CelebA (Liu et al. 2015): partition 0, and partition 1 as validation, as the authors' code.

    The paper speaks of the test images; the published ids are of partition 1. Ids count the lines
    of list_eval_partition.txt from 0.

    Args:
        place: the folder with list_eval_partition.txt (or .csv) and img_align_celeba, or with the
            original download's Eval/ and Img/; a hub id; a folder of parquet files.
    """
    root = Path(place).expanduser()
    lists = [
        root / folder / f"list_eval_partition.{suffix}"
        for folder in ("", "Eval")
        for suffix in ("txt", "csv")
    ]
    found = next((path for path in lists if path.is_file()), None)
    if found is None:
        if root.exists() and not next(root.rglob("*.parquet"), None):
            raise DataError(f"data.path: {root} has no list_eval_partition.txt")
        return _celeba_of_hub(place)
    nested = ("img_align_celeba/img_align_celeba", "img_align_celeba", "Img/img_align_celeba")
    images = next((root / name for name in nested if (root / name).is_dir()), None)
    if images is None:
        raise DataError(
            f"data.path: {root} has no folder img_align_celeba; unpack img_align_celeba.zip there"
        )
    names, partitions = _partitions(found)
    parts = {}
    for split, number in (("train", 0), ("validation", 1)):
        rows = np.flatnonzero(partitions == number)
        if not len(rows) or (np.diff(rows) != 1).any():
            raise DataError(
                f"{found}: the lines of partition {number} are no block; download it again"
            )
        mine = names[rows[0] : rows[-1] + 1]
        parts[split] = Parent(
            f"{found.name}, partition {number},",
            np.full(len(rows), NO_LABEL),
            [],
            read=lambda row, mine=mine: opened(images / mine[row]),
            name=mine.__getitem__,
            ids=rows,
        )
    return parts


def _partitions(path: Path) -> tuple[list[str], np.ndarray]:
    """(file names, partitions [lines]) of CelebA's list, with spaces or commas, with or without
    header."""
    pattern = re.compile(r"(\S+?)\s*[\s,]\s*([012])")
    lines = [pattern.fullmatch(line.strip()) for line in path.read_text().splitlines()]
    found = [match.groups() for match in lines if match]
    if not found:
        raise DataError(f"{path} has no lines such as '000001.jpg 0'; download it again")
    names, numbers = zip(*found, strict=True)
    return list(names), np.array(numbers, dtype=np.int64)


def artbench(place: str | None) -> dict[str, Parent]:
    """ArtBench-10 (Liao et al. 2022) at 256x256: its training images, and its test images as
    validation. Ids count the rows of ArtBench-10.csv from 0.

    Args:
        place: the folder with ArtBench-10.csv and the image folders, of which each holds one
            style, with or without folders train and test above them.
    """
    if place is None:
        raise DataError(
            f"data.path: name the folder of ArtBench-10, with {ARTBENCH} and the images"
        )
    root = Path(place).expanduser()
    table = next((path for path in (root, *root.glob("*/")) if (path / ARTBENCH).is_file()), None)
    if table is None:
        raise DataError(f"data.path: {root} has no {ARTBENCH}; download the metadata there")
    with (table / ARTBENCH).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"name", "label", "split"} <= set(rows[0]):
        raise DataError(
            f"{table / ARTBENCH} has no columns name, label and split; download it again"
        )
    label_names = sorted({row["label"] for row in rows})
    folders = [
        home / inner
        for home in (root, *sorted(one for one in root.glob("*/")))
        for inner in ("{label}", "{split}/{label}")
    ]
    parts = {}
    for split, theirs in (("train", "train"), ("validation", "test")):
        mine = [number for number, row in enumerate(rows) if row["split"] == theirs]
        if not mine:
            raise DataError(f"{table / ARTBENCH} has no rows of split {theirs}; download it again")

        def find(row: int, mine: list[int] = mine) -> Path:
            wanted = rows[mine[row]]
            for folder in folders:
                path = Path(str(folder).format(**wanted)) / wanted["name"]
                if path.is_file():
                    return path
            raise DataError(
                f"data.path: {root} has no image {wanted['label']}/{wanted['name']}; unpack the "
                "256x256 image folders there"
            )

        parts[split] = Parent(
            f"{table / ARTBENCH}, split {theirs},",
            np.array([label_names.index(rows[number]["label"]) for number in mine]),
            label_names,
            read=lambda row, find=find: opened(find(row)),
            name=lambda row, mine=mine: f"{rows[mine[row]]['label']}/{rows[mine[row]]['name']}",
            ids=np.array(mine, dtype=np.int64),
        )
    return parts


def _celeba_of_hub(place: str) -> dict[str, Parent]:
    parts = hub(place)
    train, validation = parts["train"], parts["validation"]
    return {
        "train": _without_labels(train, 0),
        "validation": _without_labels(validation, len(train.labels)),
    }


def _without_labels(parent: Parent, first: int) -> Parent:
    labels = np.full(len(parent.labels), NO_LABEL)
    ids = first + np.arange(len(labels))
    return Parent(parent.what, labels, [], parent.read, parent.name, ids)


def hub(place: str) -> dict[str, Parent]:
    """A dataset of the hub, or a folder of its files: `train`, and a held-out split as validation.

    The image column is the first of images; labels are the first column of class labels, or one of
    whole numbers named label; without either, images have none.
    """
    import datasets

    folder = Path(place).expanduser()
    try:
        parts = datasets.load_dataset(str(folder) if folder.exists() else place)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(f"data.path: {place} cannot be loaded as a dataset ({reason})") from None
    held_out = next((name for name in HELD_OUT if name in parts), None)
    if "train" not in parts or held_out is None:
        raise DataError(
            f"data.path: {place} has the splits {', '.join(parts)}; it needs train and one of "
            f"{', '.join(HELD_OUT)}"
        )
    return {
        split: _of_table(parts[name], f"{place} {name}")
        for split, name in (("train", "train"), ("validation", held_out))
    }


def _of_table(table: Any, what: str) -> Parent:
    """A split of a dataset as `datasets` loads it."""
    import datasets

    kinds = table.features
    column = next((name for name, kind in kinds.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        raise DataError(f"{what} has no column of images; it has {', '.join(kinds)}")
    named = [name for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    if named:
        labels, label_names = np.array(table[named[0]], dtype=np.int64), kinds[named[0]].names
    elif "label" in kinds and kinds["label"].dtype.startswith(("int", "uint")):
        labels = np.array(table["label"], dtype=np.int64)
        label_names = [str(label) for label in range(labels.max(initial=NO_LABEL) + 1)]
    else:
        labels, label_names = np.full(len(table), NO_LABEL), []
    images = table.select_columns([column])
    return Parent(
        what,
        labels,
        list(label_names),
        lambda row: images[row][column],
        lambda row: f"{what} {row}",
    )


# --- CIFAR-10's own files -------------------------------------------------------------------------


def _cifar10_batches(place: Path, content: Callable[[str], bytes | None]) -> dict[str, Parent]:
    """The batches of the original archives; `content` gives a member's bytes, or None."""
    parts = {}
    for split, names in (("train", CIFAR10_BATCHES), ("validation", ["test_batch"])):
        batches = [_batch(place, name, content) for name in names]
        images = np.concatenate([pixels for pixels, _ in batches])  # [rows, 3, 32, 32]
        part = "train" if split == "train" else "test"
        parts[split] = Parent(
            f"{place} ({part})",
            np.concatenate([labels for _, labels in batches]),
            CIFAR10_LABELS,
            read=lambda row, images=images: Image.fromarray(images[row].transpose(1, 2, 0)),
            name=lambda row, part=part: f"cifar10 {part} {row}",
        )
    return parts


def _batch(
    place: Path, name: str, content: Callable[[str], bytes | None]
) -> tuple[np.ndarray, np.ndarray]:
    """(images [rows, 3, 32, 32] uint8, labels [rows] int64) of a python or binary batch."""
    if (data := content(f"{name}.bin")) is not None:
        rows, rest = divmod(len(data), 3073)
        table = np.frombuffer(data[: rows * 3073], np.uint8).reshape(rows, 3073)
        pixels, labels = table[:, 1:], table[:, 0]
        whole = rest == 0
    elif (data := content(name)) is not None:
        batch = _unpickled(data, place, name)
        pixels, labels = np.asarray(batch.get(b"data")), np.asarray(batch.get(b"labels"))
        whole = pixels.dtype == np.uint8 and pixels.shape == (len(np.atleast_1d(labels)), 3072)
    else:
        raise DataError(f"{place} has no {name}; download CIFAR-10 again")
    if not whole or not len(labels) or labels.max() >= len(CIFAR10_LABELS):
        raise DataError(f"{place}: {name} is no batch of CIFAR-10; download it again")
    return pixels.reshape(-1, 3, 32, 32), labels.astype(np.int64)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _members(archive: Path) -> Callable[[str], bytes | None]:
    """What gives the files of a tar archive by name, whatever folder they are in."""
    wanted = {name + end for name in (*CIFAR10_BATCHES, "test_batch") for end in ("", ".bin")}
    try:
        with tarfile.open(archive) as tar:
            files = {
                Path(member.name).name: tar.extractfile(member).read()
                for member in tar
                if member.isfile() and Path(member.name).name in wanted
            }
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"data.path: {archive} cannot be read as an archive ({error}); download it again"
        ) from None
    return files.get


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        return super().find_class(module, name)


def _unpickled(data: bytes, place: Path, name: str) -> dict[bytes, Any]:
    """A pickled dictionary of arrays; anything else in it is refused before it runs."""
    try:
        batch = _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a broken pickle raises nearly anything
        raise DataError(f"{place}: {name} is no batch of CIFAR-10 ({error})") from None
    if not isinstance(batch, dict):
        raise DataError(f"{place}: {name} is no batch of CIFAR-10; download it again")
    return batch
