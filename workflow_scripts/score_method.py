"""Score every training image for every query of a split with one method."""

from pathlib import Path

import numpy as np

from attribution.devices import set_up
from attribution.method_inputs import MethodInputs, input_digests
from attribution.methods import configured, scores
from attribution.rows import COLUMNS
from attribution.stores import Layout, Writer
from attribution.workflow import job, read_settings, repair, specification


def main(snakemake):
    settings, split = read_settings(snakemake), snakemake.wildcards.split
    chosen, device = configured(settings["method"], Path.cwd()), set_up(settings["compute"])
    experiment = Path("results") / snakemake.wildcards.experiment
    inputs = MethodInputs(chosen, settings, split, experiment, snakemake.input, device)
    lambdas, queries, images = inputs.shape
    chunks = (1, queries, min(COLUMNS, images))
    store = Writer(
        Path(snakemake.output.manifest).parent,
        specification(snakemake, inputs=input_digests(snakemake.input)),
        {
            "scores": Layout(("lambdas", "queries", "images"), inputs.shape, chunks),
            "lambdas": Layout(("lambdas",), (lambdas,), (lambdas,), "float64"),
        },
        {"values": "attribution scores; positive for proponents"},
    )
    store.write("lambdas", (0,), inputs.lambdas)
    for index, columns, values in scores(chosen, inputs.sets):
        chunk = (index, 0, columns.start // COLUMNS)
        store.write("scores", chunk, values[None].astype(np.float32))
    store.finish(
        "scores",
        repair(snakemake.output.manifest),
        method=snakemake.wildcards.method,
        split=split,
        mean_eigenvalue=inputs.mean_eigenvalue,
        projection=inputs.projection,
    )


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
