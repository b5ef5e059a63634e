"""The image files below a folder, and a digest by which a changed folder is noticed."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, by their names' endings, sorted by relative path.

    Hidden files and folders are left out (`._1.jpg`, which macOS puts into archives, is no image).
    """
    return [folder / name for name, _ in sorted(_entries(folder))]


def listing_digest(path: str | Path) -> str:
    """What tells a folder of images from the same folder after a change, in hexadecimal.

    The sha256 over the relative path, size and modification time (ns) of every image file below
    it; of a single file (an archive) over its own. No image is opened, so 10,000 files take a
    fraction of a second. A path that is not there has the digest of an empty folder.
    """
    place = Path(path).expanduser()
    entries = [(place.name, place.stat())] if place.is_file() else sorted(_entries(place))
    digest = hashlib.sha256()
    for name, stat in entries:
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Relative path (with /) and `stat` of each image file; links are followed, loops are not."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(Path(place, name)) not in seen
        ]
        below = os.path.relpath(place, folder)
        for name in files:
            if name.startswith(".") or not name.lower().endswith(IMAGE_SUFFIXES):
                continue
            try:
                stat = Path(place, name).stat()
            except OSError:  # a link to nothing, or a file removed meanwhile
                continue
            yield (name if below == os.curdir else Path(below, name).as_posix()), stat
