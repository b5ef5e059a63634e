from itertools import product
from pathlib import Path

from snakemake.exceptions import WorkflowError

from attribution.configuration import SPLITS, computes_on_cuda, load_experiments
from attribution.errors import AttributionError
from attribution.expansion import is_finished, needs, obstacle, stored
from attribution.fingerprint import canonical_json, code_digest, select
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


def code(script):
    """Digest of a script and of every module that it imports."""
    return code_digest(Path(workflow.basedir) / "workflow_scripts" / f"{script}.py")


def settings(*sections, without=()):
    """The experiment's settings under these dotted paths, as canonical JSON, for each job."""

    def of_job(wildcards):
        named = [section.format(**wildcards) for section in sections]
        return canonical_json(select(EXPERIMENTS[wildcards.experiment], named, without))

    return of_job


def images(split):
    """The manifest of a split's images."""
    folder = "generated" if split == "generation" else "data"
    return f"results/{{experiment}}/{folder}/{split}.zarr/manifest.json"


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
