"""The images of a folder, and a digest that notices when they change."""

import os
from pathlib import Path

from attribution.listing import contents_digest, image_files, listing_digest


def fill(folder: Path) -> list[Path]:
    files = [folder / name for name in ("b.png", "a/2.JPG", "a/10.webp")]
    for number, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(number + 1))
    for other in ("notes.txt", "a/._2.JPG", ".hidden/x.png"):
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_bytes(b"x")
    return files


def test_images_are_found_at_any_depth_in_the_order_of_their_paths(tmp_path: Path):
    fill(tmp_path)
    names = [file.relative_to(tmp_path).as_posix() for file in image_files(tmp_path)]
    assert names == ["a/10.webp", "a/2.JPG", "b.png"]


def test_links_are_followed_and_loops_are_not(tmp_path: Path):
    inside = tmp_path / "images"
    inside.mkdir()
    fill(inside)
    (inside / "loop").symlink_to(inside)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.png").write_bytes(b"x")
    (inside / "other").symlink_to(outside)
    (inside / "nothing.png").symlink_to(tmp_path / "absent.png")
    names = [file.relative_to(inside).as_posix() for file in image_files(inside)]
    assert names == ["a/10.webp", "a/2.JPG", "b.png", "other/x.png"]


def test_the_digest_changes_with_any_image_and_with_nothing_else(tmp_path: Path):
    files = fill(tmp_path)
    before = listing_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("other")
    assert listing_digest(tmp_path) == before
    seen = {before}
    os.utime(files[0], ns=(1, 1))
    seen.add(listing_digest(tmp_path))
    files[1].write_bytes(b"longer than before")
    seen.add(listing_digest(tmp_path))
    files[2].rename(files[2].with_name("11.webp"))
    seen.add(listing_digest(tmp_path))
    files[1].unlink()
    seen.add(listing_digest(tmp_path))
    assert len(seen) == 5
    assert listing_digest(tmp_path / "absent") == listing_digest(tmp_path / "neither")


def test_the_digest_of_a_dataset_changes_with_names_and_sizes_of_all_files(tmp_path: Path):
    files = fill(tmp_path)
    before = contents_digest(tmp_path)
    os.utime(files[0], ns=(1, 1))
    (tmp_path / ".hidden/x.png").write_bytes(b"another")
    assert contents_digest(tmp_path) == before
    seen = {before}
    (tmp_path / "notes.txt").write_text("longer")
    seen.add(contents_digest(tmp_path))
    files[2].rename(files[2].with_name("11.webp"))
    seen.add(contents_digest(tmp_path))
    assert len(seen) == 3
    last = contents_digest(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/lds.csv").write_text("1")
    assert contents_digest(tmp_path, without=tmp_path / "results") == last
    archive = tmp_path / "cifar.tar.gz"
    archive.write_bytes(b"1")
    one = contents_digest(archive)
    archive.write_bytes(b"22")
    assert len({one, contents_digest(archive), ""}) == 3
    assert contents_digest(None) == contents_digest("uoft-cs/cifar10") == ""
