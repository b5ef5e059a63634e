"""Record the predicted clean image of every generated image at every step of the sampler."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from attribution.devices import set_up
from attribution.diffusion import schedule
from attribution.models import load
from attribution.prompts import read_prompts
from attribution.provenance import read_manifest
from attribution.sampling import ddim_timesteps, trajectories
from attribution.stores import Layout, Reader, Writer
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


def whole(arrays):
    """Layouts of arrays of one chunk each."""
    return {
        name: Layout(
            tuple(f"{name}_{axis}" for axis in range(values.ndim)),
            values.shape,
            values.shape,
            str(values.dtype),
        )
        for name, values in arrays.items()
    }


def label_names(manifest):
    return read_manifest(Path(manifest).parent)["label_names"]


def main(snakemake):
    settings = read_settings(snakemake)
    base, generation = Path(snakemake.input.model).parent, settings["generation"]
    device, scheduler = set_up(settings["compute"]), schedule(settings["diffusion"])
    model, prompts, captions = load(base, device), None, {}
    shape = (model.config.in_channels, model.config.sample_size, model.config.sample_size)
    if settings.get("pretrained"):
        from attribution.stable_diffusion import latent_shape

        shape = latent_shape(settings["pretrained"]["model"], settings["data"]["image_size"])
        latents, names = Path(snakemake.input.latents).parent, label_names(snakemake.input.train)
        prompts, labels = read_prompts(latents, names, settings)
        captions = {"captions": labels + 1, "embeddings": Reader(latents).read("embeddings")}
    images, batch = generation["images"], execution(snakemake)["batch"]["generation"]
    store = Writer(
        Path(snakemake.output.manifest).parent,
        specification(snakemake, model=read_manifest(base)["sha256"]),
        layouts(images, generation["steps"], shape, batch) | whole(captions),
        {"values": "predicted clean images, in [-1, 1] where the sampler clips"},
    )
    store.write("timesteps", (0,), ddim_timesteps(scheduler, generation["steps"]))
    store.write("ids", (0,), np.arange(images))
    for name, values in captions.items():
        store.write_all(name, values)
    starts = range(0, images, batch)
    for chunk, start in enumerate(tqdm(starts, desc="images", unit="batch", disable=None)):
        if not store.has("trajectories", (chunk, 0, 0, 0, 0)):
            numbers = range(start, min(start + batch, images))
            clean = trajectories(model, scheduler, generation, shape, numbers, device, prompts)
            store.write("trajectories", (chunk, 0, 0, 0, 0), clean.cpu().numpy())
    store.finish("trajectories", repair(snakemake.output.manifest))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
