"""Generate the images of the generation split with the base model."""

from pathlib import Path

import numpy as np

from attribution.devices import set_up
from attribution.diffusion import schedule
from attribution.images import Split, to_pixels, write_split
from attribution.models import load
from attribution.provenance import read_manifest
from attribution.sampling import generate
from attribution.workflow import execution, job, read_settings, repair, specification


def main(snakemake):
    settings = read_settings(snakemake)
    base = Path(snakemake.input.model).parent
    device = set_up(settings["compute"])
    model = load(base, device)
    shape = (model.config.in_channels, model.config.sample_size, model.config.sample_size)
    batches = generate(
        model,
        schedule(settings["diffusion"]),
        settings["generation"],
        shape,
        execution(snakemake)["batch"]["generation"],
        device,
    )
    images = np.concatenate([to_pixels(images) for _, images in batches])
    ids = np.arange(len(images))
    split = Split(images, np.full(len(images), -1), ids, [f"generated {i}" for i in ids], [])
    spec = specification(snakemake, model=read_manifest(base)["sha256"])
    write_split(
        Path(snakemake.output.manifest).parent, split, spec, repair(snakemake.output.manifest)
    )


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
