"""Put the methods' evaluations together: the tables of the linear datamodeling score."""

from pathlib import Path

from attribution.tabulation import COLUMNS, CURVE_COLUMNS, together
from attribution.workflow import job, read_settings


def main(snakemake):
    settings = read_settings(snakemake)
    experiment = snakemake.wildcards.experiment
    Path(snakemake.output.lds).parent.mkdir(parents=True, exist_ok=True)
    for paths, columns, output in (
        (snakemake.input.evaluations, COLUMNS, snakemake.output.lds),
        (snakemake.input.curves, CURVE_COLUMNS, snakemake.output.curves),
    ):
        table = together(experiment, list(map(Path, paths)), settings, columns)
        table.to_csv(output, index=False, float_format="%.6g")


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
