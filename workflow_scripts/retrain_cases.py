"""Train some models of the counterfactual evaluation, one after the other in one process."""

import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attribution.devices import set_up
from attribution.inputs import training_set
from attribution.models import is_saved, save
from attribution.provenance import Stopwatch, read_manifest, write_json
from attribution.stores import Reader
from attribution.training import Recipe, Trainer
from attribution.workflow import execution, job, read_settings, repair, specification

logger = logging.getLogger(__name__)


def main(snakemake):
    settings, part = read_settings(snakemake), Path(snakemake.output.part)
    train, _, digest = training_set(Path(snakemake.input.train).parent)
    cases = Reader(Path(snakemake.input.cases).parent)
    masks, seeds = cases.read("masks"), cases.read("seeds")
    device, models = set_up(settings["compute"]), {}
    first, last = int(snakemake.wildcards.number), int(snakemake.wildcards.of)
    for model in tqdm(range(first, len(seeds), last), desc="models", unit="model", disable=None):
        rows, seed = np.flatnonzero(masks[model]), int(seeds[model])
        spec = specification(snakemake, train=digest, seed=seed, rows=rows.tolist())
        folder = part.parent / f"model-{model:04d}"
        if not is_saved(folder, spec):
            logger.info("model %d: seed %d, %d images", model, seed, len(rows))
            stopwatch = Stopwatch()
            trainer = Trainer(train, rows, Recipe(**settings), seed, device)
            state = Path(snakemake.params.scratch) / f"model-{model:04d}.pt"
            network, losses = trainer.run(state, spec, execution(snakemake)["save_seconds"])
            save(network, folder, spec, stopwatch, repair(part), device=str(device), losses=losses)
        models[model] = read_manifest(folder)["sha256"]
    write_json(part, {"models": models})


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
