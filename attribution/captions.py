"""Captions of image files, from a person's own table."""

import csv
from pathlib import Path

from attribution.errors import DataError


def read_captions(table: Path | None, names: list[str]) -> list[str]:
    """The caption of each image file, by its path in its folder or by its name alone.

    Args:
        table: a csv file with columns `file` and `prompt`; None gives the empty caption to all.
        names: paths of the images in their folder.

    Raises:
        DataError: the table cannot be read, or lacks a file.
    """
    if table is None:
        return [""] * len(names)
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"pretrained.prompts: {table} cannot be read ({error})") from None
    if not rows or not {"file", "prompt"} <= set(rows[0]):
        raise DataError(f"pretrained.prompts: {table} has no columns file and prompt")
    known = {row["file"]: row["prompt"] or "" for row in rows}
    missing = [name for name in names if name not in known and Path(name).name not in known]
    if missing:
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        raise DataError(
            f"pretrained.prompts: {table} has no prompt of {len(missing)} of {len(names)} images: "
            f"{shown}; add them, with an empty prompt where there was none"
        )
    return [known.get(name, known.get(Path(name).name, "")) for name in names]
