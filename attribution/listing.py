"""The files below a folder, and digests by which a changed folder is noticed."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, by their names' endings, sorted by relative path.

    Hidden files and folders are left out (`._1.jpg`, which macOS puts into archives, is no image).
    """
    return [folder / name for name, _ in sorted(_entries(folder, IMAGE_SUFFIXES))]


def listing_digest(path: str | Path) -> str:
    """What tells a folder of images from the same folder after a change, in hexadecimal.

    The sha256 over the relative path, size and modification time (ns) of every image file below
    it; of a single file (an archive) over its own. No image is opened, so 10,000 files take a
    fraction of a second. A path that is not there has the digest of an empty folder.
    """
    place = Path(path).expanduser()
    return _digest(
        f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}"
        for name, stat in _files(place, IMAGE_SUFFIXES)
    )


def contents_digest(path: str | Path | None, without: Path | None = None) -> str:
    """What tells a dataset's folder or archive from the same after a change, in hexadecimal.

    The sha256 over the relative path and size of every file. Times are left out, so that a copy of
    the same files starts no training of days again; a file that is replaced by another one of just
    its size is not noticed. Blank for no path and for one that is not there, such as a hub id.

    Args:
        without: a folder that is left out where it lies inside.
    """
    place = Path(path).expanduser() if path is not None else None
    if place is None or not place.exists():
        return ""
    found = _files(place, ("",), without)
    return _digest(f"{name}\0{stat.st_size}" for name, stat in found)


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode(errors="replace"))
    return digest.hexdigest()


def _files(
    place: Path, suffixes: tuple[str, ...], without: Path | None = None
) -> list[tuple[str, os.stat_result]]:
    """A file itself, or those below a folder with these endings."""
    if place.is_file():
        return [(place.name, place.stat())]
    return sorted(_entries(place, suffixes, without))


def _entries(
    folder: Path, suffixes: tuple[str, ...], without: Path | None = None
) -> Iterator[tuple[str, os.stat_result]]:
    """Relative path (with /) and `stat` of each file; links are followed, loops are not."""
    seen = set() if without is None else {os.path.realpath(without)}
    for place, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(Path(place, name)) not in seen
        ]
        below = os.path.relpath(place, folder)
        for name in files:
            if name.startswith(".") or not name.lower().endswith(suffixes):
                continue
            try:
                stat = Path(place, name).stat()
            except OSError:  # a link to nothing, or a file removed meanwhile
                continue
            yield (name if below == os.curdir else Path(below, name).as_posix()), stat
