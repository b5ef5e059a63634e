"""Encode the images of a split with CLIP."""

from pathlib import Path

from tqdm import tqdm

from attribution.clip import ClipEncoder
from attribution.devices import set_up
from attribution.images import read_split
from attribution.provenance import Stopwatch, write_json
from attribution.stores import Layout, Writer
from attribution.workflow import execution, job, read_settings, repair, specification


def layouts(images, dimension, rows_per_chunk):
    """The arrays of a feature store: features [images, k] and ids [images]."""
    rows = min(rows_per_chunk, images)
    names = ("images", "k")
    return {
        "features": Layout(names, (images, dimension), (rows, dimension)),
        "ids": Layout(names[:1], (images,), (rows,), "int64"),
    }


def main(snakemake):
    settings, stopwatch = read_settings(snakemake), Stopwatch()
    name, split = snakemake.wildcards.features, snakemake.wildcards.split
    part, source = Path(snakemake.output.part), settings["features"][name]["clip"]
    images, digest = read_split(Path(snakemake.input.images).parent)
    encode = ClipEncoder(source, f"features.{name}.clip", set_up(settings["compute"]))
    store = Writer(
        part.parent.with_name(f"{split}.zarr"),
        specification(snakemake, images=digest, weights=encode.identity["weights"]),
        layouts(len(images.ids), encode.dim, execution(snakemake)["rows_per_chunk"]),
        {"values": f"image embeddings of the CLIP model {source}"},
    )
    layout = store.layouts["features"]
    for chunk in tqdm(range(layout.grid[0]), desc="images", unit="chunk", disable=None):
        if not (store.has("features", (chunk, 0)) and store.has("ids", (chunk,))):
            rows = layout.region((chunk, 0))[0]
            store.write("features", (chunk, 0), encode(images.images[rows]))
            store.write("ids", (chunk,), images.ids[rows])
    record = {
        "kind": "features",
        "projection": encode.identity,
        "device": str(encode.device),
    }
    write_json(part, {"manifest": record, "repair": repair(part), "seconds": stopwatch.seconds})


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
