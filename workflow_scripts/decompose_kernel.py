"""Decompose the Gram matrix of a set's training features, once for all methods and lambdas."""

from pathlib import Path

from attribution.devices import set_up
from attribution.kernels import decompose
from attribution.rows import COLUMNS, FeatureRows
from attribution.stores import write_store
from attribution.workflow import job, read_settings, repair, specification


def main(snakemake):
    train = FeatureRows(Path(snakemake.input.train).parent)
    device = set_up(read_settings(snakemake)["compute"])
    kernel = decompose(train, block_rows=COLUMNS, device=device)
    write_store(
        Path(snakemake.output.manifest).parent,
        "kernel",
        specification(snakemake, train=train.store.manifest["sha256"]),
        {
            "eigenvalues": (("eigenvalues",), kernel.eigenvalues.cpu().numpy()),
            "eigenvectors": (("rows", "eigenvalues"), kernel.eigenvectors.cpu().numpy()),
            "feature_norms": (("images",), kernel.feature_norms.cpu().numpy()),
        },
        repair(snakemake.output.manifest),
        form=kernel.kind,
        mean_eigenvalue=kernel.mean_eigenvalue,
        shape=list(kernel.shape),
        projection=train.identity,
    )


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
