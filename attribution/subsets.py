"""The training subsets of the linear datamodeling score (paper Definition 2, Appendix A.2)."""

from typing import Any

import numpy as np

from attribution.datasets import draw
from attribution.errors import ConfigurationError, DataError


def draw_masks(labels: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Which training images each subset holds, bool [subsets, images].

    Subset k is drawn with the random state `seed + 2k`, as the authors' code does; so more subsets
    leave the earlier ones as they are.
    """
    size = int(settings["fraction"] * len(labels))
    masks = np.zeros((settings["count"], len(labels)), dtype=bool)
    for index, mask in enumerate(masks):
        try:
            mask[draw(labels, size, settings["seed"] + 2 * index, settings["stratify"])] = True
        except DataError as error:
            raise ConfigurationError(
                f"subsets: {error}, or set subsets.stratify to false"
            ) from None
    return masks
