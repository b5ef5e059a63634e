"""Figures of the studies: LDS along a study's axes, lambda curves, cost, convergence, galleries.

Colours and markers say one axis of a study, line styles and fillings another, so that a figure can
be read in grey and by the colour-blind. Lines and dots are at the best lambda on these subsets, as
in the paper's figures; the held-out values stand in the tables.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any, Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from matplotlib.transforms import offset_copy

from attribution.figures import (
    BLACK,
    BLUE,
    CHOSEN_LAMBDA,
    COLOURS,
    GREEN,
    GREY,
    LDS_AXIS,
    LINE_STYLES,
    MARKERS,
    VERMILLION,
    draw_ceiling,
    draw_curve,
    styled,
)
from attribution.galleries import TILE_ACROSS, TILE_DOWN, Neighbour, draw_strip
from attribution.study_tables import axis_title, axis_value
from attribution.tables import (
    HELDOUT,
    LINEAR,
    SPLIT_NAMES,
    ceilings,
    split_images,
    split_name,
)

SOLID_FIRST = ("-", *(style for style in LINE_STYLES if style != "-"))
FILLINGS: tuple[dict[str, Any], ...] = (
    {},
    {"markerfacecolor": "white"},
    {"markerfacecolor": "#BBBBBB"},
    {"fillstyle": "left", "markerfacecoloralt": "white"},
)
WIDE = 8.0  # x axes whose largest number is this many times the smallest one are logarithmic


class Study(Protocol):
    """What a figure must know of a study; `attribution.studies.Study` is one."""

    title: str
    x: str | None
    series: tuple[str, ...]


@styled
def plot_study(frame: pd.DataFrame, study: Study) -> Figure:
    """LDS along a study's x axis, one panel a split: lines where x is a number, else dots.

    Args:
        frame: from `study_tables.study_frame`, seeds averaged; readouts are each row's own.
    """
    frame = frame[frame["own_readout"] & (frame["lambda_rule"] != HELDOUT) & frame["lds"].notna()]
    assert study.x is not None
    if frame.empty:
        return _said("No row of this study could run.")
    series = [axis for axis in study.series if frame[axis].notna().any()]
    styles = Styles(frame, series)
    numeric = all(isinstance(value, Real) for value in frame[study.x].dropna())
    return (_plot_lines if numeric else _plot_dots)(frame, study, styles)


def _said(sentence: str) -> Figure:
    figure = Figure(figsize=(6, 1.5))
    figure.text(0.5, 0.5, sentence, ha="center", va="center")
    return figure


def _splits(frame: pd.DataFrame) -> list[str]:
    known = set(frame["split"])
    first = [split for split in SPLIT_NAMES if split in known]
    return first + [split for split in dict.fromkeys(frame["split"]) if split not in first]


class Styles:
    """Which colour, marker and line a series has: colour and marker by its first axis, the line
    and the marker's filling by the others."""

    def __init__(self, frame: pd.DataFrame, axes: Sequence[str]):
        self.axes = list(axes)
        if self.axes:
            keys = frame[self.axes].astype(object).where(frame[self.axes].notna(), None)
            self.keys = list(dict.fromkeys(keys.itertuples(index=False, name=None)))
        else:
            self.keys = [()]
        self._first = list(
            dict.fromkeys(key[:1] for key in self.keys if not key or key[0] is not None)
        )
        self._rest = list(dict.fromkeys(key[1:] for key in self.keys if None not in key))

    def of(self, key: tuple) -> dict[str, Any]:
        """Keyword arguments of a line with markers."""
        if key and not any(value is not None for value in key):  # as in the LDS figure: no axis
            return {"color": BLACK, "marker": "D", "linestyle": "-", "markersize": 5.5, "lw": 1.5}
        first = self._first.index(key[:1])
        rest = self._rest.index(key[1:]) if key[1:] in self._rest else 0
        colour = COLOURS[first % len(COLOURS)]
        return {
            "color": colour,
            "marker": MARKERS[first % len(MARKERS)],
            "linestyle": SOLID_FIRST[rest % len(SOLID_FIRST)],
            **FILLINGS[rest % len(FILLINGS)],
            "markersize": 5.5,
            "lw": 1.5,
        }

    def label(self, key: tuple) -> str:
        """What a person calls a series."""
        named = [
            axis_value(axis, value, named=True)
            for axis, value in zip(self.axes, key, strict=True)
            if value is not None
        ]
        return ", ".join(named)

    def records(self, frame: pd.DataFrame, key: tuple) -> pd.DataFrame:
        """The records of a series."""
        chosen = pd.Series(True, index=frame.index)
        for axis, value in zip(self.axes, key, strict=True):
            chosen &= frame[axis].isna() if value is None else frame[axis] == value
        return frame[chosen]


