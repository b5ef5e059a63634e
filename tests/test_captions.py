"""Captions of image files from a person's table, by path or by name."""

from pathlib import Path

import pytest

from attribution.captions import read_captions
from attribution.errors import DataError

NAMES = ["cats/a.png", "b.png", "dogs/c.png"]


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def test_without_a_table_all_captions_are_empty():
    assert read_captions(None, NAMES) == ["", "", ""]


def test_a_path_goes_before_a_name(tmp_path: Path):
    table = write(
        tmp_path / "x.csv",
        "prompt,file",
        "another,a.png",
        '"a cat, sitting",cats/a.png',
        ",b.png",
        "ein schöner Hund,c.png",
        encoding="utf-8-sig",  # as spreadsheets write it
    )
    assert read_captions(table, NAMES) == ["a cat, sitting", "", "ein schöner Hund"]


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (("file,caption", "b.png,x"), "has no columns file and prompt"),
        (("file,prompt",), "has no columns file and prompt"),
        (("file,prompt", "b.png,x"), r"no prompt of 2 of 3 images: cats/a\.png, dogs/c\.png; add"),
    ],
)
def test_a_table_that_lacks_something(tmp_path: Path, lines: tuple[str, ...], sentence: str):
    with pytest.raises(DataError, match=sentence):
        read_captions(write(tmp_path / "x.csv", *lines), NAMES)


def test_a_table_that_is_none(tmp_path: Path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match="cannot be read"):
        read_captions(tmp_path / "x.csv", NAMES)
    with pytest.raises(DataError, match="cannot be read"):
        read_captions(tmp_path / "absent.csv", NAMES)
