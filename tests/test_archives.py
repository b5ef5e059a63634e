"""Datasets in their originals' formats give the authors' rows, and refuse what they are not."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import archive_files
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split

from attribution import archives
from attribution.datasets import drawn_rows, load
from attribution.errors import DataError
from attribution.subsets import draw_masks


def settings(source: str, path: Path | str | None, **more: Any) -> dict[str, Any]:
    return {
        "source": source,
        "path": None if path is None else str(path),
        "image_size": 32,
        "channels": 3,
        "resize": False,
        "labels": None,
        "stratify": True,
        "crop": None,
        "train": 12,
        "validation": 4,
        "seed": 42,
        **more,
    }


def expected(made: dict[str, archive_files.Batch], train: int, validation: int) -> dict[str, Any]:
    """Automobiles and horses by the authors' rules, written out with pandas."""
    parents = {
        "train": ([f"data_batch_{number}" for number in (4, 3, 2, 5, 1)], train),
        "validation": (["test_batch"], validation),
    }
    found = {}
    for split, (names, count) in parents.items():
        pixels = np.concatenate([made[name].pixels for name in names])
        table = pd.DataFrame({"label": np.concatenate([made[name].labels for name in names])})
        table = table[table.label.isin([1, 7])]
        rows, _ = train_test_split(
            table.index, train_size=count, random_state=42, stratify=table.label
        )
        found[split] = (list(rows), pixels[rows], (table.label[rows] == 7).astype(int).tolist())
    return found


@pytest.mark.parametrize("form", ["python", "binary", "archive", "binary archive", "parquet"])
def test_cifar2_of_every_form_is_that_of_the_authors_rules(tmp_path: Path, form: str):
    if form == "parquet":
        made, place = archive_files.write_cifar_parquet(tmp_path), tmp_path
    elif "binary" in form:
        made, place = archive_files.write_cifar_binary(tmp_path), tmp_path
    else:
        made, place = archive_files.write_cifar_python(tmp_path), tmp_path
    if "archive" in form:
        folder = next(tmp_path.glob("cifar-10-batches-*"))
        place = archive_files.write_cifar_archive(tmp_path / "cifar.tar.gz", folder)
    found = load(settings("cifar10", place, labels=["horse", "automobile"]))
    for split, (rows, pixels, labels) in expected(made, 12, 4).items():
        assert found[split].ids.tolist() == rows
        assert found[split].label_names == ["automobile", "horse"]
        assert found[split].labels.tolist() == labels
        np.testing.assert_array_equal(found[split].images, pixels)
    assert found["train"].names[0].endswith(f"train {found['train'].ids[0]}")


def test_all_of_cifar10_keeps_its_order(tmp_path: Path):
    made = archive_files.write_cifar_python(tmp_path)
    train = load(settings("cifar10", tmp_path, train=200, validation=40))["train"]
    assert train.ids.tolist() == list(range(200))
    np.testing.assert_array_equal(train.images[:40], made["data_batch_4"].pixels)
    np.testing.assert_array_equal(train.images[160:], made["data_batch_1"].pixels)


def test_class_folders_do_for_cifar10_and_say_that_rows_are_not_the_original_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for part in ("train", "test"):
        for label in ("automobile", "dog", "horse"):
            (tmp_path / part / label).mkdir(parents=True)
            for index in range(6):
                Image.new("RGB", (32, 32), (index, 0, 0)).save(
                    tmp_path / part / label / f"{index}.png"
                )
    found = load(settings("cifar10", tmp_path, labels=["automobile", "horse"], train=12))
    assert sorted(found["train"].ids) == [*range(6), *range(12, 18)]
    assert "not rows of the original" in caplog.text


