"""Predictions of the retrained models' outputs from scores: what the benchmark correlates.

The prediction for a subset is the sum of its images' scores as a readout sees them, negative,
because outputs are losses and scores are positive for images that lower the loss (paper Eq. 3).
All are [readouts, lambdas, subsets, queries]: small beside the scores they come from.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attribution.readouts import ELEMENTWISE, apply
from attribution.stores import write_store


def predicted_outputs(masks: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """-sum over the subset's images of their scores (paper Eq. 3): [subsets, queries] float64.

    Args:
        masks: bool [subsets, images].
        scores: [queries, images], positive for proponents.
    """
    return -(masks.astype(np.float64) @ scores.T.astype(np.float64))


def from_scores(
    scores: Any, masks: np.ndarray, readouts: Sequence[str], kappa: float | None = None
) -> np.ndarray:
    """Predictions from a score store, one lambda's matrix in memory at a time.

    Args:
        scores: [lambdas, queries, images], an array or one of a store.
        masks: bool [subsets, images].
        readouts: names from `attribution.readouts.READOUTS`.
        kappa: the fraction of `top_fraction`.
    """
    lambdas, queries, _ = scores.shape
    predictions = np.empty((len(readouts), lambdas, len(masks), queries))
    for index in range(lambdas):
        matrix = np.asarray(scores[index : index + 1][0], dtype=np.float64)  # [queries, images]
        for place, readout in enumerate(readouts):
            predictions[place, index] = predicted_outputs(masks, apply(readout, matrix, kappa))
    return predictions


def from_pieces(
    pieces: Iterable[tuple[int, slice, np.ndarray]],
    masks: np.ndarray,
    shape: tuple[int, int],
    readouts: Sequence[str],
) -> np.ndarray:
    """Predictions from a method's pieces as they come: no score matrix is held.

    Args:
        pieces: (index of the lambda, slice of images, scores [queries, images]).
        masks: bool [subsets, images].
        shape: the numbers of lambdas and of queries.
        readouts: those of one score at a time, `attribution.readouts.ELEMENTWISE`.
    """
    assert set(readouts) <= set(ELEMENTWISE), readouts
    lambdas, queries = shape
    predictions = np.zeros((len(readouts), lambdas, len(masks), queries))
    for index, columns, values in pieces:
        for place, readout in enumerate(readouts):
            predictions[place, index] += predicted_outputs(
                masks[:, columns], apply(readout, values)
            )
    return predictions


def write(
    manifest: Path,
    spec: dict[str, Any],
    repair: str,
    predictions: np.ndarray,
    lambdas: np.ndarray,
    **content: Any,
) -> None:
    """Write a store of predictions [readouts, lambdas, subsets, queries], float32.

    Args:
        manifest: where its manifest goes.
        spec: what decides the content. repair: the command that makes it again.
        lambdas: [lambdas], NaN for a method without.
        content: `row`, `split`, `readouts`, `mean_eigenvalue` and `train_size`, for the manifest.
    """
    names = ("readouts", "lambdas", "subsets", "queries")
    write_store(
        manifest.parent,
        "predictions",
        spec,
        {
            "predictions": (names, predictions.astype(np.float32)),
            "lambdas": (("lambdas",), np.asarray(lambdas, dtype=np.float64)),
        },
        repair,
        {"values": "predicted outputs of the models trained on each subset, up to a constant"},
        **content,
    )
