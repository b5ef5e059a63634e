"""Extract the projected gradients of one shard of a split."""

from pathlib import Path

from attribution.devices import set_up
from attribution.diffusion import nearest_timestep
from attribution.features import FeatureExtractor, OneStep, extract, layouts
from attribution.images import image_keys
from attribution.inputs import Conditioning, clean_images
from attribution.models import load
from attribution.provenance import Stopwatch, read_manifest, write_json
from attribution.reuse import reusable, set_aside
from attribution.stores import Reader, Writer
from attribution.workflow import execution, job, read_settings, repair, specification


def main(snakemake):
    settings, stopwatch = read_settings(snakemake), Stopwatch()
    split, part = snakemake.wildcards.split, Path(snakemake.output.part)
    feature, how = settings["features"][snakemake.wildcards.features], execution(snakemake)
    folder = model_folder(feature, Path(snakemake.input.model))
    images, steps, source = read_images(feature, Path(snakemake.input.images).parent)
    ids, model = source.read("ids"), read_manifest(folder)
    device = set_up(settings["compute"])
    extractor = FeatureExtractor(
        load(folder, device),
        feature,
        model.get("diffusion", settings["diffusion"]),
        settings["compute"]["precision"],
        images.shape[-3:],
        device,
        how["gradient_engine"],
        steps,
    )
    means = "mean over timesteps" if not feature["normalise"] else "mean of unit gradients"
    known = reusable(feature) and "digests" in source.manifest["arrays"]
    path = part.parent.with_name(f"{split}.zarr")
    spec = specification(snakemake, images=source.manifest["sha256"], model=model["sha256"])
    store = Writer(
        path,
        spec,
        layouts(
            len(ids),
            feature,
            extractor.projector.dim,
            how["rows_per_chunk"],
            digests=known,
        ),
        {"values": f"projected gradients of {feature['function']!r}, {means}"},
        set_aside(path, spec),
    )
    extract(
        extractor,
        store,
        images,
        ids,
        image_keys(split, ids),
        (int(snakemake.wildcards.shard), int(snakemake.wildcards.shards)),
        how["batch"]["features"],
        source.read("digests") if known else None,
        Conditioning(source),
    )
    record = {
        "kind": "features",
        "projection": extractor.projector.identity,
        "engine": extractor.engine.name,
        "parameters": extractor.engine.dimension,
        "device": str(device),
    }
    # Timings stay out of the manifest, which must be equal over the shards.
    timings = {
        "gradients": round(extractor.seconds_gradients, 3),
        "projection": round(extractor.seconds_projection, 3),
    }
    content = {"manifest": record, "repair": repair(part), "timings": timings}
    write_json(part, {**content, "seconds": stopwatch.seconds})


def model_folder(feature, path):
    """The model of a feature set; `path` is the base model's manifest or a retraining's marker."""
    if feature["model"] != "base":
        return path.parent / f"subset-{feature['model']['pool']:04d}"
    number = feature["checkpoint"]
    return path.parent if number == "final" else path.parent / f"checkpoint-{number}"


def read_images(feature, path):
    """Images or trajectories in [-1, 1], the trajectories' timesteps or None, and their store."""
    store = Reader(path)
    if feature["along"] != "trajectory":
        return clean_images(store), None, store
    paths, steps = store.array("trajectories"), store.read("timesteps")
    if feature["at"] is not None:
        step = steps.tolist().index(nearest_timestep(steps, feature["at"]))
        paths, steps = OneStep(paths, step), steps[[step]]
    return paths, steps, store


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
