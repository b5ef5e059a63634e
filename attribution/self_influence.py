"""Self-influence: how much each training image speaks for itself (paper, Appendix D.3).

The self-influence of training image n is its leverage phi_n^T (Phi^T Phi + lambda I)^-1 phi_n,
between 0 and 1: near 1 for an image unlike all others, which the model must know by heart; small
for one that many others resemble.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from attribution.errors import ConfigurationError
from attribution.galleries import Neighbour
from attribution.images import Split
from attribution.kernels import leverage
from attribution.markup import both_forms
from attribution.method_inputs import read_decomposition
from attribution.rows import FeatureRows
from attribution.tables import BLANK


def chosen_lambda(
    frame: pd.DataFrame, mean_eigenvalue: float, multiple: float | None = None
) -> float:
    """The lambda of the study: a multiple of the mean eigenvalue, or else the held-out one.

    Args:
        frame: lds.csv of the row with this kernel; where both splits chose, the geometric mean of
            their typical lambdas is taken, because training images belong to neither.
        multiple: of the mean eigenvalue; None takes the held-out one.
    """
    if multiple is not None:
        return multiple * mean_eigenvalue
    held = frame[(frame["lambda_rule"] == "heldout") & (frame["readout"] == "linear")]
    if held.empty:
        raise ConfigurationError(
            "the row of the self-influence study has no held-out lambda; name a method with a "
            "kernel, or give a multiple of the mean eigenvalue"
        )
    return float(np.exp(np.log(held["lambda"].astype(float)).mean()))


def self_influences(features: Path, kernel: Path, lam: float, device: torch.device) -> np.ndarray:
    """The self-influence of each training image, [images] float64.

    Args:
        features: store of the training images' features. kernel: store of their decomposition.
        lam: lambda, absolute.
    """
    train = FeatureRows(features)
    decomposition = read_decomposition(kernel, train.identity, features, device)
    return leverage(decomposition, train, lam)


def ranked(train: Split, values: np.ndarray) -> pd.DataFrame:
    """All training images, most self-influential first: rank, row, id, name, label, self_influence.

    Equal values stand in the order of their rows.
    """
    order = np.argsort(-values, kind="stable")
    return pd.DataFrame(
        {
            "rank": np.arange(1, len(order) + 1),
            "row": order,
            "id": train.ids[order],
            "name": [train.names[row] for row in order],
            "label": [_label(train, row) for row in order],
            "self_influence": values[order],
        }
    )


def ends(train: Split, table: pd.DataFrame, count: int) -> tuple[list[Neighbour], list[Neighbour]]:
    """The `count` images of highest and of lowest self-influence, strongest first in both."""
    return (
        [_neighbour(train, record) for record in table.head(count).itertuples()],
        [_neighbour(train, record) for record in table.tail(count).iloc[::-1].itertuples()],
    )


def _neighbour(train: Split, record) -> Neighbour:
    return Neighbour(
        rank=int(record.rank),
        row=int(record.row),
        id=int(record.id),
        name=record.name,
        label=record.label,
        score=float(record.self_influence),
        image=train.images[record.row],
    )


def _label(train: Split, row: int) -> str:
    label = int(train.labels[row])
    return train.label_names[label] if 0 <= label < len(train.label_names) else ""


def self_influence_table(
    table: pd.DataFrame, count: int, lam: float, mean_eigenvalue: float, title: str
) -> tuple[str, str]:
    """The images of highest and of lowest self-influence as Markdown and LaTeX.

    Args:
        table: from `ranked`. count: images of each end. lam: lambda, absolute.
    """
    shown = pd.concat([table.head(count), table.tail(count)]).drop_duplicates("rank")
    lines = [
        [
            f"{one.rank:,}",
            str(one.id),
            str(one.name),
            str(one.label) or BLANK,
            f"{one.self_influence:.3g}",
        ]
        for one in shown.itertuples(index=False)
    ]
    note = (
        f"Self-influence of {len(table):,} training images at λ = {lam / mean_eigenvalue:.3g} "
        "times the mean eigenvalue of the kernel: between 0 (many others resemble the image) and 1 "
        f"(none does). Their mean is {table['self_influence'].mean():.3g}."
    )
    heads = ["Rank", "Id", "Name", "Label", "Self-influence"]
    return both_forms(title, heads, lines, 4, note)
