"""Score every training image for every query of a split with one method."""

from pathlib import Path

import numpy as np
import torch

from attribution.devices import set_up
from attribution.kernels import Decomposition, resolve_lambdas
from attribution.methods import Inputs, method
from attribution.projection import require_same_identity
from attribution.provenance import read_manifest
from attribution.rows import COLUMNS, FeatureRows, PixelRows
from attribution.stores import Layout, Reader, Writer
from attribution.workflow import job, read_settings, repair, specification


def main(snakemake):
    settings, split = read_settings(snakemake), snakemake.wildcards.split
    options = settings["methods"][snakemake.wildcards.method]
    chosen, device = method(options["function"]), set_up(settings["compute"])
    inputs = read_inputs(snakemake.input, chosen.needs, options, split, settings, device)
    queries, images = inputs.queries.shape[0], inputs.train.shape[0]
    shape = (len(inputs.lambdas), queries, images)
    digests = {
        name: read_manifest(Path(path).parent)["sha256"] for name, path in snakemake.input.items()
    }
    store = Writer(
        Path(snakemake.output.manifest).parent,
        specification(snakemake, inputs=digests),
        {
            "scores": Layout(("lambdas", "queries", "images"), shape, (1, queries, COLUMNS)),
            "lambdas": Layout(("lambdas",), shape[:1], shape[:1], "float64"),
        },
        {"values": "attribution scores; positive for proponents"},
    )
    store.write("lambdas", (0,), inputs.lambdas)
    for index, columns, values in chosen.score(inputs):
        chunk = (index, 0, columns.start // COLUMNS)
        store.write("scores", chunk, values[None].astype(np.float32))
    mean_eigenvalue = inputs.decomposition.mean_eigenvalue if inputs.decomposition else None
    store.finish(
        "scores",
        repair(snakemake.output.manifest),
        method=snakemake.wildcards.method,
        split=split,
        mean_eigenvalue=mean_eigenvalue,
        projection=getattr(inputs.train, "identity", None),
    )


def read_inputs(paths, needs, options, split, settings, device):
    """The method's inputs; features and kernel must be of one projection."""
    source = PixelRows if needs == "images" else FeatureRows
    queries, train = (source(Path(path).parent) for path in (paths.queries, paths.train))
    if needs == "images":
        return Inputs(queries, train, options, split)
    require_same_identity(queries.identity, train.identity, str(paths.queries), str(paths.train))
    if needs == "features":
        return Inputs(queries, train, options, split)
    store = Reader(Path(paths.kernel).parent)
    require_same_identity(
        store.manifest["projection"], train.identity, str(paths.kernel), str(paths.train)
    )
    eigenvalues, eigenvectors, norms = (
        torch.from_numpy(store.read(name)).to(device)
        for name in ("eigenvalues", "eigenvectors", "feature_norms")
    )
    mean_eigenvalue = store.manifest["mean_eigenvalue"]
    decomposition = Decomposition(
        kind=store.manifest["form"],
        eigenvalues=eigenvalues,
        eigenvectors=eigenvectors,
        feature_norms=norms,
        mean_eigenvalue=mean_eigenvalue,
        shape=tuple(store.manifest["shape"]),
        block_rows=COLUMNS,
    )
    kernel = settings["kernel"]
    lambdas = resolve_lambdas(kernel["lambdas"], kernel["unit"], mean_eigenvalue, train.shape[1])
    return Inputs(queries, train, options, split, decomposition, lambdas)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