def _plot_lines(frame: pd.DataFrame, study: Study, styles: Styles) -> Figure:
    splits = _splits(frame)
    figure = Figure(figsize=(1.2 + 4.4 * len(splits), 4.6), layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    numbers = frame[study.x].dropna().astype(float)
    for axes, split in zip(panels, splits, strict=True):
        part = frame[frame["split"] == split]
        for place, key in enumerate(styles.keys):
            records = styles.records(part, key)
            shift = 3.0 * (place - (len(styles.keys) - 1) / 2)
            _draw_line(axes, records, study.x, styles.of(key), styles.label(key), shift)
        _finish_lines(axes, study.x, numbers)
        _ceiling_across(axes, ceilings(part).get(split))
        axes.set_title(split_images(split))
    panels[0].set_ylabel(LDS_AXIS)
    figure.suptitle(study.title)
    _legend(
        figure, frame, [Line2D([], [], label=styles.label(k), **styles.of(k)) for k in styles.keys]
    )
    return figure


def _draw_line(
    axes: Axes, records: pd.DataFrame, x: str, style: dict, label: str, shift: float
) -> None:
    """One series with its intervals, moved sideways by `shift` points so that none hides another.

    A record that has no x (a method that does not know this axis) is a horizontal line.
    """
    for _, record in records[records[x].isna()].iterrows():
        axes.axhline(record["lds"], color=style["color"], linestyle=":", lw=1.2, label=label)
    known = records[records[x].notna()]
    known = known.assign(at=known[x].astype(float)).sort_values("at")
    if known.empty:
        return
    moved = offset_copy(axes.transData, axes.figure, x=shift, units="points")
    lds = known["lds"].to_numpy(float)
    below, above = lds - known["ci_low"], known["ci_high"] - lds
    axes.vlines(known["at"], lds - below, lds + above, color=style["color"], lw=1, transform=moved)
    axes.plot(known["at"], lds, label=label, transform=moved, **style)
    # Limits follow data in data coordinates only, which moved lines are not in.
    axes.update_datalim(np.column_stack([known["at"], lds - below]))
    axes.update_datalim(np.column_stack([known["at"], lds + above]))
    paper = known[known["paper_lds"].notna()]
    axes.plot(paper["at"], paper["paper_lds"], transform=moved, **_paper(style["color"]))


def _paper(colour: str) -> dict[str, Any]:
    return {"linestyle": "none", "marker": "x", "color": colour, "markersize": 7, "mew": 1.8}


def _finish_lines(axes: Axes, x: str, numbers: pd.Series) -> None:
    values = sorted(set(numbers))
    if values[0] > 0 and values[-1] >= WIDE * values[0]:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    if len(values) <= 12:
        axes.set_xticks(values, [f"{value:,g}" for value in values])
    axes.axhline(0, color=BLACK, lw=0.8)
    axes.set_xlabel(axis_title(x))
    axes.margins(x=0.08)
    axes.autoscale_view()


def _ceiling_across(axes: Axes, ceiling: float | None) -> None:
    if ceiling is None:
        return
    axes.axhline(ceiling, color=GREY, linestyle="--", lw=1.2)
    axes.annotate(
        f"ceiling {ceiling:.0f} %",
        (1, ceiling),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        color="#555555",
        fontsize=9,
    )


def _legend(figure: Figure, frame: pd.DataFrame, handles: list[Line2D]) -> None:
    if "paper_lds" in frame and frame["paper_lds"].notna().any():
        handles = [*handles, Line2D([], [], label="in the paper", **_paper(BLACK))]
    handles = [handle for handle in handles if handle.get_label()]
    if handles:
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, min(len(handles), 110 // (longest + 8)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)


DOT_INCHES = 0.19


def _plot_dots(frame: pd.DataFrame, study: Study, styles: Styles) -> Figure:
    """Categories down, LDS across: the dots of a category's series stand below each other."""
    splits = _splits(frame)
    categories = list(dict.fromkeys(frame[study.x]))
    places, lines = _dot_places(frame, study.x, categories, styles)
    figure = Figure(
        figsize=(3.4 + 3.4 * len(splits), 1.7 + DOT_INCHES * lines), layout="constrained"
    )
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        part = frame[frame["split"] == split]
        for key in styles.keys:
            style = {**styles.of(key), "linestyle": "none"}
            for _, record in styles.records(part, key).iterrows():
                at = places[record[study.x], key]
                axes.plot([record["ci_low"], record["ci_high"]], [at, at], color=style["color"])
                axes.plot(record["lds"], at, **style)
                if pd.notna(record["paper_lds"]):
                    axes.plot(record["paper_lds"], at, **_paper(style["color"]))
        axes.axvline(0, color=BLACK, lw=0.8)
        ceiling = ceilings(part).get(split)
        if ceiling is not None:
            draw_ceiling(axes, ceiling)
        axes.grid(axis="y", visible=False)
        axes.set_title(split_images(split), pad=18)
        axes.set_xlabel(LDS_AXIS)
    _name_categories(panels, study.x, categories, places, lines)
    figure.suptitle(study.title)
    handles = [
        Line2D([], [], label=styles.label(key), **{**styles.of(key), "linestyle": "none"})
        for key in styles.keys
    ]
    _legend(figure, frame, handles)
    return figure


def _dot_places(
    frame: pd.DataFrame, x: str, categories: list, styles: Styles
) -> tuple[dict[tuple, float], float]:
    """The height of each (category, series), a line each, and the number of lines in all."""
    places, line = {}, 0.0
    for category in categories:
        part = frame[frame[x] == category]
        for key in styles.keys:
            if len(styles.records(part, key)):
                places[category, key] = line
                line += 1
        line += 0.6
    return places, line


def _name_categories(
    panels: Sequence[Axes], x: str, categories: list, places: dict[tuple, float], lines: float
) -> None:
    """Names at the middle of each category, and bands that lead the eye to its dots."""
    middles = []
    for number, category in enumerate(categories):
        own = [place for (which, _), place in places.items() if which == category]
        middles.append((min(own) + max(own)) / 2)
        if number % 2 == 0:
            for axes in panels:
                axes.axhspan(min(own) - 0.8, max(own) + 0.8, color="#F4F4F4", zorder=0)
    panels[0].set_yticks(middles, [axis_value(x, category) for category in categories])
    panels[0].set_ylim(lines - 0.6 + 0.2, -0.8)
    for axes in panels:
        axes.tick_params(axis="y", length=0)


@styled
def plot_lambda_curves(frame: pd.DataFrame, title: str) -> Figure:
    """LDS against lambda, one panel a method; the oracle's and the held-out choices are marked.

    Args:
        frame: the rows' curve.csv with the columns label, timesteps (None for a method without).
    """
    frame = frame[frame["readout"] == LINEAR]
    if frame.empty:
        return _said("No method of this experiment has a λ.")
    labels = list(dict.fromkeys(frame["label"]))
    counts = sorted(frame["timesteps"].dropna().unique())
    down = -(-len(labels) // 4)
    across = -(-len(labels) // down)
    figure = Figure(figsize=(0.9 + 2.9 * across, 1.7 + 2.5 * down), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    splits, handles = _splits(frame), {}
    for axes, label in zip(grid.flat, labels, strict=False):
        part = frame[frame["label"] == label]
        for (split, count), curve in part.groupby(["split", "timesteps"], sort=False, dropna=False):
            style = 1 if pd.isna(count) else counts.index(count)
            name = split_images(split) + ("" if pd.isna(count) else f", {int(count)} timesteps")
            draw_curve(axes, curve.sort_values("lambda"), name, splits.index(split), style)
        handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        axes.axhline(0, color=BLACK, lw=0.8)
        axes.set_xscale("log")
        axes.set_title(label)
    for axes in grid.flat[len(labels) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(len(labels) - across, 0) : len(labels)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("λ ÷ mean eigenvalue")
    figure.supylabel(LDS_AXIS, fontsize=10)
    figure.suptitle(title)
    figure.legend(handles=[*handles.values(), *CHOSEN_LAMBDA], loc="outside lower center", ncols=2)
    return figure


FAMILY_STYLES = {
    "similarity": (BLACK, "D"),
    "gradients": (BLUE, "o"),
    "checkpoints": ("#CC79A7", "^"),
    "ensemble": (VERMILLION, "s"),
    "retraining": (GREEN, "P"),
}


@styled
def plot_cost(frame: pd.DataFrame, families: dict[str, str], title: str) -> Figure:
    """LDS against the measured cost of each method, one panel a split.

    The points of a method with several numbers of timesteps are joined; its name stands at the
    dearest one.

    Args:
        frame: from `cost.with_lds`. families: what a person calls each family of methods.
    """
    splits = _splits(frame)
    rows = frame["row"].nunique()
    figure = Figure(figsize=(1 + 5.6 * len(splits), 4.2 + 0.06 * rows), layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        part = frame[frame["split"] == split]
        axes.set_xscale("log")
        least, most = frame["measured"].min(), frame["measured"].max()
        axes.set_xlim(least / 2, most * 2 * (most / least) ** 0.35)  # room for names at right
        for _, same in part.groupby("label", sort=False):
            line = same.sort_values("measured")
            axes.plot(line["measured"], line["lds"], color="#AAAAAA", lw=1, zorder=1)
        for _, record in part.iterrows():
            colour, marker = FAMILY_STYLES[record["family"]]
            x = record["measured"]
            axes.plot([x, x], [record["ci_low"], record["ci_high"]], color=colour, lw=1, alpha=0.6)
            axes.plot(x, record["lds"], marker=marker, color=colour, ms=6, linestyle="none")
        axes.axhline(0, color=BLACK, lw=0.8)
        _ceiling_across(axes, ceilings(part).get(split))
        axes.set_title(split_images(split))
        axes.set_xlabel("measured cost beyond the model itself (seconds, this machine)")
    panels[0].set_ylabel(LDS_AXIS)
    figure.suptitle(title)
    used = [name for name in FAMILY_STYLES if (frame["family"] == name).any()]
    handles = [
        Line2D([], [], linestyle="none", color=c, marker=m, label=families[name])
        for name in used
        for c, m in [FAMILY_STYLES[name]]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3))
    figure.draw_without_rendering()  # names are placed on the axes as they will be
    for axes, split in zip(panels, splits, strict=True):
        _name_points(axes, frame[frame["split"] == split])
    return figure


NAME_POINTS, MARKER_POINTS = 9.0, 9.0  # heights of a name and of a marker, in points


def _name_points(axes: Axes, part: pd.DataFrame) -> None:
    """Each method's name once, right of its dearest point, where it covers no name and no point."""
    scale = 72 / axes.figure.dpi  # pixels to points
    dearest = part.sort_values("measured").groupby("label", sort=False).tail(1)

    def places(records: pd.DataFrame) -> np.ndarray:
        return axes.transData.transform(records[["measured", "lds"]].to_numpy(float)) * scale

    at = places(dearest)  # [names, 2]
    widths = np.array([4.4 * len(label) for label in dearest["label"]])
    heights = spread_names(at[:, 0] + 8, at[:, 1], widths, NAME_POINTS, places(part))
    for (_, record), (_, y), height in zip(dearest.iterrows(), at, heights, strict=True):
        name = axes.annotate(
            record["label"],
            (record["measured"], record["lds"]),
            xytext=(8, height - y),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            arrowprops={
                "arrowstyle": "-", "color": "#777777", "lw": 0.5, "shrinkA": 0, "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )  # fmt: skip
        name.set_in_layout(False)


def spread_names(
    left: np.ndarray, middle: np.ndarray, width: np.ndarray, height: float, points: np.ndarray
) -> np.ndarray:
    """Heights at which names that start at `left` cover neither each other nor any point.

    Each name, from the lowest to the highest, takes the free place nearest to where it belongs. All
    lengths are in points.

    Args:
        left, middle, width: [names].
        points: [points, 2], the middles of the markers.
    """
    placed = np.full(len(middle), np.nan)
    half = MARKER_POINTS / 2
    apart = (height + MARKER_POINTS) / 2
    for name in np.argsort(middle, kind="stable"):
        end = left[name] + width[name]
        others = ~np.isnan(placed) & (left < end) & (left[name] < left + width)
        covered = (points[:, 0] - half < end) & (left[name] < points[:, 0] + half)
        taken = np.concatenate([placed[others], points[covered, 1]])
        gaps = np.concatenate([np.full(others.sum(), height), np.full(covered.sum(), apart)])
        candidates = np.concatenate([[middle[name]], taken + gaps, taken - gaps])
        free = [y for y in candidates if (np.abs(taken - y) >= gaps - 1e-9).all()]
        placed[name] = min(free, key=lambda y: abs(y - middle[name]))
    return placed


VARIED_NAMES = {
    "subsets": "subsets",
    "seeds": "seeds a subset",
    "noises": "noises a timestep",
    "groups": "timesteps of the outputs",
}
HIGHLIGHTED = 5


@styled
def plot_convergence(
    whole: pd.DataFrame, single: pd.DataFrame, labels: Sequence[str], steps: int, title: str
) -> Figure:
    """What becomes of the LDS and of the methods' ranking when one thing is saved on at a time.

    Rows: the methods' LDS on each split (some by name, the others in grey), then the agreement of
    the ranking. Columns: what is varied, all else being full; points are means over the draws, bars
    their standard deviation.

    Args:
        whole, single: from `convergence.summarise`, with `split`.
        labels: what a person calls each method, by its number.
        steps: timesteps of the full outputs, which the groups share evenly.
    """
    names = [name for name in VARIED_NAMES if whole[name].nunique() > 1]
    if not names:
        return _said("This benchmark has nothing to save on.")
    splits = _splits(whole)
    figure = Figure(
        figsize=(1.6 + 2.7 * len(names), 1.4 + 2.3 * (len(splits) + 1)), layout="constrained"
    )
    grid = figure.subplots(len(splits) + 1, len(names), sharey="row", squeeze=False)
    per_group = steps / whole["groups"].max()
    chosen = _highlighted(single)
    handles: dict[str, Line2D] = {}
    for column, name in enumerate(names):
        for axes, split in zip(grid[:, column], splits, strict=False):
            one, each = (_along(frame[frame["split"] == split], name) for frame in (whole, single))
            _draw_benchmark(axes, one, each, name, {n: labels[n] for n in chosen})
            handles |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        _draw_agreement(grid[-1, column], whole, name, splits)
        handles |= dict(zip(*grid[-1, column].get_legend_handles_labels()[::-1], strict=True))
        values = sorted(whole[name].unique())
        shown = [value * per_group if name == "groups" else value for value in values]
        for axes in grid[:, column]:
            if values[-1] >= WIDE * values[0]:
                axes.set_xscale("log")
                axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(values, [f"{value:g}" for value in shown])
            axes.margins(x=0.1)
        grid[-1, column].set_xlabel(VARIED_NAMES[name])
    for axes, split in zip(grid[:, 0], splits, strict=False):
        axes.set_ylabel(f"{split_name(split)}:\nLDS (%)")
    grid[-1, 0].set_ylabel("agreement of the ranking\n(Kendall's τ)")
    figure.suptitle(title)
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=3)
    return figure


def _along(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The records in which all but one of the varied things are full, along that one."""
    for other in VARIED_NAMES:
        if other != name:
            frame = frame[frame[other] == frame[other].max()]
    return frame.sort_values(name)


def _highlighted(single: pd.DataFrame) -> list[int]:
    """Some methods from the best to the worst, evenly over their ranking on the full benchmark."""
    full = single
    for name in VARIED_NAMES:
        full = full[full[name] == full[name].max()]
    ranked = full.groupby("method")["lds"].mean().sort_values(ascending=False).index.tolist()
    places = np.linspace(0, len(ranked) - 1, min(HIGHLIGHTED, len(ranked))).round().astype(int)
    return [ranked[place] for place in places]


def _draw_benchmark(
    axes: Axes, one: pd.DataFrame, each: pd.DataFrame, name: str, chosen: dict[int, str]
) -> None:
    for method, curve in each.groupby("method"):
        if method not in chosen:
            axes.plot(
                curve[name], curve["lds"], color="#CCCCCC", lw=0.7, zorder=1, label="other methods"
            )
    for number, (method, label) in enumerate(chosen.items()):
        curve = each[each["method"] == method]
        axes.errorbar(
            curve[name],
            curve["lds"],
            yerr=curve["lds_std"],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            lw=1.3,
            elinewidth=0.8,
            label=label,
        )
    axes.plot(one[name], one["ceiling"], color=GREY, linestyle="--", lw=1.2, label="ceiling")
    axes.axhline(0, color=BLACK, lw=0.8)


def _draw_agreement(axes: Axes, whole: pd.DataFrame, name: str, splits: list[str]) -> None:
    for number, split in enumerate(splits):
        one = _along(whole[whole["split"] == split], name)
        axes.errorbar(
            one[name],
            one["tau"],
            yerr=one["tau_std"],
            color=(BLACK, GREY)[number % 2],
            linestyle=("-", ":")[number % 2],
            marker=("o", "s")[number % 2],
            markersize=4,
            label=f"ranking, {split_images(split).lower()}",
        )
    axes.set_ylim(None, 1.01)


@styled
def plot_self_influence(
    highest: Sequence[Neighbour], lowest: Sequence[Neighbour], title: str, across: int = 8
) -> Figure:
    """Training images of highest and of lowest self-influence, in two blocks side by side.

    Below each image: rank and self-influence, label, and the id after `#`.

    Args:
        highest, lowest: strongest first, as many in both.
        across: images in a line of a block.
    """
    across = min(across, max(len(highest), 1))
    down = -(-len(highest) // across)
    width = 2 * across * TILE_ACROSS + 0.5
    height = down * TILE_DOWN + 0.6
    inches = 0.72 * height + 0.5
    figure = Figure(figsize=(max(0.72 * width + 0.2, 6.5), inches))
    axes = figure.add_axes((0, 0, 1, 1 - 0.5 / inches), anchor="N")
    axes.set_axis_off()
    right = across * TILE_ACROSS + 0.5
    blocks = (
        (highest, 0, VERMILLION, "Highest: unlike the others"),
        (lowest, right, BLUE, "Lowest: many are like them"),
    )
    for images, left, colour, head in blocks:
        axes.text(left, 0.3, head, color=colour, weight="bold", fontsize=10)
        for line in range(down):
            part = list(images[line * across : (line + 1) * across])
            draw_strip(axes, part, left, 0.5 + line * TILE_DOWN, colour)
    axes.set_xlim(-0.15, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    figure.suptitle(title, y=1 - 0.25 / inches, va="center")
    return figure
