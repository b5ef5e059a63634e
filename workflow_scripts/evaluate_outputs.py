"""Evaluate the model outputs of some retrained models on one split."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from attribution.devices import set_up
from attribution.images import image_keys
from attribution.inputs import Conditioning, clean_images
from attribution.models import load
from attribution.outputs import OutputEvaluator
from attribution.provenance import Stopwatch, read_manifest, write_json
from attribution.stores import Layout, Reader, Writer
from attribution.workflow import execution, job, read_settings, repair, specification


def models_and_functions(settings, models):
    """(count, seeds) of the retrained models, and each array's output function by its name.

    The pool has one seed, and only the benchmark's own function is evaluated for it.
    """
    outputs = settings["outputs"]
    functions = {"outputs": outputs["function"]}
    if models == "pool":
        return (settings["pool"]["count"], 1), functions
    functions |= {f"outputs_{name}": name for name in outputs["others"]}
    return (settings["subsets"]["count"], settings["retraining"]["seeds"]), functions


def layouts(models, functions, outputs, queries):
    """[subsets, seeds, noises, timestep_groups, queries] for each function; each model's digest."""
    values = (outputs["noises"], outputs["groups"], queries)
    names = ("subsets", "seeds", "noises", "timestep_groups", "queries")
    return {
        **{array: Layout(names, models + values, (1, 1, *values)) for array in functions},
        "models": Layout(names[:2], models, (1, 1), "uint64"),
        "ids": Layout(("queries",), (queries,), (queries,), "int64"),
    }


def main(snakemake):
    settings, stopwatch = read_settings(snakemake), Stopwatch()
    split, part = snakemake.wildcards.split, Path(snakemake.output.part)
    counts, functions = models_and_functions(settings, snakemake.wildcards.models)
    outputs = {**settings["outputs"], "others": list(functions.values())[1:]}
    queries = Reader(Path(snakemake.input.queries).parent)
    ids = queries.read("ids")
    device = set_up(settings["compute"])
    store = Writer(
        part.parent.with_name(f"{split}.zarr"),
        specification(snakemake, queries=queries.manifest["sha256"]),
        layouts(counts, functions, outputs, len(ids)),
        {"values": f"outputs {outputs['function']!r} of the retrained models"},
    )
    store.write("ids", (0,), ids)
    evaluate = OutputEvaluator(
        clean_images(queries)[:],
        image_keys(split, ids),
        outputs,
        settings["diffusion"],
        settings["compute"]["precision"],
        execution(snakemake)["batch"]["outputs"],
        device,
        Conditioning(queries),
    )
    seed = int(snakemake.wildcards.seed)
    subsets = range(int(snakemake.wildcards.first), int(snakemake.wildcards.last) + 1)
    models = Path(snakemake.input.models[0]).parent
    for subset in tqdm(subsets, desc="models", unit="model", disable=None):
        folder, chunk = models / f"subset-{subset:04d}", (subset, seed)
        model_digest = np.uint64(int(read_manifest(folder)["sha256"][:16], 16))
        if not is_evaluated(store, functions, chunk, model_digest):
            values = evaluate(load(folder, device))
            for array, function in functions.items():
                store.write(array, (*chunk, 0, 0, 0), values[function][None, None])
            store.write("models", chunk, np.full((1, 1), model_digest))
    record = {"kind": "outputs", "device": str(device)}
    write_json(part, {"manifest": record, "repair": repair(part), "seconds": stopwatch.seconds})


def is_evaluated(store, functions, chunk, model_digest):
    """Whether the outputs of this very model are there and whole."""
    whole = all(store.has(array, (*chunk, 0, 0, 0)) for array in functions)
    return (
        whole and store.has("models", chunk) and store.read("models", chunk).item() == model_digest
    )


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
