"""Figures of an experiment: LDS by method and by lambda, the training loss, generated images.

Each function returns a figure of its own, drawn without pyplot, so nothing global is left behind.
Colours are those of Okabe and Ito, which the colour-blind can tell apart; markers and line styles
say the same once more for print in grey.
"""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attribution.tables import (
    HELDOUT,
    LINEAR,
    ORACLE,
    ceilings,
    headline,
    layout,
    row_names,
    split_images,
)

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#767676"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINE_STYLES = ("--", "-", ":", "-.")
DOTS_PER_INCH = 150
LDS_AXIS = "linear datamodeling score (Spearman, %)"

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 10,
    "axes.titlesize": 10,
    "figure.titlesize": 12,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "attribution",  # else the ids inside an SVG are random
}
styled = matplotlib.rc_context(STYLE)


@styled
def save(figure: Figure, path: Path) -> list[Path]:
    """Write `path`.svg and `path`.png: the same bytes for the same figure. Returns both paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("svg", "png")]
    for file, metadata in zip(files, ({"Date": None}, {"Software": None}), strict=True):
        figure.savefig(file, dpi=DOTS_PER_INCH, metadata=metadata)
    return files


@styled
def plot_lds_by_method(frame: pd.DataFrame) -> Figure:
    """Dots with intervals: the LDS of every method, one panel a split.

    Args:
        frame: the records of lds.csv.
    """
    frame = headline(frame)
    grid = layout(frame)
    names = row_names(frame)
    lines = _lines(frame.assign(name=names))
    figure = Figure(
        figsize=(4 + 3.2 * len(grid.splits), 1.9 + 0.3 * len(lines)), layout="constrained"
    )
    panels = figure.subplots(1, len(grid.splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, grid.splits, strict=True):
        _draw_methods(axes, frame.assign(name=names)[frame["split"] == split], lines)
        ceiling = ceilings(frame).get(split)
        if ceiling is not None:
            draw_ceiling(axes, ceiling)
        axes.set_title(split_images(split), pad=18)
        axes.set_xlabel(LDS_AXIS)
    panels[0].set_yticks(range(len(lines)), [_line_name(*line) for line in lines])
    panels[0].set_ylim(len(lines) - 0.4, -0.6)
    figure.suptitle("How well each method predicts what retraining does: LDS by method")
    handles = [_DOTS[rule][1] for rule in _DOTS if (frame["lambda_rule"] == rule).any()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _dot(label: str, colour: str, marker: str, face: str) -> tuple[dict, Line2D]:
    style = {"color": colour, "marker": marker, "markerfacecolor": face, "markersize": 6}
    return style, Line2D([], [], linestyle="none", label=label, **style)


_DOTS = {
    "none": _dot("no λ", BLACK, "D", BLACK),
    ORACLE: _dot("best λ on these subsets (oracle)", BLUE, "o", BLUE),
    HELDOUT: _dot("less what choosing λ here adds (λ held out)", VERMILLION, "s", "white"),
}


def _lines(frame: pd.DataFrame) -> list[tuple[str, int | None]]:
    """(name, timesteps) of every method, in the table's order."""
    pairs = frame[["name", "timesteps"]].drop_duplicates().itertuples(index=False)
    return [(name, None if pd.isna(count) else int(count)) for name, count in pairs]


def _line_name(name: str, count: int | None) -> str:
    return name if count is None else f"{name}, {count} timesteps"


def _draw_methods(axes: Axes, frame: pd.DataFrame, lines: list[tuple[str, int | None]]) -> None:
    places = {line: index for index, line in enumerate(lines)}
    for _, record in frame.iterrows():
        rule = record["lambda_rule"]
        count = None if pd.isna(record["timesteps"]) else int(record["timesteps"])
        shift = {ORACLE: -0.17, HELDOUT: 0.17}.get(rule, 0)
        place = places[record["name"], count] + shift
        style = _DOTS[rule][0]
        axes.plot(
            [record["ci_low"], record["ci_high"]], [place, place], color=style["color"], lw=1.5
        )
        axes.plot(record["lds"], place, linestyle="none", **style)
    axes.axvline(0, color=BLACK, lw=0.8)
    axes.grid(axis="y", visible=False)
    for index in range(0, len(lines), 2):  # bands lead the eye from the name to the dot
        axes.axhspan(index - 0.5, index + 0.5, color="#F4F4F4", zorder=0)


