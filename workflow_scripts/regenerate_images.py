"""Generate the queries again with the models of the counterfactual evaluation."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from attribution.devices import set_up
from attribution.diffusion import nearest_timestep, schedule
from attribution.images import to_pixels
from attribution.models import load
from attribution.prompts import read_prompts
from attribution.provenance import read_manifest
from attribution.sampling import ddim_timesteps, generated
from attribution.stores import Layout, Reader, Writer
from attribution.workflow import job, read_settings, repair, specification


def main(snakemake):
    settings, output = read_settings(snakemake), Path(snakemake.output.manifest)
    cases = Reader(Path(snakemake.input.cases).parent)
    frame, device = pd.DataFrame(cases.manifest["cases"]), set_up(settings["compute"])
    folders = Path(snakemake.input.parts[0]).parent
    originals = Reader(Path(snakemake.input.queries).parent)
    prompts, decode = None, lambda images: images
    if settings.get("pretrained"):
        from attribution.stable_diffusion import Autoencoder, latent_shape

        name = settings["pretrained"]["model"]
        labels = read_manifest(Path(snakemake.input.train).parent)["label_names"]
        prompts, _ = read_prompts(Path(snakemake.input.latents).parent, labels, settings)
        noise = latent_shape(name, settings["data"]["image_size"])
        decode = Autoencoder(name, device).decode
    shape = originals.array("images").shape[1:]
    models, base = frame["model"].max() + 1, Path(snakemake.input.model).parent
    digests = [read_manifest(folders / f"model-{one:04d}")["sha256"] for one in range(models)]
    digests.append(read_manifest(base)["sha256"])
    store = Writer(
        output.parent,
        specification(snakemake, models=digests, queries=originals.manifest["sha256"]),
        {
            "images": Layout(
                ("cases", "channels", "height", "width"), (len(frame), *shape), (1, *shape), "uint8"
            )
        },
        {"values": "queries generated again, in the order of the cases"},
    )
    scheduler = schedule(settings["diffusion"])
    timesteps = ddim_timesteps(scheduler, settings["generation"]["steps"])

    def drawn(network, query, **way):
        return generated(
            network,
            scheduler,
            settings["generation"],
            noise if prompts else shape,
            range(query, query + 1),
            device,
            prompts=prompts,
            **way,
        )

    @cache
    def original():
        return load(base, device)

    @cache
    def begun(start, query):
        """The sampler's step and the noisy image there, as the base model drew it; None: noise."""
        if start == settings["diffusion"]["timesteps"]:
            return None
        step = nearest_timestep(timesteps, start)
        return step, drawn(original(), query, stop=step)

    for model in tqdm(range(models), desc="models", unit="model", disable=None):
        mine = frame.index[frame["model"] == model]
        missing = [row for row in mine if not store.has("images", (row, 0, 0, 0))]
        if not missing:
            continue
        network = load(folders / f"model-{model:04d}", device)
        for row in missing:
            start, query = (int(frame.at[row, name]) for name in ("start", "query"))
            image = drawn(network, query, start=begun(start, query))
            store.write("images", (row, 0, 0, 0), np.asarray(to_pixels(decode(image))))
    store.finish("counterfactual images", repair(output))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
