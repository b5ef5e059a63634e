"""Read the dataset and store the training and validation splits as 8-bit images."""

from pathlib import Path

from attribution.datasets import load
from attribution.images import write_split
from attribution.workflow import job, read_settings, repair, specification


def main(snakemake):
    splits = load(read_settings(snakemake)["data"])
    for name, split in splits.items():
        output = snakemake.output[name]
        spec = specification(snakemake, split=name, files=snakemake.params.files)
        write_split(Path(output).parent, split, spec, repair(output))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
