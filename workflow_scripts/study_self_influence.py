"""Rank the training images by self-influence and show both ends."""

from pathlib import Path

import pandas as pd

from attribution.devices import set_up
from attribution.figures import save
from attribution.images import read_split
from attribution.self_influence import (
    chosen_lambda,
    ends,
    ranked,
    self_influence_table,
    self_influences,
)
from attribution.stores import Reader
from attribution.studies import STUDIES
from attribution.study_figures import plot_self_influence
from attribution.workflow import job, read_settings


def main(snakemake):
    settings, output = read_settings(snakemake), snakemake.output
    own, title = settings["settings"], STUDIES[settings["study"]].title
    kernel = Path(snakemake.input.kernel).parent
    train, _ = read_split(Path(snakemake.input.train).parent)
    unit = Reader(kernel).manifest["mean_eigenvalue"]
    lam = chosen_lambda(pd.read_csv(snakemake.input.evaluation), unit, own.get("lambda"))
    device = set_up(settings["compute"])
    values = self_influences(Path(snakemake.input.features).parent, kernel, lam, device)
    table = ranked(train, values)
    markdown, latex = self_influence_table(table, own["images"], lam, unit, title)
    Path(output.csv).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(output.csv, index=False, float_format="%.6g")
    Path(output.markdown).write_text(markdown, encoding="utf-8")
    Path(output.latex).write_text(latex, encoding="utf-8")
    figure = plot_self_influence(*ends(train, table, own["images"]), title)
    save(figure, Path(output.figure[0]).with_suffix(""))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
