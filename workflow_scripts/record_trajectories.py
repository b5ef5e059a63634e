"""Record the predicted clean image of every generated image at every step of the sampler."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from attribution.devices import set_up
from attribution.diffusion import schedule
from attribution.models import load
from attribution.provenance import read_manifest
from attribution.sampling import ddim_timesteps, trajectories
from attribution.stores import Layout, Writer
from attribution.workflow import execution, job, read_settings, repair, specification


def layouts(images, steps, shape, batch):
    """trajectories [images, steps, channels, height, width], one chunk a batch of images."""
    rows = min(batch, images)
    names = ("images", "steps", "channels", "height", "width")
    return {
        "trajectories": Layout(names, (images, steps, *shape), (rows, steps, *shape)),
        "timesteps": Layout(("steps",), (steps,), (steps,), "int64"),
        "ids": Layout(("images",), (images,), (images,), "int64"),
    }


def main(snakemake):
    settings = read_settings(snakemake)
    base, generation = Path(snakemake.input.model).parent, settings["generation"]
    device, scheduler = set_up(settings["compute"]), schedule(settings["diffusion"])
    model = load(base, device)
    shape = (model.config.in_channels, model.config.sample_size, model.config.sample_size)
    images, batch = generation["images"], execution(snakemake)["batch"]["generation"]
    store = Writer(
        Path(snakemake.output.manifest).parent,
        specification(snakemake, model=read_manifest(base)["sha256"]),
        layouts(images, generation["steps"], shape, batch),
        {"values": "predicted clean images, in [-1, 1] where the sampler clips"},
    )
    store.write("timesteps", (0,), ddim_timesteps(scheduler, generation["steps"]))
    store.write("ids", (0,), np.arange(images))
    starts = range(0, images, batch)
    for chunk, start in enumerate(tqdm(starts, desc="images", unit="batch", disable=None)):
        if not store.has("trajectories", (chunk, 0, 0, 0, 0)):
            numbers = range(start, min(start + batch, images))
            clean = trajectories(model, scheduler, generation, shape, numbers, device)
            store.write("trajectories", (chunk, 0, 0, 0, 0), clean.cpu().numpy())
    store.finish("trajectories", repair(snakemake.output.manifest))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
