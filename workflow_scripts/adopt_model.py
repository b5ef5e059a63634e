"""Take a finished model over: check it and store its network in the form of a trained one.

Of a Stable Diffusion only the LoRA is copied; the rest is read from where it lies.
"""

import shutil
from pathlib import Path

from attribution.errors import ConfigurationError
from attribution.models import adopt, publish, save
from attribution.own_model import STABLE_DIFFUSION, UNCONDITIONAL, describe, fetch
from attribution.provenance import Stopwatch, write_json
from attribution.workflow import job, read_settings, repair, specification


def main(snakemake):
    settings, stopwatch = read_settings(snakemake), Stopwatch()
    own, folder = settings["pretrained"], Path(snakemake.output.manifest).parent
    described = describe(fetch(own["model"]))
    if described.kind != own.get("kind", UNCONDITIONAL):
        raise ConfigurationError(
            f"pretrained.kind: {own['model']} is {described.kind}; set it to that"
        )
    content = {
        "diffusion": {**settings["diffusion"], **described.diffusion},
        "pipeline": described.pipeline,
        "image_size": described.image_size,
        "channels": described.channels,
        "source": own["model"],
    }
    how = (specification(snakemake), stopwatch, repair(snakemake.output.manifest))
    if described.kind != STABLE_DIFFUSION:
        save(adopt(described.unet), folder, *how, **content)
        return
    from attribution.stable_diffusion import ADAPTER, WEIGHTS, finished

    scratch = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    adapter = None
    if own.get("adapter"):
        given, adapter = Path(own["adapter"]).expanduser(), scratch / ADAPTER
        shutil.copyfile(given / WEIGHTS if given.is_dir() else given, adapter)
    unet = finished(own["model"], adapter)
    parameters = sum(one.numel() for one in unet.parameters() if one.requires_grad)
    write_json(scratch / "source.json", own)
    publish(folder, scratch, *how, **content, parameters=parameters, model_kind=STABLE_DIFFUSION)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
