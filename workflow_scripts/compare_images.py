"""Measure how far the regenerated images are from the originals: tables, box plots, a grid."""

from pathlib import Path

import numpy as np
import pandas as pd

from attribution.counterfactual import (
    SAME_CLASS,
    compare,
    cosine,
    l2,
    network_features,
    summarise,
)
from attribution.counterfactual_figures import (
    counterfactual_tables,
    named,
    plot_counterfactual,
    plot_grid,
)
from attribution.devices import set_up
from attribution.diffusion import schedule
from attribution.figures import save
from attribution.images import to_model_range
from attribution.models import load
from attribution.stores import Reader
from attribution.workflow import job, read_settings


def main(snakemake):
    settings, output = read_settings(snakemake), snakemake.output
    own, device = settings["counterfactual"], set_up(settings["compute"])
    frame = pd.DataFrame(Reader(Path(snakemake.input.cases).parent).manifest["cases"])
    name = snakemake.wildcards.start
    step = None if name == "final" else int(name.removeprefix("step-"))
    mine = np.flatnonzero(frame["start"] == (step or settings["diffusion"]["timesteps"]))
    frame = frame.loc[mine].reset_index(drop=True)
    queries = Reader(Path(snakemake.input.queries).parent)
    originals = queries.read("images")
    again = Reader(Path(snakemake.input.again).parent).read("images")[mine]
    before = originals[frame["query"]]
    frame["l2"], sentence = distances(before, again, settings, device)
    frame["features"], frame["clip"] = np.nan, np.nan
    without = [sentence] if sentence else []
    if not settings.get("pretrained"):
        base = load(Path(snakemake.input.model).parent, device)
        levels = schedule(settings["diffusion"]).alphas_cumprod
        seen = [network_features(base, levels, to_model_range(one)) for one in (before, again)]
        frame["features"] = cosine(*seen)
    else:
        without.append("The network's own features are compared for pixel models only.")
    if settings["clip"]:
        from attribution.clip import ClipEncoder

        encode = ClipEncoder(settings["clip"], "features.clip.clip", device)
        frame["clip"] = cosine(encode(before), encode(again))
    else:
        without.append("CLIP: no weights are named (features.clip.clip: a hub id or a folder).")
    if SAME_CLASS in own["controls"] and SAME_CLASS not in set(frame["what"]):
        without.append(
            "There is no control of the query's class: training images have no labels, or fewer "
            "of a class than are removed."
        )
    bootstrap, labels = settings["evaluation"]["bootstrap"], settings["labels"]
    summary, differences = summarise(frame, bootstrap), compare(frame, bootstrap)
    Path(output.cases).parent.mkdir(parents=True, exist_ok=True)
    for table, path in (
        (frame, output.cases),
        (summary, output.summary),
        (differences, output.differences),
    ):
        table.to_csv(path, index=False, float_format="%.6g")
    markdown, latex = counterfactual_tables(
        summary, differences, labels, without, bootstrap["confidence"], step
    )
    Path(output.markdown).write_text(markdown, encoding="utf-8")
    Path(output.latex).write_text(latex, encoding="utf-8")
    save(plot_counterfactual(frame, labels, step), Path(output.figures[0]).with_suffix(""))
    figure = grid(frame, originals, again, labels, settings, step)
    save(figure, Path(output.grids[0]).with_suffix(""))


def distances(before, again, settings, device):
    """L2 of pixels in [-1, 1], or of latents without their scale; and what is to be said of it."""
    images = [to_model_range(one) for one in (before, again)]
    if not settings.get("pretrained"):
        return l2(*(one.numpy() for one in images)), ""
    from attribution.stable_diffusion import Autoencoder

    encode = Autoencoder(settings["pretrained"]["model"], device)
    latents = [
        np.concatenate([encode.unscaled(some).cpu().numpy() for some in one.split(16)])
        for one in images
    ]
    return l2(*latents), "L2 is of the autoencoder's latents without their scale."


def grid(frame, originals, again, labels, settings, step):
    """The first queries, one column a way of removing; of several seeds the first."""
    shown = list(dict.fromkeys(frame["query"]))[: settings["galleries"]["queries"]]
    columns, distances = {}, {}
    for (removed, what), part in frame.groupby(["removed", "what"], sort=False):
        rows = [part.index[part["query"] == query] for query in shown]
        if all(len(one) for one in rows):
            several = len(settings["counterfactual"]["removed"]) > 1 and removed
            title = named(what, labels) + (f" ({removed})" if several else "")
            first = [one[0] for one in rows]
            columns[title], distances[title] = again[first], frame["l2"].to_numpy()[first]
    names = [f"generated {query}" for query in shown]
    return plot_grid(originals[shown], columns, names, distances, step)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
