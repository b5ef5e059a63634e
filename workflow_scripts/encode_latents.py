"""Encode the images of a split with the autoencoder, and its captions with the text encoder."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from attribution.devices import set_up
from attribution.images import image_digests, read_split, to_model_range
from attribution.provenance import read_manifest
from attribution.stable_diffusion import Autoencoder, TextEncoder
from attribution.stores import Layout, Reader, Writer
from attribution.workflow import execution, job, read_settings, repair, specification

CAPTIONS = 64  # that are encoded at once


def captions_of(split, given, template):
    """The captions [captions], the empty one first, and which each image has, [images] int64.

    given: the captions of images with some of their own, else of their labels by the template.
    """
    if given is not None:
        captions = list(dict.fromkeys(["", *given]))
        number = {caption: index for index, caption in enumerate(captions)}
        return captions, np.array([number[caption] for caption in given], dtype=np.int64)
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
    arrays["digests"] = Layout(names[:1], (images,), (images,), "uint64")
    arrays["embeddings"] = Layout(("captions", "tokens", "width"), embeddings, embeddings)
    return arrays


def main(snakemake):
    settings = read_settings(snakemake)
    device = set_up(settings["compute"])
    model, how = settings["pretrained"]["model"], execution(snakemake)
    split, digest = read_split(Path(snakemake.input.images).parent, lazy=True)
    record = read_manifest(Path(snakemake.input.images).parent)
    captions, chosen = captions_of(split, record.get("captions"), settings["data"]["caption"])
    adapter = settings["pretrained"].get("adapter")
    text = TextEncoder(model, device, Path(adapter).expanduser() if adapter else None)
    embeddings = np.concatenate([
        text.embed(captions[start : start + CAPTIONS]).cpu().numpy()
        for start in range(0, len(captions), CAPTIONS)
    ])  # fmt: skip
    autoencoder = Autoencoder(model, device)
    # Only training draws latents, and mirrors images.
    trained = "lora" in settings["pretrained"] and snakemake.wildcards.split == "train"
    views = 2 if trained else 1
    sample, _ = autoencoder.encode(to_model_range(split.images[:1]))
    images = Reader(Path(snakemake.input.images).parent).read("digests")
    digests = image_digests(np.stack([images, *caption_digests(captions)[:, chosen]], 1))
    rows = min(how["rows_per_chunk"], len(split.ids))
    store = Writer(
        Path(snakemake.output.manifest).parent,
        specification(snakemake, images=digest),
        layouts(len(split.ids), views, sample.shape[1:], embeddings.shape, rows),
        {"values": f"latents of the autoencoder of {model}, scaled; views: plain, mirrored"},
    )
    small = {"captions": chosen, "ids": split.ids, "embeddings": embeddings, "digests": digests}
    for name, values in small.items():
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


def caption_digests(captions):
    """What tells each caption from any other, uint64 [4, captions]."""
    whole = [hashlib.sha256(caption.encode()).digest() for caption in captions]
    return np.array([np.frombuffer(one, np.uint64) for one in whole]).T


def encoded(autoencoder, images, how):
    """Means and standard deviations of images, some at a time."""
    pairs = [autoencoder.encode(some) for some in images.split(how["batch"]["generation"])]
    return [torch.cat(values).cpu().numpy() for values in zip(*pairs, strict=True)]


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
