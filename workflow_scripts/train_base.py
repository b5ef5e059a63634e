"""Train the base model, the one whose images are attributed, and keep evenly spaced checkpoints."""

from pathlib import Path

import numpy as np

from attribution.devices import set_up
from attribution.inputs import training_set
from attribution.models import save
from attribution.provenance import Stopwatch
from attribution.training import Recipe, Trainer
from attribution.workflow import execution, job, read_settings, repair, specification


def main(snakemake):
    settings, stopwatch = read_settings(snakemake), Stopwatch()
    folder, again = Path(snakemake.output.manifest).parent, repair(snakemake.output.manifest)
    train, images, digest = training_set(Path(snakemake.input.train).parent)
    spec = specification(snakemake, train=digest)
    device = set_up(settings["compute"])

    def keep(number, model):
        save(model, folder / f"checkpoint-{number}", spec, stopwatch, again, checkpoint=number)

    trainer = Trainer(
        train,
        np.arange(images),
        Recipe(**settings),
        settings["training"]["seed"],
        device,
    )
    model, losses = trainer.run(
        Path(snakemake.params.scratch), spec, execution(snakemake)["save_seconds"], keep
    )
    save(model, folder, spec, stopwatch, again, device=str(device), losses=losses)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
