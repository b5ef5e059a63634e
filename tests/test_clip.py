"""CLIP embeddings against transformers called by hand and against CLIP's preprocessing redone."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scripted import assembled, run_script, save_images
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionModelWithProjection,
)

from attribution.clip import ClipEncoder
from attribution.errors import ConfigurationError, NumericalError
from attribution.rows import open_rows

torch.set_num_threads(1)
CPU = torch.device("cpu")
SIZE = 32  # of the pictures that the tiny CLIP sees
RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (5, 3, 20, 12), dtype=np.uint8)
GREY = RANDOM.integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)


@functools.cache
def model() -> CLIPModel:
    torch.manual_seed(0)
    common = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**common, "num_hidden_layers": 2, "image_size": SIZE, "patch_size": 8},
        text_config={**common, "num_hidden_layers": 1, "vocab_size": 20},
        projection_dim=12,
    )
    return CLIPModel(config).eval()


def processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CLIP in the hub's format."""
    model().save_pretrained(tmp_path / "clip")
    processor().save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def encoder(source: Path | str) -> ClipEncoder:
    return ClipEncoder(str(source), "features.clip.clip", CPU)


def pictures(images: np.ndarray) -> list[Image.Image]:
    if images.shape[1] == 1:
        return [Image.fromarray(one[0], "L").convert("RGB") for one in images]
    return [Image.fromarray(one.transpose(1, 2, 0), "RGB") for one in images]


@torch.no_grad()
def by_transformers(images: np.ndarray) -> np.ndarray:
    """One image at a time."""
    rows = []
    for picture in pictures(images):
        features = model().get_image_features(**processor()(picture, return_tensors="pt"))
        rows.append(getattr(features, "pooler_output", features)[0].numpy())
    return np.stack(rows)


@torch.no_grad()
def by_hand(images: np.ndarray) -> np.ndarray:
    """CLIP's preprocessing written out: short edge bicubic to SIZE, centre crop, normalise."""
    pixels = []
    for picture in pictures(images):
        width, height = picture.size
        scale = SIZE / min(width, height)
        resized = picture.resize(
            (int(width * scale), int(height * scale)), Image.Resampling.BICUBIC
        )
        left, top = (resized.width - SIZE) // 2, (resized.height - SIZE) // 2
        cropped = resized.crop((left, top, left + SIZE, top + SIZE))
        values = np.asarray(cropped, dtype=np.float64) / 255
        mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        pixels.append(((values - mean) / std).transpose(2, 0, 1))
    inputs = torch.from_numpy(np.stack(pixels)).float()
    features = model().get_image_features(pixel_values=inputs)
    return getattr(features, "pooler_output", features).numpy()


@pytest.mark.parametrize("images", [COLOUR, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_embeddings_equal_transformers_on_pictures(folder: Path, images: np.ndarray, batch: int):
    computed = encoder(folder)(images, batch)
    assert computed.shape == (5, 12)
    assert computed.dtype == np.float32
    np.testing.assert_allclose(computed, by_transformers(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("images", [COLOUR, GREY], ids=["colour", "grey"])
def test_the_preprocessing_is_clip_s(folder: Path, images: np.ndarray):
    # PIL and transformers may resize in other precisions: a step of 1/255 in some pixels.
    expected = by_hand(images)
    np.testing.assert_allclose(
        encoder(folder)(images), expected, atol=0.02 * np.abs(expected).max()
    )


def test_a_vision_model_alone_will_do(folder: Path, tmp_path: Path):
    config = model().config.vision_config
    config.projection_dim = 12
    alone = CLIPVisionModelWithProjection(config)
    alone.vision_model.load_state_dict(model().vision_model.state_dict())
    alone.visual_projection.load_state_dict(model().visual_projection.state_dict())
    alone.save_pretrained(tmp_path / "vision")
    processor().save_pretrained(tmp_path / "vision")
    both = encoder(folder), encoder(tmp_path / "vision")
    np.testing.assert_allclose(both[1](COLOUR), both[0](COLOUR), rtol=1e-5, atol=1e-6)
    assert both[0].identity["weights"] == both[1].identity["weights"]


def test_the_identity_names_the_model_and_its_weights(folder: Path, tmp_path: Path):
    first = encoder(folder).identity
    assert first == {
        "kind": "clip",
        "model": str(folder),
        "dim": 12,
        "weights": encoder(folder).identity["weights"],
    }
    json.dumps(first)
    with torch.no_grad():
        other = CLIPModel(model().config)
    other.save_pretrained(tmp_path / "other")
    processor().save_pretrained(tmp_path / "other")
    assert encoder(tmp_path / "other").identity["weights"] != first["weights"]


def test_no_images_give_no_rows(folder: Path):
    assert encoder(folder)(COLOUR[:0]).shape == (0, 12)


def test_images_of_another_kind_are_refused(folder: Path):
    encode = encoder(folder)
    for wrong in (COLOUR[:, :2], COLOUR[0], COLOUR.astype(np.float32)):
        with pytest.raises(ConfigurationError, match="CLIP takes 8-bit images"):
            encode(wrong)


def refused(source: Path | str, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match) as caught:
        encoder(source)
    assert str(caught.value).startswith("features.clip.clip: ")
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_loaded_are_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(tmp_path / "nowhere", "is not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no CLIP weights can be loaded")
    for lost in ("model.safetensors", "preprocessor_config.json"):
        copy = tmp_path / f"without-{lost}"
        shutil.copytree(folder, copy)
        (copy / lost).unlink()
        refused(copy, "no CLIP weights can be loaded")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(folder, "no CLIP weights can be loaded")


def test_pickled_weights_are_not_read(folder: Path):
    (folder / "model.safetensors").unlink()
    torch.save(model().state_dict(), folder / "pytorch_model.bin")
    refused(folder, "no CLIP weights can be loaded")


def test_models_that_are_no_clip_are_refused(folder: Path):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "bert"}))
    refused(folder, "is a bert model and no CLIP")


def test_missing_weights_are_not_made_up(folder: Path):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "lack 'visual_projection.weight'")


def test_embeddings_that_are_not_finite_are_named(folder: Path):
    encode = encoder(folder)
    encode._network.visual_projection.weight.data[0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"images \[0, 1, 2, 3, 4\] are not finite"):
        encode(COLOUR)


def test_the_script_writes_a_feature_store(folder: Path, tmp_path: Path):
    ids = np.array([4, 9, 2, 0, 7])
    images = save_images(tmp_path / "data/train.zarr", GREY, ids)
    place = tmp_path / "features/clip"
    part = place / "train.parts/encoded.json"
    run_script(
        "encode_images",
        {"features": {"clip": {"clip": str(folder)}}},
        {"images": str(images)},
        {"part": part},
        features="clip",
        split="train",
    )
    assembled(part, place / "train.zarr")
    rows = open_rows(tmp_path, "clip", "train", {"clip": {"clip": str(folder)}})
    np.testing.assert_allclose(rows[slice(0, 5)], by_transformers(GREY), rtol=1e-4, atol=1e-5)
    assert rows.ids.tolist() == ids.tolist()
    assert rows.identity == encoder(folder).identity
    assert rows.store.manifest["kind"] == "features"
