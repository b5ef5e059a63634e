"""Put the methods' evaluations together: the tables of the linear datamodeling score."""

from pathlib import Path

import numpy as np

from attribution.differences import compare_methods, read_bootstraps
from attribution.tabulation import COLUMNS, CURVE_COLUMNS, together
from attribution.workflow import job, read_settings


def main(snakemake):
    settings = read_settings(snakemake)
    experiment = snakemake.wildcards.experiment
    Path(snakemake.output.lds).parent.mkdir(parents=True, exist_ok=True)
    lds = together(experiment, list(map(Path, snakemake.input.evaluations)), settings, COLUMNS)
    curves = together(experiment, list(map(Path, snakemake.input.curves)), settings, CURVE_COLUMNS)
    archives = {Path(path).parent.name: np.load(path) for path in snakemake.input.bootstraps}
    pairs = compare_methods(lds, read_bootstraps(archives), settings["confidence"])
    for table, output in (
        (lds, snakemake.output.lds),
        (curves, snakemake.output.curves),
        (pairs, snakemake.output.differences),
    ):
        table.to_csv(output, index=False, float_format="%.6g")


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
