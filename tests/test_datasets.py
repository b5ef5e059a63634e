"""Splits are disjoint, drawn by label, the authors' own where they can be, and 8-bit throughout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from attribution.datasets import draw, load, read_image
from attribution.errors import DataError
from attribution.images import (
    Split,
    image_keys,
    read_split,
    to_model_range,
    to_pixels,
    write_split,
)
from attribution.rows import PixelRows

torch.set_num_threads(1)
DIGITS = {"source": "digits", "train": 300, "validation": 100, "seed": 0, "stratify": True}
FITTED = {"image_size": 4, "channels": 3, "resize": False, "crop": None}


def folder_settings(path: Path, **more: Any) -> dict[str, Any]:
    return {
        "source": "image_folder",
        "path": str(path),
        "image_size": 4,
        "channels": 3,
        "resize": False,
        "labels": None,
        "stratify": True,
        "crop": None,
        "train": 8,
        "validation": 4,
        "seed": 0,
        **more,
    }


def pixels(number: int, size: int = 4) -> np.ndarray:
    """An image that no other number gives, [height, width, channels] uint8."""
    return np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)


def make_folder(root: Path, validation: str = "validation", **counts: int) -> Path:
    """Images 0, 1, … of every label in train/, half as many in validation/."""
    number = 0
    for split, share in (("train", 1), (validation, 2)):
        for label, count in (counts or {"cat": 6, "dog": 6}).items():
            (root / split / label).mkdir(parents=True)
            for index in range(count // share):
                Image.fromarray(pixels(number)).save(root / split / label / f"{index:02d}.png")
                number += 1
    return root


def test_digits_are_the_digits_of_scikit_learn_over_8_bits():
    digits, splits = load_digits(), load(DIGITS)
    levels = np.array([round(level * 255 / 16) for level in range(17)])  # 0, 16, 32, …, 255
    for split, count in (("train", 300), ("validation", 100)):
        part = splits[split]
        assert part.images.shape == (count, 1, 8, 8)
        assert part.images.dtype == np.uint8
        expected = levels[digits.images[part.ids].astype(int)]
        np.testing.assert_array_equal(part.images[:, 0], expected)
        np.testing.assert_array_equal(part.labels, digits.target[part.ids])
        assert part.names == [f"digit {i}" for i in part.ids]
    assert len(set(levels)) == 17
    assert splits["train"].label_names == list("0123456789")


def test_digits_are_drawn_without_overlap_and_by_label():
    splits, everything = load(DIGITS), load_digits().target
    train, validation = splits["train"], splits["validation"]
    assert len(np.unique(np.concatenate([train.ids, validation.ids]))) == 400
    share = np.bincount(everything) / len(everything)
    for part in (train, validation):
        assert np.abs(np.bincount(part.labels) - share * len(part.labels)).max() < 1


def test_the_same_seed_draws_the_same_digits_and_another_seed_others():
    np.testing.assert_array_equal(load(DIGITS)["train"].ids, load(DIGITS)["train"].ids)
    assert set(load(DIGITS)["train"].ids) != set(load({**DIGITS, "seed": 1})["train"].ids)


def test_all_digits_can_be_used():
    splits = load({**DIGITS, "train": 1000, "validation": 797})
    both = np.concatenate([splits["train"].ids, splits["validation"].ids])
    np.testing.assert_array_equal(np.sort(both), np.arange(1797))


def test_the_authors_celeba_splits():
    """The first ids that they published; train is rows 0 … 162769, validation the 19,867 after."""
    train = draw(np.zeros(162_770), 5000, 42, stratify=False)
    validation = 162_770 + draw(np.zeros(19_867), 1000, 42, stratify=False)
    assert train[:5].tolist() == [48803, 28992, 118843, 86803, 153263]
    assert validation[:5].tolist() == [167013, 179842, 176165, 167714, 180120]
    assert validation[-1] == 178565


def test_draw_takes_each_row_once_and_all_where_all_are_asked_for():
    labels = np.repeat([0, 1], [30, 10])
    rows = draw(labels, 20, 0)
    assert len(set(rows)) == 20
    assert np.bincount(labels[rows]).tolist() == [15, 5]
    np.testing.assert_array_equal(np.sort(draw(labels, 40, 0)), np.arange(40))


def test_an_image_folder_is_read_with_labels_ids_and_names(tmp_path: Path):
    splits = load(folder_settings(make_folder(tmp_path), train=12, validation=6))
    train = splits["train"]
    assert train.label_names == ["cat", "dog"]
    assert train.names == [f"{label}/{i:02d}.png" for label in ("cat", "dog") for i in range(6)]
    assert train.ids.tolist() == list(range(12))
    assert train.labels.tolist() == [0] * 6 + [1] * 6
    for number in range(12):
        np.testing.assert_array_equal(train.images[number], pixels(number).transpose(2, 0, 1))
    for row, number in enumerate(range(12, 18)):
        np.testing.assert_array_equal(
            splits["validation"].images[row], pixels(number).transpose(2, 0, 1)
        )


def test_a_part_of_an_image_folder_keeps_shares_and_goes_with_its_ids(tmp_path: Path):
    splits = load(folder_settings(make_folder(tmp_path, cat=12, dog=6), train=9, validation=6))
    train = splits["train"]
    assert np.bincount(train.labels).tolist() == [6, 3]
    for image, number in zip(train.images, train.ids, strict=True):
        np.testing.assert_array_equal(image, pixels(number).transpose(2, 0, 1))
    assert np.bincount(splits["validation"].labels).tolist() == [4, 2]


def test_a_folder_test_stands_for_validation(tmp_path: Path):
    splits = load(folder_settings(make_folder(tmp_path, validation="test")))
    assert len(splits["validation"].images) == 4


def test_files_that_are_no_images_by_name_are_left_out(tmp_path: Path):
    make_folder(tmp_path)
    (tmp_path / "train" / "cat" / "readme.txt").write_text("no image")
    (tmp_path / "train" / ".DS_Store").write_text("no folder")
    assert len(load(folder_settings(tmp_path, train=12))["train"].images) == 12


def test_one_channel_is_the_luma_of_the_image(tmp_path: Path):
    Image.fromarray(pixels(0)).save(tmp_path / "a.png")
    grey = read_image(tmp_path / "a.png", FITTED | {"channels": 1})
    expected = pixels(0).astype(float) @ [0.299, 0.587, 0.114]  # ITU-R 601-2
    assert grey.shape == (1, 4, 4)
    np.testing.assert_allclose(grey[0], expected, atol=1)


@pytest.mark.parametrize("content", [b"", b"not an image", None, "flipped"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | str | None):
    make_folder(tmp_path)
    file = tmp_path / "train" / "dog" / "03.png"
    whole = bytearray(file.read_bytes())
    if content == "flipped":  # inside the pixels' chunk, whose checksum then fails
        whole[whole.index(b"IDAT") + 8] ^= 0xFF
        content = bytes(whole)
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(DataError) as caught:
        load(folder_settings(tmp_path, train=12))
    assert str(file) in str(caught.value)
    assert "remove or replace it" in str(caught.value)


def test_another_size_is_named_with_the_way_out(tmp_path: Path):
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "a.png")
    settings = FITTED
    with pytest.raises(
        DataError, match=r"a\.png is 8x6, but the model takes 4x4; set data\.resize"
    ):
        read_image(tmp_path / "a.png", settings)


def test_resize_scales_the_shorter_side_and_crops_the_centre(tmp_path: Path):
    # Columns of 2 pixels in 16 greys, 8 high and 32 wide: halved to 16 columns of one grey each,
    # of which the middle 4 (numbers 6 … 9) stay.
    greys = np.repeat(np.arange(16) * 10, 2).astype(np.uint8)
    Image.fromarray(np.tile(greys, (8, 1))).save(tmp_path / "a.png")
    settings = FITTED | {"channels": 1, "resize": True}
    image = read_image(tmp_path / "a.png", settings)
    assert image.shape == (1, 4, 4)
    np.testing.assert_allclose(image[0], np.tile([60, 70, 80, 90], (4, 1)), atol=4)


@pytest.mark.parametrize("size", [(3, 9), (9, 3), (4, 5), (7, 7), (2, 2), (4, 4), (100, 33)])
def test_resize_gives_the_size_asked_for(tmp_path: Path, size: tuple[int, int]):
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", FITTED | {"resize": True})
    np.testing.assert_array_equal(image, np.full((3, 4, 4), [[[10]], [[20]], [[30]]]))


def test_too_few_images_are_counted(tmp_path: Path):
    make_folder(tmp_path)
    with pytest.raises(DataError, match="train has 12 images, but data asks for 13"):
        load(folder_settings(tmp_path, train=13))


def test_missing_folders_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="has no folder train"):
        load(folder_settings(tmp_path))
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="has no folder validation or test"):
        load(folder_settings(tmp_path))
    (tmp_path / "validation").mkdir()
    with pytest.raises(DataError, match="one folder a label"):
        load(folder_settings(tmp_path))


@pytest.mark.parametrize(
    ("counts", "train"), [({"cat": 9, "dog": 1}, 5), ({"cat": 6, "dog": 6}, 11)]
)
def test_labels_that_cannot_be_shared_are_explained(
    tmp_path: Path, counts: dict[str, int], train: int
):
    """A label with one image, and a rest with fewer images than labels."""
    make_folder(tmp_path, **counts)
    with pytest.raises(DataError):
        load(folder_settings(tmp_path, train=train, validation=1))


def test_8_bit_images_survive_the_model_s_range():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    there = to_model_range(levels)
    assert (there.min().item(), there.max().item()) == (-1, 1)
    assert there.dtype == torch.float32
    np.testing.assert_array_equal(to_pixels(there), levels)


def test_values_outside_the_range_are_clipped_and_those_inside_rounded():
    # (0.25 + 1) * 127.5 = 159.375; (-0.5 + 1) * 127.5 = 63.75.
    images = torch.tensor([-3.0, -1.0, -0.5, 0.25, 1.0, 1.7])
    assert to_pixels(images).tolist() == [0, 0, 64, 159, 255, 255]


def small_split() -> Split:
    images = np.stack([pixels(i).transpose(2, 0, 1) for i in range(3)])
    return Split(images, np.array([1, 0, 1]), np.array([7, 3, 9]), ["a", "é", "c"], ["x", "y"])


def test_a_stored_split_is_read_back(tmp_path: Path):
    record = write_split(tmp_path / "train.zarr", small_split(), {"code": "1"}, "make it")
    split, digest = read_split(tmp_path / "train.zarr")
    for name in ("images", "labels", "ids"):
        np.testing.assert_array_equal(getattr(split, name), getattr(small_split(), name))
    assert (split.names, split.label_names) == (["a", "é", "c"], ["x", "y"])
    assert digest == record["sha256"]
    assert image_keys("train", split.ids) == ["train:7", "train:3", "train:9"]


def test_pixel_rows_are_the_images_flattened_in_the_model_s_range(tmp_path: Path):
    write_split(tmp_path / "train.zarr", small_split(), {}, "make it")
    rows = PixelRows(tmp_path / "train.zarr")
    assert rows.shape == (3, 48)
    expected = small_split().images.reshape(3, 48).astype(np.float64) / 255 * 2 - 1
    np.testing.assert_allclose(rows[slice(1, 3)], expected[1:3], atol=1e-6)
