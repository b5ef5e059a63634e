import os
from itertools import product
from pathlib import Path

from snakemake.exceptions import WorkflowError

from attribution.configuration import SPLITS, computes_on_cuda, load_experiments
from attribution.errors import AttributionError
from attribution.expansion import is_finished, is_latent, needs, obstacle, stored
from attribution.fingerprint import canonical_json, code_digest, select
from attribution.listing import contents_digest
from attribution.own_model import fingerprint
from attribution.user_methods import digest as users_digest, is_users
from attribution.workflow import remember_configfiles

try:
    EXPERIMENTS = load_experiments(config)
except AttributionError as error:
    raise WorkflowError(f"config: {error}") from None

remember_configfiles(workflow.overwrite_configfiles)

# Experiments whose models are trained here, and those of someone's finished model.
TRAINED = [name for name, own in EXPERIMENTS.items() if not is_finished(own)]
FINISHED = [name for name in EXPERIMENTS if name not in TRAINED]
TRAINED_RUN = [name for name in config["run"] if name in TRAINED]
FINISHED_RUN = [name for name in config["run"] if name in FINISHED]


def one_of(names):
    """A pattern of these names, which matches nothing where there are none."""
    return "|".join(names) or "(?!)"


wildcard_constraints:
    experiment="|".join(EXPERIMENTS),
    split="train|validation|generation",
    models="subsets|pool",
    features="[a-z][a-z0-9_-]*",
    method="[a-z][a-z0-9]*([_-][a-z0-9]+)*",
    variant="[a-z][a-z0-9_-]*__[a-z0-9_-]+",
    row="[a-z][a-z0-9_-]*",
    seed=r"\d+",
    first=r"\d+",
    last=r"\d+",
    shard=r"\d+",
    shards=r"\d+",


def own_file(path):
    """A file of the workflow, seen from the working directory: moving all of it changes no input."""
    return os.path.relpath(Path(workflow.basedir) / path)


def code(script):
    """Digest of a script and of every module that it imports."""
    return code_digest(Path(workflow.basedir) / "workflow_scripts" / f"{script}.py")


def settings(*sections, without=()):
    """The experiment's settings under these dotted paths, as canonical JSON, for each job.

    With `pretrained`, what tells the model's files from the same after a change is added.
    """

    def of_job(wildcards):
        named = [section.format(**wildcards) for section in sections]
        chosen = select(EXPERIMENTS[wildcards.experiment], named, without)
        if chosen.get("pretrained"):
            chosen["pretrained"]["files"] = fingerprint(chosen["pretrained"]["model"])
        return canonical_json(chosen)

    return of_job


def images(split):
    """The manifest of a split's images."""
    folder = "generated" if split == "generation" else "data"
    return f"results/{{experiment}}/{folder}/{split}.zarr/manifest.json"


def network_inputs(experiment, split):
    """What the network takes of a split: the manifest of its images, or of their latents."""
    if is_latent(EXPERIMENTS[experiment]):
        return f"results/{experiment}/latents/{split}.zarr/manifest.json"
    return images(split).format(experiment=experiment)


def inputs(split="{split}"):
    """The same, for each job."""
    return lambda wildcards: network_inputs(wildcards.experiment, split.format(**wildcards))


def captions(wildcards):
    """What generation by captions reads: none where there are none."""
    if not is_latent(EXPERIMENTS[wildcards.experiment]):
        return {}
    return {
        "latents": inputs("train")(wildcards),
        "train": images("train").format(**wildcards),
    }


def files_of_data(wildcards):
    """What tells the files of an experiment's dataset from the same after a change."""
    return contents_digest(EXPERIMENTS[wildcards.experiment]["data"]["path"], Path("results"))


def gpus(wildcards):
    """1 where the experiment computes on CUDA, so that jobs share the GPUs that the profile names."""
    return int(computes_on_cuda(EXPERIMENTS[wildcards.experiment]))


def retraining_parts(experiment, models, size):
    """(seed, first, last) of each job that handles up to `size` models of one seed.

    models: `subsets`, the benchmark's, or `pool`, which has one seed.
    """
    own = EXPERIMENTS[experiment]
    count, width = own[models]["count"], own["execution"][size]
    seeds = range(own["retraining"]["seeds"] if models == "subsets" else 1)
    starts = range(0, count, width)
    return [(seed, a, min(a + width, count) - 1) for seed, a in product(seeds, starts)]
