"""Choose the queries of the counterfactual evaluation and what is removed for each."""

from pathlib import Path

import pandas as pd

from attribution.counterfactual import case_frame, chosen_queries, classes_of, draw_cases
from attribution.galleries import best_lambdas, read_scores
from attribution.images import read_split
from attribution.provenance import file_digest
from attribution.stores import Reader, write_store
from attribution.workflow import job, read_settings, repair, specification


def main(snakemake):
    settings, output = read_settings(snakemake), Path(snakemake.output.manifest)
    own = settings["counterfactual"]
    train, digest = read_split(Path(snakemake.input.train).parent)
    queries, asked = read_split(Path(snakemake.input.queries).parent)
    best = best_lambdas(evaluated(snakemake.input.evaluations, settings["readouts"]), "generation")
    stores = {Path(path).parent.parent.name: Path(path).parent for path in snakemake.input.scores}
    scores = {name: read_scores(path, best[name]) for name, path in stores.items()}
    rows = chosen_queries(len(queries.ids), own)
    classes = classes_of(queries, train, rows)
    cases, kept, seeds = draw_cases(
        rows,
        classes,
        train.labels,
        scores,
        own,
        settings["training"]["seed"],
        settings["diffusion"]["timesteps"],
    )
    inputs = {str(path): Reader(path).manifest["sha256"] for path in stores.values()}
    inputs |= {"train": digest, "queries": asked}
    inputs |= {str(path): file_digest(Path(path)) for path in snakemake.input.evaluations}
    write_store(
        output.parent,
        "counterfactual cases",
        specification(snakemake, inputs=inputs),
        {
            "masks": (("models", "images"), kept),
            "seeds": (("models",), seeds),
            "queries": (("queries",), rows),
            "classes": (("queries",), classes),
        },
        repair(output),
        cases=case_frame(cases).to_dict("records"),
    )


def evaluated(paths, readouts):
    """The evaluations of the methods, each under its own readout."""
    frames = []
    for path in map(Path, paths):
        frame, method = pd.read_csv(path), path.parent.name
        frames.append(frame[frame["readout"] == readouts[method]].assign(method=method))
    return pd.concat(frames)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
