"""Draw the training subsets of the benchmark, or those of the pool."""

from pathlib import Path

from attribution.images import read_split
from attribution.stores import write_store
from attribution.subsets import draw_masks
from attribution.workflow import job, read_settings, repair, specification


def main(snakemake):
    train, digest = read_split(Path(snakemake.input.train).parent)
    masks = draw_masks(train.labels, read_settings(snakemake)[snakemake.wildcards.models])
    write_store(
        Path(snakemake.output.manifest).parent,
        "subsets",
        specification(snakemake, train=digest),
        {"masks": (("subsets", "images"), masks), "ids": (("images",), train.ids)},
        repair(snakemake.output.manifest),
    )


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
