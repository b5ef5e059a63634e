"""Generate the images of the generation split with the base model."""

from pathlib import Path

import numpy as np

from attribution.devices import set_up
from attribution.diffusion import schedule
from attribution.images import Split, to_pixels, write_split
from attribution.models import load
from attribution.prompts import read_prompts
from attribution.provenance import read_manifest
from attribution.sampling import generate
from attribution.workflow import execution, job, read_settings, repair, specification


def main(snakemake):
    settings, output = read_settings(snakemake), snakemake.output.manifest
    base, device = Path(snakemake.input.model).parent, set_up(settings["compute"])
    count, prompts, label_names = settings["generation"]["images"], None, []
    labels = np.full(count, -1)
    model, decode = load(base, device), lambda images: images
    shape = (model.config.in_channels, model.config.sample_size, model.config.sample_size)
    if settings.get("pretrained"):
        from attribution.stable_diffusion import Autoencoder, latent_shape

        name = settings["pretrained"]["model"]
        label_names = read_manifest(Path(snakemake.input.train).parent)["label_names"]
        prompts, labels = read_prompts(Path(snakemake.input.latents).parent, label_names, settings)
        shape = latent_shape(name, settings["data"]["image_size"])
        decode = Autoencoder(name, device).decode
    batches = generate(
        model,
        schedule(settings["diffusion"]),
        settings["generation"],
        shape,
        execution(snakemake)["batch"]["generation"],
        device,
        prompts,
    )
    images = np.concatenate([to_pixels(decode(images)) for _, images in batches])
    ids = np.arange(count)
    split = Split(images, labels, ids, [f"generated {i}" for i in ids], label_names)
    spec = specification(snakemake, model=read_manifest(base)["sha256"])
    write_split(Path(output).parent, split, spec, repair(output))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
