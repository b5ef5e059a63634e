"""Draw the proponents and opponents of some queries of a split, methods side by side."""

from pathlib import Path

import pandas as pd

from attribution.figures import save
from attribution.galleries import plot_gallery, read_galleries
from attribution.images import read_split
from attribution.tables import split_images
from attribution.workflow import job, read_settings


def main(snakemake):
    split, settings = snakemake.wildcards.split, read_settings(snakemake)["galleries"]
    queries, train = (
        read_split(Path(path).parent)[0]
        for path in (snakemake.input.queries, snakemake.input.train)
    )
    galleries = read_galleries(
        [Path(manifest).parent for manifest in snakemake.input.scores],
        pd.read_csv(snakemake.input.lds),
        queries,
        train,
        settings["queries"],
        settings["images"],
    )
    title = f"{split_images(split)}: the training images that speak for and against them"
    save(plot_gallery(galleries, title), Path(snakemake.output[0]).with_suffix(""))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
