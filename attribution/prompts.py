"""Which captions the generated images are made by: the classes, in equal blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from attribution.sampling import Prompts
from attribution.stores import Reader


def caption_blocks(count: int, captions: list[int]) -> np.ndarray:
    """The caption of each of `count` images, [count] int64: equal blocks in the order given."""
    return np.array(captions, dtype=np.int64)[np.arange(count) * len(captions) // count]


def read_prompts(
    latents: Path, label_names: list[str], settings: dict[str, Any]
) -> tuple[Prompts, np.ndarray]:
    """The prompts of the generation split, and the label of each image [images] int64.

    Args:
        latents: store of the training images' latents, with the embeddings of all captions; that
            of label i is number i + 1.
        label_names: of the training images.
        settings: the sections `data`, whose `labels` give the order of the blocks, and
            `generation`.
    """
    order = settings["data"]["labels"] or label_names
    wanted = [label_names.index(name) + 1 for name in order]
    chosen = caption_blocks(settings["generation"]["images"], wanted)
    embeddings = torch.from_numpy(Reader(latents).read("embeddings"))
    guidance = settings["generation"]["guidance"]
    return Prompts(embeddings[torch.from_numpy(chosen)], embeddings[0], guidance), chosen - 1
