"""Galleries: a query image with the training images that a method holds for and against it.

Positive scores are proponents (training on them lowers the query's loss), negative ones opponents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attribution.errors import StoreError
from attribution.figures import BLACK, BLUE, STYLE, VERMILLION, colour_last
from attribution.images import Split
from attribution.stores import Reader
from attribution.tables import headline, row_names


@dataclass(frozen=True)
class Neighbour:
    """A training image in a gallery.

    rank: 1 is the strongest; row: its row in the training set; id: its id in the dataset; name:
    what a person calls it; label: blank where it has none; image: uint8 [channels, height, width].
    """

    rank: int
    row: int
    id: int
    name: str
    label: str
    score: float
    image: np.ndarray


@dataclass(frozen=True)
class MethodGallery:
    """What one method says about a query: highest and lowest scores, strongest first."""

    method: str
    proponents: list[Neighbour]
    opponents: list[Neighbour]


@dataclass(frozen=True)
class QueryGallery:
    """A query and what each method says about it; image: uint8 [channels, height, width]."""

    row: int
    id: int
    name: str
    label: str
    image: np.ndarray
    methods: list[MethodGallery]


def strongest(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows with the `count` highest and the `count` lowest scores, strongest first.

    Equal scores stand in the order of their rows, in both. Fewer rows than `count` give all rows.

    Args:
        scores: [training images].

    Returns:
        proponents and opponents, int64 [count] each.
    """
    return (
        np.argsort(-scores, kind="stable")[:count],
        np.argsort(scores, kind="stable")[:count],
    )


def gallery(
    queries: Split, train: Split, scores: Mapping[str, np.ndarray], row: int, count: int
) -> QueryGallery:
    """The gallery of one query.

    Args:
        queries, train: images with labels (negative: none), ids and names.
        scores: what a person calls the method, to its scores [queries, training images].
        row: the query's row in `queries`.
        count: proponents, and opponents, of each method.
    """
    methods = []
    for method, matrix in scores.items():
        proponents, opponents = strongest(matrix[row], count)
        methods.append(
            MethodGallery(
                method,
                _neighbours(train, matrix[row], proponents),
                _neighbours(train, matrix[row], opponents),
            )
        )
    return QueryGallery(
        row=row,
        id=int(queries.ids[row]),
        name=queries.names[row],
        label=_label(queries, row),
        image=queries.images[row],
        methods=methods,
    )


def _neighbours(train: Split, scores: np.ndarray, rows: np.ndarray) -> list[Neighbour]:
    return [
        Neighbour(
            rank=rank,
            row=int(row),
            id=int(train.ids[row]),
            name=train.names[row],
            label=_label(train, row),
            score=float(scores[row]),
            image=train.images[row],
        )
        for rank, row in enumerate(rows, start=1)
    ]


def _label(split: Split, row: int) -> str:
    label = int(split.labels[row])
    return split.label_names[label] if 0 <= label < len(split.label_names) else ""


def spread_rows(queries: int, count: int) -> list[int]:
    """`count` query rows spread evenly over all, so that every figure shows the same ones."""
    return [int(row) for row in np.unique(np.linspace(0, queries - 1, min(count, queries)).round())]


def best_lambdas(frame: pd.DataFrame, split: str) -> dict[str, float]:
    """The lambda (absolute) of each method that is best on a split; NaN for one without.

    Args:
        frame: the records of lds.csv.
    """
    frame = headline(frame)
    records = frame[(frame["split"] == split) & (frame["lambda_rule"] != "heldout")]
    return {
        str(method): float(value)
        for method, value in zip(records["method"], records["lambda"], strict=True)
    }


def read_scores(path: Path, chosen: float) -> np.ndarray:
    """A store's scores [queries, training images] float32 at one lambda.

    Args:
        path: a score store.
        chosen: the lambda, at least to the five digits of a table; NaN for a method without.
    """
    store = Reader(path)
    lambdas = store.read("lambdas")  # [lambdas]
    found = np.flatnonzero(np.isclose(lambdas, chosen, rtol=1e-4, atol=0, equal_nan=True))
    if len(found) == 0:
        raise StoreError(
            f"{path} has no scores at lambda {chosen:g}; "
            f"it has {', '.join(f'{value:g}' for value in lambdas)}"
        )
    return store.array("scores")[int(found[0])]


