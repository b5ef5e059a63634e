"""Store the images of a folder as the finished model takes them."""

import logging
from pathlib import Path

from attribution.captions import read_captions
from attribution.datasets import files_below
from attribution.images import write_split
from attribution.provenance import read_manifest
from attribution.workflow import job, repair, specification

logger = logging.getLogger(__name__)


def main(snakemake):
    model = read_manifest(Path(snakemake.input.model).parent)
    size, folder = model["image_size"], Path(snakemake.params.folder).expanduser()
    split, resized = files_below(folder, model["channels"], size)
    if resized:
        logger.info("%d of %d images are brought to %dx%d", resized, len(split.ids), size, size)
    prompts = list(snakemake.input.prompts)
    captions = read_captions(Path(prompts[0]) if prompts else None, split.names)
    write_split(
        Path(snakemake.output.manifest).parent,
        split,
        specification(snakemake, files=snakemake.params.files, size=size, captions=captions),
        repair(snakemake.output.manifest),
        folder=str(snakemake.params.folder),
        resized=resized,
        captions=captions,
    )


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
