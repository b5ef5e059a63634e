"""Predict the retrained models' outputs from a method's scores, with every readout."""

from pathlib import Path

from attribution.predictions import from_scores, write
from attribution.stores import Reader
from attribution.workflow import job, read_settings, repair, specification


def main(snakemake):
    evaluation = read_settings(snakemake)["evaluation"]
    scores = Reader(Path(snakemake.input.scores).parent)
    subsets = Reader(Path(snakemake.input.subsets).parent)
    readouts = evaluation["readouts"]
    masks = subsets.read("masks")
    predictions = from_scores(scores.array("scores"), masks, readouts, evaluation["top_fraction"])
    digests = {"scores": scores.manifest["sha256"], "subsets": subsets.manifest["sha256"]}
    write(
        Path(snakemake.output.manifest),
        specification(snakemake, inputs=digests),
        repair(snakemake.output.manifest),
        predictions,
        scores.read("lambdas"),
        row=scores.manifest["method"],
        split=scores.manifest["split"],
        readouts=readouts,
        mean_eigenvalue=scores.manifest["mean_eigenvalue"],
        train_size=masks.shape[1],
    )


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
