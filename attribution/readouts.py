"""Readouts: what becomes of a score before scores are added up over a subset.

They cost nothing and change no model; after any but `linear` the sum is no longer an additive
influence, so a row with another readout always stands beside the linear one. Sources: the square
is that of DAS (Lin et al. 2025); docs/methods.md has the others.
"""

from collections.abc import Callable

import numpy as np

from attribution.errors import ConfigurationError

# Readouts of one score at a time: a part of a score matrix is enough.
ELEMENTWISE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda scores: scores,
    "square": np.square,
    "signed_square": lambda scores: scores * np.abs(scores),
}
READOUTS = (*ELEMENTWISE, "top_fraction")


def apply(name: str, scores: np.ndarray, kappa: float | None = None) -> np.ndarray:
    """Scores [queries, images] as the readout sees them.

    linear: t. square: t^2. signed_square: sign(t) t^2. top_fraction: t for each query's largest
    round(`kappa` n) scores of n, at least one, and 0 for all others; it needs whole rows.

    Raises:
        ConfigurationError: an unknown readout, or a fraction that is none.
    """
    if name in ELEMENTWISE:
        return ELEMENTWISE[name](scores)
    if name != "top_fraction":
        raise ConfigurationError(f"unknown readout {name!r}; known: {', '.join(READOUTS)}")
    if kappa is None or not 0 < kappa <= 1:
        raise ConfigurationError(f"top_fraction needs a fraction above 0 and up to 1, not {kappa}")
    images = scores.shape[1]
    count = max(1, round(kappa * images))
    largest = np.argpartition(scores, images - count, axis=1)[:, images - count :]
    kept = np.zeros_like(scores)
    np.put_along_axis(kept, largest, np.take_along_axis(scores, largest, axis=1), axis=1)
    return kept
