"""Features that exist are not computed again when images are added, removed or renamed.

Where all images meet the same noise, an image's features depend on its pixels alone. The store of
other images under the same settings is then set aside instead of removed, and its rows are taken
over by the digest of their image.
"""

from pathlib import Path
from typing import Any

import numpy as np

from attribution.errors import StoreError
from attribution.stores import Writer


def reusable(settings: dict[str, Any]) -> bool:
    """Whether the features of a set depend on an image's pixels alone, not on its id."""
    return settings["bank"] == 1 and settings["along"] == "images"


def previous_path(path: Path) -> Path:
    """Where the store that another one takes rows from is kept meanwhile."""
    return path.with_name(f".{path.name}.previous")


def set_aside(path: Path, spec: dict[str, Any]) -> Any:
    """For `Writer`: keeps a store at `path` that differs from `spec` in its images only.

    If one is kept already (images changed again before all were done), the one with more chunks is.
    """
    kept = previous_path(path)

    def where(old: dict[str, Any]) -> Path | None:
        better = _chunks(path) > _chunks(kept) or not _is_of(kept, spec)
        return kept if _same_but_images(old, spec) and better else None

    return where


def _same_but_images(old: dict[str, Any], new: dict[str, Any]) -> bool:
    old, new = (
        {key: value for key, value in spec.items() if key not in ("arrays", "images")}
        for spec in (old, new)
    )
    return old == new


def _is_of(path: Path, spec: dict[str, Any]) -> bool:
    try:
        return _same_but_images(Writer.reopen(path).spec, spec)
    except (StoreError, KeyError):
        return False


def _chunks(path: Path) -> int:
    return sum(1 for file in path.glob("features/c/*/*") if file.is_file())


class Previous:
    """The rows of a feature store, whole or unfinished, by the digest of their image."""

    def __init__(self, path: Path, spec: dict[str, Any]):
        """
        Args:
            path: of the store; one that is not there, or has no `digests`, has no rows.
            spec: that it must have, but for its images.
        """
        self._row: dict[int, int] = {}
        if not _is_of(path, spec):
            return
        self._store = Writer.reopen(path)
        if "digests" not in self._store.layouts:
            return
        layout = self._store.layouts["digests"]
        for chunk in range(layout.grid[0]):
            if self._is_whole(chunk):
                first = layout.region((chunk,))[0].start
                digests = self._store.read("digests", (chunk,))
                self._row |= {int(one): first + row for row, one in enumerate(digests)}

    def _is_whole(self, chunk: int) -> bool:
        return all(
            self._store.has(name, (chunk,) + (0,) * (len(layout.shape) - 1))
            for name, layout in self._store.layouts.items()
        )

    def __len__(self) -> int:
        return len(self._row)

    def take(self, digests: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Which of these images [rows] are known, as a mask, and the known ones' values by array.

        Values are as stored, [known images, ...], in the order of `digests`.
        """
        rows = np.array([self._row.get(int(one), -1) for one in digests], dtype=np.int64)
        known = rows >= 0
        if not known.any():
            return known, {}
        return known, {
            name: np.stack([self._store.row(name, row) for row in rows[known].tolist()])
            for name in self._store.layouts
            if name not in ("ids", "digests")
        }
