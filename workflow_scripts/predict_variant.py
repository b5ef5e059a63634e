"""Predict the retrained models' outputs with a variant of a method, whose scores are not stored."""

from pathlib import Path

from attribution.devices import set_up
from attribution.kernels import Decomposition
from attribution.method_inputs import MethodInputs, input_digests
from attribution.methods import configured, scores
from attribution.predictions import from_pieces, write
from attribution.stores import Reader
from attribution.workflow import job, read_settings, repair, specification

READOUTS = ["linear", "signed_square"]


def main(snakemake):
    settings = read_settings(snakemake)
    chosen, device = configured(settings["method"], Path.cwd()), set_up(settings["compute"])
    experiment = Path("results") / snakemake.wildcards.experiment
    masks = Reader(Path(snakemake.input.subsets).parent).read("masks")
    spec = specification(snakemake, inputs=input_digests(snakemake.input))
    decompositions: dict[str, Decomposition] = {}
    for split, manifest in snakemake.output.items():
        inputs = MethodInputs(
            chosen, settings, split, experiment, snakemake.input, device, decompositions
        )
        lambdas, queries, images = inputs.shape
        pieces = scores(chosen, inputs.sets)
        write(
            Path(manifest),
            spec,
            repair(manifest),
            from_pieces(pieces, masks, (lambdas, queries), READOUTS),
            inputs.lambdas,
            row=snakemake.wildcards.variant,
            split=split,
            readouts=READOUTS,
            mean_eigenvalue=inputs.mean_eigenvalue,
            train_size=images,
        )


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
