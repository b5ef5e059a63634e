"""`python -m attribution attribute`: a finished model and two folders of images become an answer.

It writes the experiment that a user could write by hand, tells what it will cost, and runs it.
"""

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from diffusers import DDPMPipeline
from PIL import Image

from attribution.configuration import load_experiments
from attribution.devices import set_up
from attribution.diffusion import schedule
from attribution.errors import ConfigurationError
from attribution.features import FeatureExtractor
from attribution.figures import colour_last
from attribution.images import read_split
from attribution.listing import image_files
from attribution.models import adopt, load
from attribution.own_model import STABLE_DIFFUSION, Described, describe, fetch
from attribution.provenance import read_manifest
from attribution.report import duration
from attribution.workflow import merged

RESULTS = Path("results")


@dataclass(frozen=True)
class Question:
    """What a person asks: the images of `queries` are attributed to those of `images`.

    model: folder or hub id; adapter: LoRA weights of a Stable Diffusion; prompts: a csv table;
    name: of the folder in results/, made from the model's if not given.
    """

    model: str
    images: str
    queries: str
    adapter: str | None = None
    prompts: str | None = None
    name: str | None = None


def ask(question: Question, cores: str = "all", only_cost: bool = False) -> int:
    """Tell the cost and, unless that was all, attribute; returns the exit code.

    Raises:
        ConfigurationError: the model or a folder does not fit; the message says why.
    """
    described = describe(fetch(question.model))
    name = question.name or "own-" + (_slug(Path(question.model).name) or "model")
    given = {"adapter": question.adapter, "prompts": question.prompts}
    file = RESULTS / name / "attribute.yaml"
    own = {
        "run": [name],
        "experiments": {
            name: {
                "pretrained": {
                    "model": question.model,
                    "kind": described.kind,
                    **{key: value for key, value in given.items() if value},
                },
                "data": {"path": question.images},
                "generation": {"path": question.queries},
            }
        },
    }
    config = merged(yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8")), own)
    experiment = load_experiments(config)[name]
    folders = (Path(one).expanduser() for one in (question.images, question.queries))
    for line in cost(described, experiment, *(len(image_files(one)) for one in folders)):
        print(line, flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(own, sort_keys=False), encoding="utf-8")
    if only_cost:
        return 0
    line = [sys.executable, "-m", "snakemake", "--cores", cores]
    ended = subprocess.run([*line, "--configfile", str(file), "--logger", "progress"])
    if ended.returncode == 0:
        print(f"answer    {RESULTS / name / 'answer.html'}")
        print(f"scores    {RESULTS / name / 'answer.csv'}")
        print(f"summary   {RESULTS / name / 'summary.csv'}")
        print(f"settings  {file}")
    return ended.returncode


def cost(described: Described, experiment: dict[str, Any], images: int, queries: int) -> list[str]:
    """What attributing will take, measured with a few gradients of this model on this machine."""
    lines = [
        f"{images:,} training images, {queries:,} queries, {described.pipeline} of "
        f"{described.channels} x {described.image_size} x {described.image_size}"
    ]
    device = set_up(experiment["compute"])
    network = _network(described, experiment["pretrained"]).to(device)
    batch, shape = experiment["execution"]["batch"]["features"], described.shape
    diffusion = {**experiment["diffusion"], **described.diffusion}
    # The sets that the methods read, each once.
    wanted = {
        name for one in experiment["methods"].values() for pair in one["sets"] for name in pair
    }
    for name in sorted(wanted):
        feature = experiment["features"][name]
        extractor = FeatureExtractor(
            network, feature, diffusion, experiment["compute"]["precision"], shape, device
        )
        some = torch.rand(batch, *shape) * 2 - 1
        states = {"encoder_hidden_states": torch.zeros(batch, *described.states or ())}
        given = states if described.states else {}
        first = {name: value[:1] for name, value in given.items()}
        extractor(some[:1], ["first"], first)  # the first pass checks and warms up
        start = time.perf_counter()
        extractor(some, [str(row) for row in range(batch)], given)
        each = (time.perf_counter() - start) / batch
        stored = 4 * extractor.projector.dim * (images + queries)
        lines.append(
            f"{name}: {feature['timesteps']} timesteps, {extractor.engine.dimension:,} "
            f"parameters, {each:.2g} s an image on {device}: about "
            f"{duration(each * (images + queries))} of one job, and {stored / 1e6:,.0f} MB"
        )
    if described.states and not experiment["pretrained"].get("prompts"):
        lines.append("All images get the empty prompt; PROMPTS names a table of theirs.")
    lines.append("What was computed before is kept: only new images are computed.")
    return lines


def _network(described: Described, pretrained: dict[str, Any]) -> torch.nn.Module:
    if described.kind != STABLE_DIFFUSION:
        return adopt(described.unet)
    from attribution.stable_diffusion import WEIGHTS, finished

    adapter = Path(pretrained["adapter"]).expanduser() if pretrained.get("adapter") else None
    if adapter is not None and adapter.is_dir():
        adapter = adapter / WEIGHTS
    return finished(pretrained["model"], adapter)


def export_experiment(experiment: Path, folder: Path, queries: int | None) -> None:
    """Write a trained model as a diffusers pipeline, and its images as PNG files.

    folder/model, folder/images/{label}/{name}.png, folder/queries/{name}.png

    Args:
        experiment: its folder in results/. queries: how many of the generated images; None for all.
    """
    base = experiment / "models" / "base"
    record = read_manifest(base)
    settings = record["spec"]["settings"].get("diffusion") or record.get("diffusion")
    if settings is None:
        raise ConfigurationError(f"{base} does not say its noise schedule; it cannot be exported")
    pipeline = DDPMPipeline(load(base, torch.device("cpu")), schedule(settings))
    pipeline.save_pretrained(folder / "model")
    for place, store, most in (
        ("images", "data/train.zarr", None),
        ("queries", "generated/generation.zarr", queries),
    ):
        split, _ = read_split(experiment / store)
        rows = range(len(split.ids))[:most]
        for row in rows:
            label = int(split.labels[row])
            inside = split.label_names[label] if 0 <= label < len(split.label_names) else ""
            file = folder / place / inside / f"{_slug(split.names[row]) or row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(colour_last(split.images[row]))).save(file)
        print(f"{folder / place}  {len(rows):,} images")
    print(f"{folder / 'model'}  {pipeline.__class__.__name__}")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
