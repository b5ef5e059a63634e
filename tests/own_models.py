"""A finished model in the hub's folder format, and folders of images, as someone has them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image
from small_network import network


def write_pipeline(folder: Path, **schedule: Any) -> Path:
    """A DDPM pipeline of a small random network for 8x8 images."""
    scheduler = DDPMScheduler(**{"num_train_timesteps": 100, "beta_end": 0.03, **schedule})
    DDPMPipeline(network(8), scheduler).save_pretrained(folder)
    return folder


def edit(file: Path, **changes: Any) -> None:
    """A JSON file with other values."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def write_images(folder: Path, count: int, seed: int = 0, prefix: str = "") -> np.ndarray:
    """`count` grey 8x8 pictures as PNG files; returns them as [count, 1, 8, 8] uint8."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    for number, one in enumerate(pictures):
        Image.fromarray(one[0]).save(folder / f"{prefix}{number:03d}.png")
    return pictures