class Touch:
    """Pickled so that reading it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path):
    archive_files.write_cifar_python(tmp_path)
    trap = tmp_path / "sprung"
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(pickle.dumps({b"data": Touch(trap), b"labels": [0]}))
    with pytest.raises(DataError, match=r"data_batch_2 is no batch of CIFAR-10 .*mkdir"):
        load(settings("cifar10", tmp_path))
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x02]q\x00.", pickle.dumps({b"labels": [1]})])
def test_a_batch_that_is_none_is_named(tmp_path: Path, content: bytes):
    archive_files.write_cifar_python(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_5").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_5 is no batch of CIFAR-10"):
        load(settings("cifar10", tmp_path))


def test_missing_and_cut_files_of_cifar10_are_named(tmp_path: Path):
    archive_files.write_cifar_binary(tmp_path)
    file = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="data_batch_3 is no batch"):
        load(settings("cifar10", tmp_path))
    file.unlink()
    with pytest.raises(DataError, match="has no data_batch_3"):
        load(settings("cifar10", tmp_path))
    (tmp_path / "cifar.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"cifar\.tar\.gz cannot be read as an archive"):
        load(settings("cifar10", tmp_path / "cifar.tar.gz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no CIFAR-10"):
        load(settings("cifar10", tmp_path / "empty"))


def test_unknown_labels_and_too_few_images_say_what_there_is(tmp_path: Path):
    archive_files.write_cifar_python(tmp_path)
    with pytest.raises(DataError, match="no label 'hors'; did you mean 'horse'"):
        load(settings("cifar10", tmp_path, labels=["hors"]))
    with pytest.raises(DataError, match=r"has 20 images of horse, but data asks for 21"):
        load(settings("cifar10", tmp_path, labels=["horse"], train=21))


def write_celeba_list(folder: Path) -> None:
    """The whole list of CelebA, whose partitions come one after another, without images."""
    (folder / "img_align_celeba").mkdir()
    partitions = np.repeat([0, 1, 2], [162_770, 19_867, 19_962])
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{row + 1:06d}.jpg {part}\n" for row, part in enumerate(partitions))
    )


def test_celeba_has_the_authors_ids(tmp_path: Path):
    write_celeba_list(tmp_path)
    parts, wanted = archives.celeba(str(tmp_path)), settings("celeba", tmp_path, stratify=False)
    train = parts["train"].ids[drawn_rows(parts["train"], 5000, wanted)]
    validation = parts["validation"].ids[drawn_rows(parts["validation"], 1000, wanted)]
    assert train[:5].tolist() == [48803, 28992, 118843, 86803, 153263]
    assert validation[:5].tolist() == [167013, 179842, 176165, 167714, 180120]
    assert validation[-1] == 178565
    subsets = {"fraction": 0.5, "count": 1, "seed": 42, "stratify": False}
    (mask,) = draw_masks(np.full(5000, -1), subsets)
    first = [151385, 116923, 141417, 23247, 119735]
    assert set(first) <= set(train[mask])
    assert parts["train"].name(48803) == "048804.jpg"
    assert parts["validation"].name(167013 - 162770) == "167014.jpg"


def test_celeba_images_are_cropped_and_resized(tmp_path: Path):
    names = archive_files.write_celeba(tmp_path)
    found = load(
        settings("celeba", tmp_path, stratify=False, crop=140, resize=True, image_size=8, train=6)
    )
    assert set(found["validation"].ids) <= set(range(12, 18))
    for split in found.values():
        assert split.label_names == [] and set(split.labels) == {-1}
        for image, row, name in zip(split.images, split.ids, split.names, strict=True):
            assert name == names[row]
            colour = np.array([row * 12, 100, 250 - row * 12])
            assert np.abs(image - colour[:, None, None]).max() <= 3  # JPEG


def test_the_crop_is_the_middle_of_the_image(tmp_path: Path):
    archive_files.write_celeba(tmp_path)
    file = tmp_path / "img_align_celeba" / "000001.jpg"
    pixels = np.zeros((218, 178, 3), np.uint8)
    pixels[39:179, 19:159] = 255
    for number in range(1, 13):
        Image.fromarray(pixels).save(file.with_name(f"{number:06d}.jpg"), quality=100)
    chosen = {"stratify": False, "crop": 140, "resize": True, "image_size": 4}
    assert load(settings("celeba", tmp_path, **chosen))["train"].images.min() > 240
    with pytest.raises(DataError, match=r"is 178x218, too small for data\.crop 200"):
        load(settings("celeba", tmp_path, **{**chosen, "crop": 200}))


def test_celeba_without_its_files_says_which(tmp_path: Path):
    with pytest.raises(DataError, match=r"has no list_eval_partition\.txt"):
        load(settings("celeba", tmp_path))
    (tmp_path / "Eval").mkdir()
    (tmp_path / "Eval" / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 1\n")
    with pytest.raises(DataError, match="has no folder img_align_celeba"):
        load(settings("celeba", tmp_path))
    (tmp_path / "Img" / "img_align_celeba").mkdir(parents=True)
    with pytest.raises(DataError, match=r"000001\.jpg cannot be read"):
        load(settings("celeba", tmp_path, train=1, validation=1, stratify=False))


def test_a_dataset_of_the_hub_s_form_is_read_by_its_columns(tmp_path: Path):
    made = archive_files.write_cifar_parquet(tmp_path)
    found = load(settings("hub", tmp_path, labels=["frog", "ship"]))
    for place, row in enumerate(found["validation"].ids):
        np.testing.assert_array_equal(
            found["validation"].images[place], made["test_batch"].pixels[row]
        )
        label = made["test_batch"].labels[row]
        assert (
            found["validation"].label_names[found["validation"].labels[place]]
            == ({6: "frog", 8: "ship"}[label])
        )


def test_a_folder_that_is_no_dataset_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be loaded as a dataset"):
        load(settings("hub", tmp_path))


def test_artbench_rows_are_those_of_the_table(tmp_path: Path):
    rows = archive_files.write_artbench(tmp_path, train=4, test=2, size=8)
    parts = archives.artbench(str(tmp_path))
    for split, theirs in (("train", "train"), ("validation", "test")):
        mine = [number for number, row in enumerate(rows) if row["split"] == theirs]
        part = parts[split]
        assert part.ids.tolist() == mine
        names = [part.label_names[label] for label in part.labels]
        assert names == [rows[number]["label"] for number in mine]
        for row, number in enumerate(mine):
            wanted = rows[number]
            file = tmp_path / "artbench-10-imagefolder-split" / theirs / wanted["label"]
            with Image.open(file / wanted["name"]) as image:
                np.testing.assert_array_equal(np.asarray(part.read(row)), np.asarray(image))


def test_artbench_of_one_folder_a_style(tmp_path: Path):
    archive_files.write_artbench(tmp_path, train=4, test=2, size=8)
    split = tmp_path / "artbench-10-imagefolder-split"
    for folder in split.glob("*/*"):
        home = tmp_path / "images" / folder.name
        home.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            file.rename(home / file.name)
    assert archives.artbench(str(tmp_path))["train"].read(0).size == (8, 8)


def test_artbench_that_is_not_whole_says_what_is_missing(tmp_path: Path):
    with pytest.raises(DataError, match="name the folder of ArtBench-10"):
        archives.artbench(None)
    with pytest.raises(DataError, match=r"has no ArtBench-10\.csv"):
        archives.artbench(str(tmp_path))
    archive_files.write_artbench(tmp_path, train=1, test=1, size=8)
    shutil.rmtree(tmp_path / "artbench-10-imagefolder-split" / "test")
    with pytest.raises(DataError, match=r"has no image baroque/baroque-test-0\.jpg"):
        archives.artbench(str(tmp_path))["validation"].read(0)
    (tmp_path / "ArtBench-10.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has no columns name, label and split"):
        archives.artbench(str(tmp_path))
