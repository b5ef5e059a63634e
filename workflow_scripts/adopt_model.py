"""Take a finished model over: check it and store its network in the form of a trained one."""

from pathlib import Path

from attribution.models import adopt, save
from attribution.own_model import describe, fetch
from attribution.provenance import Stopwatch
from attribution.workflow import job, read_settings, repair, specification


def main(snakemake):
    settings, stopwatch = read_settings(snakemake), Stopwatch()
    folder = fetch(settings["pretrained"]["model"])
    described = describe(folder)
    save(
        adopt(described.unet),
        Path(snakemake.output.manifest).parent,
        specification(snakemake),
        stopwatch,
        repair(snakemake.output.manifest),
        diffusion={**settings["diffusion"], **described.diffusion},
        pipeline=described.pipeline,
        image_size=described.image_size,
        channels=described.channels,
        source=settings["pretrained"]["model"],
    )


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