def read_galleries(
    stores: Sequence[Path],
    frame: pd.DataFrame,
    queries: Split,
    train: Split,
    shown: int,
    count: int,
) -> list[QueryGallery]:
    """The galleries of some queries from score stores, each method at its best lambda.

    Args:
        stores: score stores of one split, in the order in which methods are shown.
        frame: the records of lds.csv, for names and best lambdas.
        queries, train: the images of the split and of the training set.
        shown: queries, spread evenly over the split.
        count: proponents, and opponents, of each method.
    """
    scores = {}
    for path in stores:
        made = Reader(path).manifest
        best = best_lambdas(frame, made["split"])[made["method"]]
        scores[_method_name(frame, made["method"])] = read_scores(path, best)
    rows = spread_rows(len(queries.images), shown)
    return [gallery(queries, train, scores, row, count) for row in rows]


def _method_name(frame: pd.DataFrame, method: str) -> str:
    frame = headline(frame)
    record = frame.assign(name=row_names(frame))[frame["method"] == method].iloc[0]
    if pd.isna(record["timesteps"]):
        return record["name"]
    return f"{record['name']}, {int(record['timesteps'])} timesteps"


# Lengths in tiles: an image is 1 x 1, its text stands below it.
TILE_ACROSS, TILE_DOWN = 1.12, 1.62
QUERY_SIDE, NAME_WIDTH, SIDES_GAP, QUERY_GAP = 1.5, 2.2, 0.5, 0.45
TITLE_INCHES = 0.6


@matplotlib.rc_context(STYLE)
def plot_gallery(galleries: Sequence[QueryGallery], title: str) -> Figure:
    """One block a query: the query at left; a line a method, proponents left and opponents right.

    Below each training image: rank and score, label, and the id after `#`.

    Args:
        galleries: in the order shown, at least one; all with as many methods and images.
    """
    count = len(galleries[0].methods[0].proponents)
    across = QUERY_SIDE + NAME_WIDTH + 2 * count * TILE_ACROSS + SIDES_GAP
    block = max(len(galleries[0].methods) * TILE_DOWN, QUERY_SIDE + 0.6) + QUERY_GAP
    down = len(galleries) * block + 0.5
    height = 0.72 * down + TITLE_INCHES
    figure = Figure(figsize=(0.72 * across + 0.2, height))
    axes = figure.add_axes((0, 0, 1, 1 - TITLE_INCHES / height), anchor="N")
    axes.set_axis_off()
    left = QUERY_SIDE + NAME_WIDTH
    right = left + count * TILE_ACROSS + SIDES_GAP
    axes.text(left, 0.3, "Proponents: highest scores", color=BLUE, weight="bold", fontsize=10)
    axes.text(right, 0.3, "Opponents: lowest scores", color=VERMILLION, weight="bold", fontsize=10)
    for index, one in enumerate(galleries):
        top = 0.5 + index * block
        _draw_query(axes, one, top)
        for line, method in enumerate(one.methods):
            y = top + line * TILE_DOWN
            axes.text(
                left - 0.15, y + 0.5, method.method, ha="right", va="center", fontsize=9, wrap=False
            )
            draw_strip(axes, method.proponents, left, y, BLUE)
            draw_strip(axes, method.opponents, right, y, VERMILLION)
        if index:
            axes.axhline(top - QUERY_GAP / 2, color="#BBBBBB", lw=0.8)
    axes.set_xlim(-0.15, across)
    axes.set_ylim(down, 0)
    axes.set_aspect("equal")
    figure.suptitle(title, y=1 - 0.3 / height, va="center")
    return figure


def _draw_query(axes: Axes, one: QueryGallery, top: float) -> None:
    _draw_image(axes, one.image, 0, top, QUERY_SIDE * 0.85, BLACK)
    text = "\n".join(filter(None, [f"Query #{one.id}", one.label and f"label {one.label}"]))
    axes.text(0, top + QUERY_SIDE * 0.85 + 0.1, text, va="top", fontsize=8, weight="bold")


def draw_strip(axes: Axes, strip: list[Neighbour], left: float, top: float, colour: str) -> None:
    """Images side by side from (left, top) in tiles, rank, score, label and id below each."""
    for place, one in enumerate(strip):
        x = left + place * TILE_ACROSS
        _draw_image(axes, one.image, x, top, 1, colour)
        text = "\n".join(
            filter(
                None,
                [f"{one.rank}: {one.score:+.2g}", one.label and f"label {one.label}", f"#{one.id}"],
            )
        )
        axes.text(x, top + 1.05, text, va="top", fontsize=6.5, linespacing=1.05)


def _draw_image(
    axes: Axes, image: np.ndarray, x: float, y: float, side: float, colour: str
) -> None:
    """An image without blur, its top left corner at (x, y) of axes whose y grows downwards."""
    extent = (x, x + side, y + side, y)
    axes.imshow(colour_last(image), extent=extent, interpolation="nearest", aspect="equal")
    frame = Rectangle((x, y), side, side, fill=False, edgecolor=colour, lw=1)
    axes.add_patch(frame)