def draw_ceiling(axes: Axes, ceiling: float) -> None:
    """A dashed line down the panel at the ceiling in per cent, its value above."""
    axes.axvline(ceiling, color=GREY, linestyle="--", lw=1.2)
    axes.annotate(
        f"ceiling {ceiling:.0f} %",
        (ceiling, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        color="#555555",
        fontsize=9,
        annotation_clip=False,
    )


@styled
def plot_lds_by_lambda(frame: pd.DataFrame) -> Figure:
    """LDS against lambda, one panel a split; the chosen lambdas are marked.

    Args:
        frame: the records of lds_by_lambda.csv; where there are none, the figure says so.
    """
    if "readout" in frame:
        frame = frame[frame["readout"] == LINEAR]
    if frame.empty:
        figure = Figure(figsize=(6, 1.5))
        figure.text(0.5, 0.5, "No method of this experiment has a λ.", ha="center", va="center")
        return figure
    frame = frame.assign(name=row_names(frame))
    splits = [split for split in ("validation", "generation") if split in set(frame["split"])]
    splits += [split for split in dict.fromkeys(frame["split"]) if split not in splits]
    figure = Figure(figsize=(1.4 + 4.2 * len(splits), 5), layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(frame["name"]))
    counts = sorted(frame["timesteps"].dropna().unique())
    for axes, split in zip(panels, splits, strict=True):
        for name, count in _lines(frame[frame["split"] == split]):
            same = frame["timesteps"].isna() if count is None else frame["timesteps"] == count
            curve = frame[(frame["split"] == split) & (frame["name"] == name) & same]
            style = names.index(name), counts.index(count) if count is not None else 1
            draw_curve(axes, curve.sort_values("lambda"), _line_name(name, count), *style)
        axes.axhline(0, color=BLACK, lw=0.8)
        axes.set_xscale("log")
        axes.set_title(split_images(split))
        axes.set_xlabel("λ ÷ mean eigenvalue of the kernel")
    panels[0].set_ylabel(LDS_AXIS)
    figure.suptitle("How much the choice of λ matters: LDS by λ")
    handles = [*panels[0].get_legend_handles_labels()[0], *CHOSEN_LAMBDA]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


CHOSEN_LAMBDA = [
    Line2D([], [], linestyle="none", marker="*", ms=13, mfc="white", mec=BLACK, label="oracle λ"),
    Line2D(
        [], [], linestyle="none", marker="o", ms=9, mfc="none", mec=BLACK,
        label="held-out λ (larger ring: chosen more often)",
    ),
]  # fmt: skip


def draw_curve(axes: Axes, curve: pd.DataFrame, label: str, which: int, style: int) -> None:
    """One method's LDS by lambda: colour and marker say the method, the line style its timesteps.

    Args:
        curve: its records of lds_by_lambda.csv, by ascending lambda.
        which, style: numbers of the colour and of the line style.
    """
    colour = COLOURS[which % len(COLOURS)]
    x, y = curve["lambda_over_mean_eigenvalue"], curve["lds"]
    axes.plot(
        x,
        y,
        color=colour,
        linestyle=LINE_STYLES[style % len(LINE_STYLES)],
        marker=MARKERS[which % len(MARKERS)],
        markevery=3,
        markersize=4,
        label=label,
    )
    chosen = curve["heldout"].astype(int)
    share = chosen / max(chosen.sum(), 1)
    axes.scatter(
        x, y, s=350 * share, facecolors="none", edgecolors=colour, linewidths=1.4, zorder=3
    )
    best = curve["oracle"].astype(bool)
    axes.plot(
        x[best],
        y[best],
        linestyle="none",
        marker="*",
        markersize=13,
        mfc="white",
        mec=colour,
        zorder=4,
    )


@styled
def plot_training_loss(frame: pd.DataFrame) -> Figure:
    """Training loss by epoch, one line a model.

    Args:
        frame: model, epoch, loss.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for index, (model, records) in enumerate(frame.groupby("model", sort=False)):
        axes.plot(
            records["epoch"],
            records["loss"],
            color=COLOURS[index % len(COLOURS)],
            linestyle=("-", *LINE_STYLES)[index % (len(LINE_STYLES) + 1)],
            marker="o" if len(records) == 1 else None,
            label=str(model),
        )
    positive = frame["loss"][frame["loss"] > 0]
    if len(positive) == len(frame) and positive.max() > 5 * positive.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(_labelled_minor)
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean squared error of the noise")
    axes.set_title("Training loss")
    if frame["model"].nunique() > 1:
        axes.legend()
    return figure


def _labelled_minor(value: float, _: int) -> str:
    """Labels for 2 and 5 times a power of ten; more would run into each other."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


@styled
def plot_generated(generated: np.ndarray, train: np.ndarray) -> Figure:
    """Generated images beside training images, pixel for pixel enlarged.

    Args:
        generated, train: uint8 [images, channels, height, width], 1 or 3 channels.
    """
    figure = Figure(layout="constrained")
    panels = figure.subplots(1, 2)
    columns = max(1, int(np.ceil(np.sqrt(max(len(generated), len(train))))))
    titles = (f"Generated ({len(generated)})", f"Training ({len(train)})")
    tallest = 0.0
    for axes, images, title in zip(panels, (generated, train), titles, strict=True):
        tiles = mosaic(images, columns)
        axes.imshow(tiles, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
        tallest = max(tallest, tiles.shape[0] / tiles.shape[1])
    figure.set_size_inches(8.4, 0.8 + 4.1 * tallest)
    figure.suptitle("Do the generated images look like the training images?")
    return figure


def mosaic(images: np.ndarray, columns: int, least_side: int = 32) -> np.ndarray:
    """Images in rows of `columns`, white lines between them.

    Args:
        images: uint8 [images, channels, height, width].
        least_side: smaller images are enlarged by a whole factor to about this many pixels.

    Returns:
        uint8 [pixels down, pixels across, 3].
    """
    factor = max(1, least_side // images.shape[-1])
    pixels = colour_last(images).repeat(factor, 1).repeat(factor, 2)  # [images, h, w, 3]
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 2) - 2, columns * (width + 2) - 2, 3), 255, dtype=np.uint8)
    for index, image in enumerate(pixels):
        top, left = index // columns * (height + 2), index % columns * (width + 2)
        sheet[top : top + height, left : left + width] = image
    return sheet


def colour_last(images: np.ndarray) -> np.ndarray:
    """uint8 [..., channels, height, width] with 1 or 3 channels as [..., height, width, 3]."""
    moved = np.moveaxis(images, -3, -1)
    return np.repeat(moved, 3, -1) if moved.shape[-1] == 1 else moved
