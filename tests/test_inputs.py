"""What networks take in: latents are drawn, mirrored and captioned as the store says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scripted import save_images

from attribution.inputs import Conditioning, LatentSet, PixelSet, clean_images, training_set
from attribution.prompts import caption_blocks
from attribution.stores import Reader, write_store

COUNT, SHAPE = 5, (4, 2, 2)
RANDOM = np.random.default_rng(0)
MEAN = RANDOM.normal(size=(COUNT, 2, *SHAPE)).astype(np.float32)
STD = RANDOM.random((COUNT, 2, *SHAPE)).astype(np.float32)
EMBEDDINGS = RANDOM.normal(size=(3, 6, 8)).astype(np.float32)
CAPTIONS = np.array([1, 2, 2, 1, 2])


@pytest.fixture
def store(tmp_path: Path) -> Reader:
    names = ("images", "views", "channels", "height", "width")
    arrays = {
        "mean": (names, MEAN),
        "std": (names, STD),
        "captions": (("images",), CAPTIONS),
        "ids": (("images",), np.arange(COUNT)),
        "embeddings": (("captions", "tokens", "width"), EMBEDDINGS),
    }
    write_store(tmp_path / "x.zarr", "latents", {}, arrays, "make it")
    return Reader(tmp_path / "x.zarr")


def test_what_is_noised_is_the_mean_of_plain_latents(store: Reader):
    clean = clean_images(store)
    assert len(clean) == COUNT
    assert clean.shape == (COUNT, *SHAPE)
    np.testing.assert_array_equal(clean[1:3], MEAN[1:3, 0])


def test_conditioning_is_the_embedding_of_an_images_caption(store: Reader):
    found = Conditioning(store)(np.array([3, 1]))["encoder_hidden_states"]
    np.testing.assert_array_equal(found, EMBEDDINGS[[1, 2]])


def test_a_batch_is_drawn_from_the_chosen_view(store: Reader):
    data, rows, mirrored = LatentSet(store), np.array([4, 0, 2]), np.array([True, False, True])
    draws = []
    for step in range(4000):
        clean, given = data.batch(rows, mirrored, 7, step, 0.0)
        draws.append(clean.numpy())
        np.testing.assert_array_equal(
            given["encoder_hidden_states"][0], EMBEDDINGS[CAPTIONS[rows[0]]]
        )
    view = mirrored.astype(int)
    np.testing.assert_allclose(np.mean(draws, 0), MEAN[rows, view], atol=0.08)
    np.testing.assert_allclose(np.std(draws, 0), STD[rows, view], atol=0.06)
    again, _ = data.batch(rows, mirrored, 7, 11, 0.0)
    np.testing.assert_array_equal(again, draws[11])


def test_a_share_of_the_captions_is_dropped(store: Reader):
    data, rows = LatentSet(store), np.array([0, 1, 2, 3])
    dropped = 0
    for step in range(500):
        _, given = data.batch(rows, rows > 9, 0, step, 0.25)
        states = given["encoder_hidden_states"].numpy()
        empty = (states == EMBEDDINGS[0]).all((1, 2))
        np.testing.assert_array_equal(states[~empty], EMBEDDINGS[CAPTIONS[rows]][~empty])
        dropped += empty.sum()
    assert dropped / 2000 == pytest.approx(0.25, abs=0.03)


def test_images_need_no_conditioning(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 4, 4), dtype=np.uint8)
    manifest = save_images(tmp_path / "x.zarr", images, np.arange(3))
    data, count, _ = training_set(manifest.parent)
    assert isinstance(data, PixelSet)
    assert (count, data.shape) == (3, (1, 4, 4))
    clean, given = data.batch(np.array([2, 0]), np.array([True, False]), 0, 0, 0.5)
    expected = images[[2, 0]] / 127.5 - 1
    expected[0] = expected[0, :, :, ::-1]
    np.testing.assert_allclose(clean, expected, atol=1e-6)
    assert given == {}
    assert Conditioning(Reader(manifest.parent))(torch.tensor([0])) == {}


def test_generated_images_have_the_authors_blocks_of_captions():
    blocks = caption_blocks(1000, [4, 2])
    assert blocks.tolist() == [4] * 500 + [2] * 500
    assert np.unique(caption_blocks(1000, [5, 4, 3, 2, 1]), return_counts=True)[1].tolist() == (
        [200] * 5
    )
