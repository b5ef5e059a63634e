# Input functions: which files a job needs, where a pattern cannot say it.

from attribution.configuration import needs


def retraining_markers(name, wanted=lambda seed, first, last: True):
    """What an experiment's retraining jobs write, for those of them that are wanted."""
    return [
        f"results/{name}/models/subsets/seed-{seed}/{first}-{last}.json"
        for seed, first, last in retraining_parts(name, "models_per_job")
        if wanted(seed, first, last)
    ]


def retrained_models(wildcards):
    """The retraining jobs whose models these subsets of a seed need."""

    def wanted(seed, first, last):
        same_seed = seed == int(wildcards.seed)
        return same_seed and first <= int(wildcards.last) and int(wildcards.first) <= last

    return retraining_markers(wildcards.experiment, wanted)


def feature_parts(wildcards):
    """The jobs that fill one feature store."""
    count = EXPERIMENTS[wildcards.experiment]["execution"]["feature_shards"]
    folder = f"results/{wildcards.experiment}/features/{wildcards.features}/{wildcards.split}.parts"
    return [f"{folder}/{shard}-of-{count}.json" for shard in range(count)]


def method_inputs(wildcards):
    """What a method reads: images, or features and where it needs it their decomposition."""
    method = EXPERIMENTS[wildcards.experiment]["methods"][wildcards.method]
    place = f"results/{wildcards.experiment}"
    if needs(method) == "images":
        return {
            "train": images("train").format(**wildcards),
            "queries": images(wildcards.split).format(**wildcards),
        }
    features = f"{place}/features/{method['features']}"
    inputs = {
        "train": f"{features}/train.zarr/manifest.json",
        "queries": f"{features}/{wildcards.split}.zarr/manifest.json",
    }
    if needs(method) == "kernel":
        inputs["kernel"] = f"{place}/kernels/{method['features']}.zarr/manifest.json"
    return inputs


def method_settings(wildcards):
    """The method's options, and the lambdas where it has any; its label changes no score."""
    method = EXPERIMENTS[wildcards.experiment]["methods"][wildcards.method]
    sections = ["compute", "methods.{method}"] + ["kernel"] * (needs(method) == "kernel")
    return settings(*sections, without=(f"methods.{wildcards.method}.label",))(wildcards)


def score_stores(wildcards):
    """The scores of every method on both splits, methods in their order."""
    return [
        f"results/{wildcards.experiment}/scores/{method}/{split}.zarr/manifest.json"
        for method, split in product(EXPERIMENTS[wildcards.experiment]["methods"], SPLITS)
    ]


def gallery_scores(wildcards, split=None):
    """The scores of the methods that the galleries show."""
    return [
        f"results/{wildcards.experiment}/scores/{method}/{split or wildcards.split}.zarr/manifest.json"
        for method in EXPERIMENTS[wildcards.experiment]["galleries"]["methods"]
    ]
