"""Evaluate the model outputs of some retrained models on one split."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from attribution.devices import set_up
from attribution.images import image_keys, read_split, to_model_range
from attribution.models import load
from attribution.outputs import OutputEvaluator
from attribution.provenance import Stopwatch, read_manifest, write_json
from attribution.stores import Layout, Writer
from attribution.workflow import execution, job, read_settings, repair, specification


def layouts(settings, queries):
    """outputs [subsets, seeds, noises, timestep_groups, queries], and each model's digest."""
    models = (settings["subsets"]["count"], settings["retraining"]["seeds"])
    values = (settings["outputs"]["noises"], settings["outputs"]["groups"], queries)
    names = ("subsets", "seeds", "noises", "timestep_groups", "queries")
    return {
        "outputs": Layout(names, models + values, (1, 1, *values)),
        "models": Layout(names[:2], models, (1, 1), "uint64"),
        "ids": Layout(("queries",), (queries,), (queries,), "int64"),
    }


def main(snakemake):
    settings, stopwatch = read_settings(snakemake), Stopwatch()
    split, part = snakemake.wildcards.split, Path(snakemake.output.part)
    queries, digest = read_split(Path(snakemake.input.queries).parent)
    device = set_up(settings["compute"])
    store = Writer(
        part.parent.with_name(f"{split}.zarr"),
        specification(snakemake, queries=digest),
        layouts(settings, len(queries.ids)),
        {"values": f"outputs {settings['outputs']['function']!r} of the retrained models"},
    )
    store.write("ids", (0,), queries.ids)
    evaluate = OutputEvaluator(
        to_model_range(queries.images),
        image_keys(split, queries.ids),
        settings["outputs"],
        settings["diffusion"],
        settings["compute"]["precision"],
        execution(snakemake)["batch"]["outputs"],
        device,
    )
    seed = int(snakemake.wildcards.seed)
    subsets = range(int(snakemake.wildcards.first), int(snakemake.wildcards.last) + 1)
    models = Path(snakemake.input.models[0]).parent
    for subset in tqdm(subsets, desc="models", unit="model", disable=None):
        folder, chunk = models / f"subset-{subset:04d}", (subset, seed)
        model_digest = np.uint64(int(read_manifest(folder)["sha256"][:16], 16))
        if not is_evaluated(store, chunk, model_digest):
            store.write("outputs", (*chunk, 0, 0, 0), evaluate(load(folder, device))[None, None])
            store.write("models", chunk, np.full((1, 1), model_digest))
    record = {"kind": "outputs", "device": str(device)}
    write_json(part, {"manifest": record, "repair": repair(part), "seconds": stopwatch.seconds})


def is_evaluated(store, chunk, model_digest):
    """Whether the outputs of this very model are there and whole."""
    if not (store.has("outputs", (*chunk, 0, 0, 0)) and store.has("models", chunk)):
        return False
    return store.read("models", chunk).item() == model_digest


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
