"""Counterfactual evaluation as tables, box plots and grids of images (paper Figures 3, 4, 11)."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from attribution.counterfactual import MEASURES, RANDOM, RESEEDED, SAME_CLASS
from attribution.figures import BLACK, COLOURS, GREY, colour_last, styled
from attribution.markup import both_forms
from attribution.tables import BLANK

NAMES = {
    RESEEDED: "nothing, another seed",
    RANDOM: "random images",
    SAME_CLASS: "random images of its class",
}
TITLES = {
    "l2": "distance to the original (L2)",
    "features": "similarity by the network (cosine)",
    "clip": "similarity by CLIP (cosine)",
}
SHORT = {"l2": "L2", "features": "Similarity by the network", "clip": "Similarity by CLIP"}
TITLE = "How far does a generated image move when images are removed before training?"

STEP_NOTE = (
    "The base model draws the image as far as timestep {step}, a model without the removed images "
    "from there. "
)


def named(what: str, labels: Mapping[str, str]) -> str:
    """What a person calls a way of removing images."""
    return NAMES.get(what) or labels.get(what, what)


def _from(step: int | None) -> str:
    """Words for where images were drawn again from."""
    return "" if step is None else f" Drawn again from timestep {step} on."


def counterfactual_tables(
    summary: pd.DataFrame,
    differences: pd.DataFrame,
    labels: Mapping[str, str],
    without: Sequence[str],
    confidence: float,
    step: int | None = None,
) -> tuple[str, str]:
    """Both tables as Markdown and as LaTeX.

    Args:
        labels: of the methods. without: sentences on what is missing, and why.
        step: the timestep from which images were drawn again, if not from noise.
    """
    measures, lines = [one for one in MEASURES if one in set(summary["measure"])], []
    for (removed, what), part in summary.groupby(["removed", "what"], sort=False):
        found = part.set_index("measure")
        cells = [f"{removed:,}" if removed else BLANK, named(what, labels)]
        for measure in measures:
            for one in ("mean", "median"):
                cells.append(_number(found, measure, one))
        lines.append(cells)
    heads = ["Removed", "Which"] + [
        f"{SHORT[measure]}, {one}" for measure in measures for one in ("mean", "median")
    ]
    note = (
        "L2: distance to the original; similarities: cosines with it. Intervals: "
        f"{100 * confidence:g} % over resampled queries. A larger distance, and a "
        "smaller similarity, means that the removed images mattered more. Models are trained from "
        "the base model's seed, except for “nothing, another seed”, the noise of retraining. "
        + (STEP_NOTE.format(step=step) if step is not None else "")
        + " ".join(without)
    )
    markdown, latex = both_forms(TITLE + _from(step), heads, lines, 2, note)
    lines = [
        [
            f"{one.removed:,}",
            named(one.what, labels) + " − " + named(one.against, labels),
            SHORT[one.measure],
            f"{one.difference:+.3g} [{one.ci_low:+.3g}, {one.ci_high:+.3g}]",
        ]
        for one in differences.itertuples()
    ]
    heads = ["Removed", "Which", "Measure", "Difference of means"]
    note = f"Paired over the same queries; {100 * confidence:g} % intervals over resampled queries."
    title = "Paired differences" + (f" from timestep {step} on" if step is not None else "")
    more = both_forms(title, heads, lines, 3, note)
    return f"{markdown}\n{more[0]}", f"{latex}\n{more[1]}"


def _number(found: pd.DataFrame, measure: str, one: str) -> str:
    if measure not in found.index:
        return BLANK
    row = found.loc[measure]
    return f"{row[one]:.3g} [{row[f'{one}_low']:.3g}, {row[f'{one}_high']:.3g}]"


@styled
def plot_counterfactual(
    frame: pd.DataFrame, labels: Mapping[str, str], step: int | None = None
) -> Figure:
    """Box plots: one line a way of removing, one panel a measure that there is.

    Boxes are quartiles, whiskers reach to 1.5 of their distance, dots are queries.
    """
    measures = [one for one in MEASURES if frame[one].notna().any()]
    keys = list(frame[["removed", "what"]].drop_duplicates().itertuples(index=False))
    figure = Figure(figsize=(3 + 3.6 * len(measures), 1.6 + 0.42 * len(keys)), layout="constrained")
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    methods = [what for what in dict.fromkeys(frame["what"]) if what not in NAMES]
    random = np.random.default_rng(0)
    several = frame.loc[frame["removed"] > 0, "removed"].nunique() > 1
    for axes, measure in zip(panels, measures, strict=True):
        for place, (removed, what) in enumerate(keys):
            part = frame[(frame["removed"] == removed) & (frame["what"] == what)]
            values = part.groupby("query")[measure].mean().to_numpy()
            colour = GREY if what in NAMES else COLOURS[methods.index(what) % len(COLOURS)]
            axes.boxplot(
                values,
                positions=[place],
                orientation="horizontal",
                widths=0.6,
                showfliers=False,
                medianprops={"color": BLACK, "lw": 1.8},
                boxprops={"color": colour},
                whiskerprops={"color": colour},
                capprops={"color": colour},
            )
            spread = place + random.uniform(-0.18, 0.18, len(values))
            axes.plot(values, spread, ".", color=colour, alpha=0.55, markersize=4)
        axes.set_title(TITLES[measure])
        axes.grid(axis="y", visible=False)
    texts = [
        named(what, labels) + (f", {removed:,}" if several and removed else "")
        for removed, what in keys
    ]
    panels[0].set_yticks(range(len(keys)), texts)
    panels[0].set_ylim(len(keys) - 0.4, -0.6)
    figure.suptitle(TITLE + _from(step))
    return figure


@styled
def plot_grid(
    originals: np.ndarray,
    columns: Mapping[str, np.ndarray],
    names: Sequence[str],
    distances: Mapping[str, np.ndarray],
    step: int | None = None,
) -> Figure:
    """A line a query: the original, and what the models generate instead, with its distance.

    Args:
        originals: [queries, channels, height, width] uint8; columns: title to images of the same
            shape. names: of the queries; distances: L2 to the original, [queries] by title.
        step: the timestep from which images were drawn again, if not from noise.
    """
    shown = {"original": originals, **columns}
    figure = Figure(
        figsize=(1.25 * len(shown) + 1, 1.45 * len(originals) + 1), layout="constrained"
    )
    panels = figure.subplots(len(originals), len(shown), squeeze=False)
    for line, name in enumerate(names):
        for place, (title, images) in enumerate(shown.items()):
            axes = panels[line, place]
            axes.imshow(colour_last(images[line]), interpolation="nearest", cmap="gray", vmin=0,
                        vmax=255)  # fmt: skip
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
            for spine in axes.spines.values():
                spine.set_visible(place == 0)
            if title in distances:
                axes.set_xlabel(f"L2 {distances[title][line]:.3g}", fontsize=7, labelpad=2)
            if line == 0:
                axes.set_title(textwrap.fill(title, 14), fontsize=8)
        panels[line, 0].set_ylabel(name, fontsize=8)
    begun = "The same noise" if step is None else f"The same noisy image at timestep {step}"
    figure.suptitle(f"{begun}, models trained without …")
    return figure
