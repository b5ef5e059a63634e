"""Small datasets in the formats of the originals, made of random pixels."""

import csv
import pickle
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

BATCHES = (1, 2, 3, 4, 5)
LABELS = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
]  # fmt: skip


class Batch(NamedTuple):
    """Of one batch of CIFAR-10: pixels [images, 3, 32, 32] uint8, labels [images]."""

    pixels: np.ndarray
    labels: np.ndarray


def batches(each: int = 40) -> dict[str, Batch]:
    """The six batches by name, each with every label about as often."""
    random = np.random.default_rng(0)
    names = [*(f"data_batch_{number}" for number in BATCHES), "test_batch"]
    return {
        name: Batch(
            random.integers(0, 256, (each, 3, 32, 32), dtype=np.uint8),
            random.permutation(np.arange(each) % 10),
        )
        for name in names
    }


def write_cifar_python(folder: Path, each: int = 40) -> dict[str, Batch]:
    """`cifar-10-batches-py` in `folder`, as the original's pickles of bytes."""
    made, home = batches(each), folder / "cifar-10-batches-py"
    home.mkdir(parents=True)
    for name, (pixels, labels) in made.items():
        content = {b"data": pixels.reshape(each, 3072), b"labels": labels.tolist()}
        (home / name).write_bytes(pickle.dumps(content, protocol=2))
    return made


def write_cifar_binary(folder: Path, each: int = 40) -> dict[str, Batch]:
    """`cifar-10-batches-bin` in `folder`: for each image, a byte of label and 3,072 of pixels."""
    made, home = batches(each), folder / "cifar-10-batches-bin"
    home.mkdir(parents=True)
    for name, (pixels, labels) in made.items():
        table = np.concatenate([labels[:, None].astype(np.uint8), pixels.reshape(each, -1)], 1)
        (home / f"{name}.bin").write_bytes(table.tobytes())
    return made


def write_cifar_archive(path: Path, folder: Path) -> Path:
    """A .tar.gz of a folder that one of the above has written."""
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return path


def write_cifar_parquet(folder: Path, each: int = 40) -> dict[str, Batch]:
    """Parquet files as the hub's, its rows in the order of the original archive."""
    import datasets

    made = batches(each)
    kinds = datasets.Features(
        img=datasets.Image(),
        label=datasets.ClassLabel(names=LABELS),
    )
    parts = {
        "train": [f"data_batch_{number}" for number in (4, 3, 2, 5, 1)],
        "test": ["test_batch"],
    }
    (folder / "plain_text").mkdir(parents=True)
    for part, names in parts.items():
        images = [Image.fromarray(one.transpose(1, 2, 0)) for n in names for one in made[n].pixels]
        labels = [int(label) for name in names for label in made[name].labels]
        table = datasets.Dataset.from_dict({"img": images, "label": labels}, features=kinds)
        table.to_parquet(folder / "plain_text" / f"{part}-00000-of-00001.parquet")
    return made


def write_celeba(folder: Path, train: int = 12, validation: int = 6, test: int = 3) -> list[str]:
    """178x218 JPEG files, each of one colour, with the list of partitions; returns their names."""
    partitions = [0] * train + [1] * validation + [2] * test
    names = [f"{number + 1:06d}.jpg" for number in range(len(partitions))]
    (folder / "img_align_celeba").mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", (178, 218), (number * 12, 100, 250 - number * 12)).save(
            folder / "img_align_celeba" / name
        )
    lines = [f"{name} {part}" for name, part in zip(names, partitions, strict=True)]
    (folder / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return names


def write_artbench(folder: Path, train: int = 16, test: int = 5, size: int = 16) -> list[dict]:
    """ArtBench-10's table and images of three styles, each with as many; returns the rows."""
    random, rows = np.random.default_rng(0), []
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            for label in ("baroque", "ukiyo_e", "post_impressionism"):
                name = f"{label}-{split}-{number}.jpg"
                home = folder / "artbench-10-imagefolder-split" / split / label
                home.mkdir(parents=True, exist_ok=True)
                pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(home / name)
                rows.append({"name": name, "artist": "x", "label": label, "split": split})
    with (folder / "ArtBench-10.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows
