"""Features taken over from a store of other images: the same numbers, the rest computed."""

from pathlib import Path

import numpy as np
import torch
from small_network import DIFFUSION, network
from test_features import CPU, SETTINGS

from attribution.features import FeatureExtractor, extract, layouts
from attribution.images import image_digests, to_model_range
from attribution.reuse import Previous, previous_path, reusable, set_aside
from attribution.stores import Reader, Writer

torch.set_num_threads(1)
PICTURES = np.random.default_rng(0).integers(0, 256, (7, 1, 8, 8), dtype=np.uint8)


class Counting(FeatureExtractor):
    """Remembers how many images it was asked for."""

    seen = 0

    def __call__(self, images, keys):
        self.seen += len(images)
        return super().__call__(images, keys)


def fill(path: Path, rows: list[int], model: str = "m", **more) -> int:
    """A store of some of the pictures; how many of them were computed."""
    settings = {**SETTINGS, **more}
    one = Counting(network(4), settings, DIFFUSION, "fp32", (1, 8, 8), CPU)
    spec = {"code": "1", "images": str(rows), "model": model, "settings": more}
    layout = layouts(len(rows), settings, one.projector.dim, 2, digests=True)
    writer = Writer(path, spec, layout, set_aside=set_aside(path, spec))
    pictures = PICTURES[rows]
    images, digests = to_model_range(pictures), image_digests(pictures)
    keys = [f"train:{row}" for row in range(len(rows))]
    extract(one, writer, images, np.arange(len(rows)), keys, (0, 1), 2, digests)
    writer.finish("features", "make it", projection={})
    return one.seen


def test_added_images_are_computed_and_the_others_taken_over(tmp_path: Path):
    path, anew = tmp_path / "x.zarr", tmp_path / "anew.zarr"
    for more in ({}, {"dtype": "float16", "residuals": True}):
        assert fill(path, [0, 1, 2, 3], **more) == 4
        changed = [5, 3, 0, 4, 1, 6]  # some gone, some new, another order
        assert fill(path, changed, **more) == 3
        assert fill(anew, changed, **more) == 6
        for name in Reader(anew).manifest["arrays"]:
            ours, theirs = (Reader(one).read(name).astype(float) for one in (path, anew))
            scale = np.abs(theirs).max()
            np.testing.assert_allclose(ours, theirs, atol=2e-3 * scale if more else 1e-5 * scale)
        assert fill(path, changed, **more) == 0  # all is there


def test_another_model_takes_nothing_over(tmp_path: Path):
    assert fill(tmp_path / "x.zarr", [0, 1]) == 2
    assert fill(tmp_path / "x.zarr", [0, 1, 2], model="other") == 3


def test_a_damaged_chunk_is_computed_again(tmp_path: Path):
    path = tmp_path / "x.zarr"
    fill(path, [0, 1, 2, 3])
    chunk = path / "features/c/1/0"
    chunk.write_bytes(chunk.read_bytes()[:-9] + b"damaged!!")
    assert fill(path, [0, 1, 2, 3, 4]) == 3  # rows 2 and 3 were in the damaged chunk


def test_images_that_change_again_before_all_were_done_lose_nothing(tmp_path: Path):
    path = tmp_path / "x.zarr"
    fill(path, [0, 1, 2, 3])
    spec = {"code": "1", "images": "unfinished", "model": "m", "settings": {}}
    Writer(path, spec, {}, set_aside=set_aside(path, spec))  # killed before its first chunk
    assert len(Previous(previous_path(path), spec)) == 4
    assert len(Previous(previous_path(path), {**spec, "model": "other"})) == 0
    assert fill(path, [0, 1, 2, 3, 5]) == 1


def test_only_features_without_noises_of_an_images_own_are_taken_over():
    settings = {"bank": 1, "along": "images"}
    assert reusable(settings)
    assert not reusable({**settings, "bank": None})
    assert not reusable({**settings, "bank": 52})
    assert not reusable({**settings, "along": "trajectory"})
