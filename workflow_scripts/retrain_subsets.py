"""Train one seed's models of some subsets, one after the other in one process."""

import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attribution.devices import set_up
from attribution.inputs import training_set
from attribution.models import is_saved, save
from attribution.provenance import Stopwatch, read_manifest, write_json
from attribution.randomness import seed as seed_of
from attribution.stores import Reader
from attribution.training import Recipe, Trainer
from attribution.workflow import execution, job, read_settings, repair, specification

logger = logging.getLogger(__name__)


def main(snakemake):
    settings = read_settings(snakemake)
    seed = int(snakemake.wildcards.seed)
    part, scratch = Path(snakemake.output.part), Path(snakemake.params.scratch)
    train, _, digest = training_set(Path(snakemake.input.train).parent)
    masks = Reader(Path(snakemake.input.subsets).parent).array("masks")
    device, coupled = set_up(settings["compute"]), settings.pop("retraining")["coupled"]
    subsets = range(int(snakemake.wildcards.first), int(snakemake.wildcards.last) + 1)
    models = {}
    for subset in tqdm(subsets, desc="models", unit="model", disable=None):
        rows = np.flatnonzero(masks[subset])
        spec = specification(snakemake, train=digest, seed=seed, rows=rows.tolist())
        folder = part.parent / f"subset-{subset:04d}"
        if not is_saved(folder, spec):
            logger.info("subset %d, seed %d", subset, seed)
            stopwatch = Stopwatch()
            draws = seed if coupled else seed_of("model", seed, subset)
            trainer = Trainer(train, rows, Recipe(**settings), draws, device)
            model, losses = trainer.run(
                scratch / f"seed-{seed}-subset-{subset:04d}.pt",
                spec,
                execution(snakemake)["save_seconds"],
            )
            save(model, folder, spec, stopwatch, repair(part), device=str(device), losses=losses)
        models[subset] = read_manifest(folder)["sha256"]
    write_json(part, {"seed": seed, "models": models})


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
