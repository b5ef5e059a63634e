"""CLIP image embeddings (Radford et al. 2021), through transformers, for similarity baselines."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, CLIPImageProcessor, CLIPModel, CLIPVisionModelWithProjection

from attribution.errors import ConfigurationError, NumericalError

MODELS: dict[str, Any] = {
    "clip": CLIPModel,
    "clip_vision_model": CLIPVisionModelWithProjection,
}


class ClipEncoder:
    """Embeds images as a CLIP model does, with the model's own preprocessing.

    Attributes: `dim`, the numbers of an embedding; `identity`, a JSON-able dict of what determines
    them: the model's name and a digest of its weights.
    """

    def __init__(self, source: str, setting: str, device: torch.device):
        """
        Args:
            source: a hub id, or a folder as transformers saves it: a CLIPModel or a
                CLIPVisionModelWithProjection in safetensors, with its image processor.
            setting: where `source` comes from, for messages: `features.<name>.clip`.

        Raises:
            ConfigurationError: the model cannot be loaded, or lacks weights.
        """
        self.device = device
        network, self._processor = _load(source, setting)
        self._network = network.to(device).eval().requires_grad_(False)
        self.dim: int = network.visual_projection.out_features
        self.identity = {
            "kind": "clip",
            "model": source,
            "dim": self.dim,
            "weights": _digest(network),
        }

    @torch.inference_mode()
    def __call__(self, images: np.ndarray, batch: int = 64) -> np.ndarray:
        """Embeddings [images, dim] float32, not normalised, of images [images, 1 or 3, H, W] uint8.

        A grey image is taken for an RGB one of three equal channels.

        Raises:
            ConfigurationError: images of another type or number of channels.
            NumericalError: an embedding is not finite.
        """
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] not in (1, 3):
            raise ConfigurationError(
                "CLIP takes 8-bit images [images, 1 or 3 channels, height, width], not "
                f"{list(images.shape)} of {images.dtype}."
            )
        embeddings = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), batch):
            rows = slice(start, start + batch)
            embeddings[rows] = self._embed(images[rows])
        rows = np.flatnonzero(~np.isfinite(embeddings).all(1)).tolist()
        if rows:
            raise NumericalError(f"The CLIP embeddings of images {rows[:5]} are not finite.")
        return embeddings

    def _embed(self, images: np.ndarray) -> np.ndarray:
        last = np.moveaxis(images, 1, 3)  # [images, height, width, channels]
        pictures = [Image.fromarray(np.repeat(one, 3 // one.shape[2], 2)) for one in last]
        pixels = self._processor(images=pictures, return_tensors="pt")["pixel_values"]
        seen = self._network.vision_model(pixels.to(self.device)).pooler_output
        return self._network.visual_projection(seen).float().cpu().numpy()


def _load(source: str, setting: str) -> tuple[Any, CLIPImageProcessor]:
    # A path with a typo must not be asked of the hub, whose answer would mislead.
    if source.startswith((".", "/", "~")) and not Path(source).expanduser().is_dir():
        raise ConfigurationError(f"{setting}: {source} is not a folder.")
    place = str(Path(source).expanduser()) if source.startswith("~") else source
    try:
        kind = AutoConfig.from_pretrained(place, trust_remote_code=False).model_type
        if kind in MODELS:
            network, info = MODELS[kind].from_pretrained(
                place, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
            processor = CLIPImageProcessor.from_pretrained(place)
    except Exception as error:  # transformers and its hub client raise errors of many kinds
        reason = str(error).strip().split("\n")[0]
        raise ConfigurationError(
            f"{setting}: no CLIP weights can be loaded from {source!r} ({type(error).__name__}: "
            f"{reason}); name a hub id that this machine can reach, or a folder with config.json, "
            "preprocessor_config.json and model.safetensors."
        ) from error
    if kind not in MODELS:
        raise ConfigurationError(f"{setting}: {source!r} is a {kind} model and no CLIP.")
    missing = [name for name in info["missing_keys"] if "position_ids" not in name]
    if missing:
        raise ConfigurationError(
            f"{setting}: the weights of {source!r} lack {sorted(missing)[0]!r} and {len(missing)} "
            "in all; they are not whole."
        )
    return network, processor


def _digest(network: Any) -> str:
    """A short digest of the weights that embeddings depend on."""
    digest = hashlib.sha256()
    for part in (network.vision_model, network.visual_projection):
        for name, value in sorted(part.state_dict().items()):
            digest.update(f"{name}{list(value.shape)}".encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
