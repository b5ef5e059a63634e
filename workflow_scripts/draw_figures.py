"""Draw the figures of an experiment: LDS by method and against lambda, losses, generated images."""

from pathlib import Path

import pandas as pd

from attribution.figures import (
    plot_generated,
    plot_lds_by_lambda,
    plot_lds_by_method,
    plot_training_loss,
    save,
)
from attribution.images import read_split
from attribution.workflow import job, read_settings


def main(snakemake):
    folder = Path(snakemake.output[0]).parent
    count = read_settings(snakemake)["galleries"]["generated"]
    generated, train = (
        read_split(Path(path).parent)[0].images[:count]
        for path in (snakemake.input.generated, snakemake.input.train)
    )
    save(plot_lds_by_method(pd.read_csv(snakemake.input.lds)), folder / "lds_by_method")
    save(plot_lds_by_lambda(pd.read_csv(snakemake.input.curves)), folder / "lds_by_lambda")
    save(plot_training_loss(pd.read_csv(snakemake.input.losses)), folder / "training_loss")
    save(plot_generated(generated, train), folder / "generated")


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
