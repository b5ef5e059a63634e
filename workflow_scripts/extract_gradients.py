"""Extract the projected gradients of one shard of a split."""

from pathlib import Path

from attribution.devices import set_up
from attribution.features import FeatureExtractor, extract, layouts
from attribution.images import image_keys, read_split, to_model_range
from attribution.models import load
from attribution.provenance import Stopwatch, read_manifest, write_json
from attribution.stores import Writer
from attribution.workflow import execution, job, read_settings, repair, specification


def main(snakemake):
    settings, stopwatch = read_settings(snakemake), Stopwatch()
    split, part = snakemake.wildcards.split, Path(snakemake.output.part)
    feature = settings["features"][snakemake.wildcards.features]
    base, how = Path(snakemake.input.model).parent, execution(snakemake)
    number = feature["checkpoint"]
    folder = base if number == "final" else base / f"checkpoint-{number}"
    images, digest = read_split(Path(snakemake.input.images).parent)
    device = set_up(settings["compute"])
    extractor = FeatureExtractor(
        load(folder, device),
        feature,
        settings["diffusion"],
        settings["compute"]["precision"],
        images.images.shape[1:],
        device,
        how["gradient_engine"],
    )
    store = Writer(
        part.parent.with_name(f"{split}.zarr"),
        specification(snakemake, images=digest, model=read_manifest(folder)["sha256"]),
        layouts(len(images.ids), feature, extractor.projector.dim, how["rows_per_chunk"]),
        {"values": f"projected gradients of {feature['function']!r}, mean over timesteps"},
    )
    extract(
        extractor,
        store,
        to_model_range(images.images),
        images.ids,
        image_keys(split, images.ids),
        (int(snakemake.wildcards.shard), int(snakemake.wildcards.shards)),
        how["batch"]["features"],
    )
    record = {
        "kind": "features",
        "projection": extractor.projector.identity,
        "engine": extractor.engine.name,
        "parameters": extractor.engine.dimension,
        "device": str(device),
    }
    write_json(part, {"manifest": record, "repair": repair(part), "seconds": stopwatch.seconds})


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
