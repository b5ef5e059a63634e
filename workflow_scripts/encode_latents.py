"""Encode the images of a split with the autoencoder, and its captions with the text encoder."""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from attribution.devices import set_up
from attribution.images import read_split, to_model_range
from attribution.stable_diffusion import Autoencoder, TextEncoder
from attribution.stores import Layout, Writer
from attribution.workflow import execution, job, read_settings, repair, specification


def captions_of(split, template):
    """The captions [captions], the empty one first, and which each image has, [images] int64."""
    named = [template.format(label=name.replace("_", " ").lower()) for name in split.label_names]
    return ["", *named], split.labels + 1


def layouts(images, views, shape, embeddings, rows):
    """mean and, for training, std [images, views, channels, height, width]; captions; ids."""
    names = ("images", "views", "channels", "height", "width")
    whole, chunk = (images, views, *shape), (rows, views, *shape)
    arrays = {"mean": Layout(names, whole, chunk)}
    if views == 2:
        arrays["std"] = Layout(names, whole, chunk)
    arrays["captions"] = Layout(names[:1], (images,), (images,), "int64")
    arrays["ids"] = Layout(names[:1], (images,), (images,), "int64")
    arrays["embeddings"] = Layout(("captions", "tokens", "width"), embeddings, embeddings)
    return arrays


def main(snakemake):
    settings = read_settings(snakemake)
    device = set_up(settings["compute"])
    model, how = settings["pretrained"]["model"], execution(snakemake)
    split, digest = read_split(Path(snakemake.input.images).parent, lazy=True)
    captions, chosen = captions_of(split, settings["data"]["caption"])
    embeddings = TextEncoder(model, device).embed(captions).cpu().numpy()
    autoencoder = Autoencoder(model, device)
    views = 2 if snakemake.wildcards.split == "train" else 1
    sample, _ = autoencoder.encode(to_model_range(split.images[:1]))
    rows = min(how["rows_per_chunk"], len(split.ids))
    store = Writer(
        Path(snakemake.output.manifest).parent,
        specification(snakemake, images=digest),
        layouts(len(split.ids), views, sample.shape[1:], embeddings.shape, rows),
        {"values": f"latents of the autoencoder of {model}, scaled; views: plain, mirrored"},
    )
    for name, values in (("captions", chosen), ("ids", split.ids), ("embeddings", embeddings)):
        store.write_all(name, values)
    for chunk in tqdm(range(store.layouts["mean"].grid[0]), desc="latents", disable=None):
        where = (chunk, 0, 0, 0, 0)
        if all(store.has(name, where) for name in ("mean", "std") if name in store.layouts):
            continue
        images = to_model_range(split.images[store.layouts["mean"].region(where)[0]])
        found = [encoded(autoencoder, view, how) for view in (images, images.flip(-1))[:views]]
        for name, part in (("mean", 0), ("std", 1)):
            if name in store.layouts:
                store.write(name, where, np.stack([one[part] for one in found], 1))
    store.finish("latents", repair(snakemake.output.manifest), texts=captions)


def encoded(autoencoder, images, how):
    """Means and standard deviations of images, some at a time."""
    pairs = [autoencoder.encode(some) for some in images.split(how["batch"]["generation"])]
    return [torch.cat(values).cpu().numpy() for values in zip(*pairs, strict=True)]


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
