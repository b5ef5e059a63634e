# Input functions: which files a job needs, and its settings, where a pattern cannot say them.

from attribution.expansion import ALL_ROWS, SHOWN_ONLY, counterfactual_methods, kind
from attribution.studies import STUDIES

MANIFEST = "zarr/manifest.json"
# What the report says of an experiment's settings.
REPORTED = (
    "compute",
    "pretrained",
    "data",
    "subsets",
    "pool",
    "diffusion",
    "model",
    "training",
    "generation",
    "retraining",
    "outputs",
    "features",
    "methods",
    "kernel",
    "evaluation",
    "galleries",
)
# The numbers that the paper published, which stand beside ours.
PAPER = own_file("attribution/paper_lds.csv")


def retraining_markers(name, models="subsets", wanted=lambda seed, first, last: True):
    """What an experiment's retraining jobs write, for those of them that are wanted."""
    return [
        f"results/{name}/models/{models}/seed-{seed}/{first}-{last}.json"
        for seed, first, last in retraining_parts(name, models, "models_per_job")
        if wanted(seed, first, last)
    ]


def retrained_models(wildcards):
    """The retraining jobs whose models these subsets of a seed need."""

    def wanted(seed, first, last):
        same_seed = seed == int(wildcards.seed)
        return same_seed and first <= int(wildcards.last) and int(wildcards.first) <= last

    return retraining_markers(wildcards.experiment, wildcards.models, wanted)


def output_settings(wildcards):
    """The outputs' settings and how many models there are; the pool's keep only F itself."""
    sections = ["compute", "diffusion", "outputs"]
    if wildcards.models == "pool":
        return settings(*sections, "pool.count", without=("outputs.others",))(wildcards)
    return settings(*sections, "subsets.count", "retraining.seeds")(wildcards)


def feature_parts(wildcards):
    """The jobs that fill one feature store."""
    own = EXPERIMENTS[wildcards.experiment]
    folder = f"results/{wildcards.experiment}/features/{wildcards.features}/{wildcards.split}.parts"
    if kind(own["features"][wildcards.features]) == "clip":
        return [f"{folder}/encoded.json"]
    count = own["execution"]["feature_shards"]
    return [f"{folder}/{shard}-of-{count}.json" for shard in range(count)]


def feature_model(wildcards):
    """The trained model whose gradients a set holds: the base model, or one of the pool."""
    model = EXPERIMENTS[wildcards.experiment]["features"][wildcards.features]["model"]
    if model == "base":
        return rules.train_base.output.manifest.format(**wildcards)

    def wanted(seed, first, last):
        return first <= model["pool"] <= last

    return retraining_markers(wildcards.experiment, "pool", wanted)[0]


def feature_images(wildcards):
    """The images of a set, or the paths by which they were generated."""
    entry = EXPERIMENTS[wildcards.experiment]["features"][wildcards.features]
    if entry["along"] == "trajectory":
        return rules.record_trajectories.output.manifest.format(**wildcards)
    return inputs()(wildcards)


def entry_of(experiment, row):
    """The entry of a method, or of a variant that only a study uses."""
    own = EXPERIMENTS[experiment]
    return own["methods"].get(row) or own["variants"][row]


def row_splits(experiment, row):
    """The splits on which a row can run."""
    own = EXPERIMENTS[experiment]
    return [split for split in SPLITS if not obstacle(own, entry_of(experiment, row), split)]


def named_features(experiment, row, split):
    """The feature stores of the training images and of a split's queries that a row reads."""
    entry, features = entry_of(experiment, row), EXPERIMENTS[experiment]["features"]
    pairs = [("train", pair[0]) for pair in entry["sets"]]
    pairs += [(split, pair[1]) for pair in entry["sets"]]
    return [
        f"results/{experiment}/features/{part}/{side}.{MANIFEST}"
        for side, name in dict.fromkeys(pairs)
        for part in stored(features, name)
    ]


def row_inputs(experiment, row, split):
    """What a method or variant reads on a split, but for decompositions."""
    entry, place = entry_of(experiment, row), f"results/{experiment}"
    if needs(entry) == "images":
        return [network_inputs(experiment, side) for side in ("train", split)]
    if needs(entry) == "pool":
        return [f"{place}/data/pool.{MANIFEST}", f"{place}/outputs/pool/{split}.{MANIFEST}"]
    return named_features(experiment, row, split)


def method_inputs(wildcards):
    """What a method reads on a split, for each job."""
    return files_of_method(wildcards.experiment, wildcards.method, wildcards.split)


def files_of_method(experiment, method, split):
    """What a method reads, with the stored decompositions of its feature sets."""
    entry, features = entry_of(experiment, method), EXPERIMENTS[experiment]["features"]
    kernels = [
        f"results/{experiment}/kernels/{train}.{MANIFEST}"
        for train, _ in entry["sets"]
        if needs(entry) == "kernel" and kind(features[train]) != "combine"
    ]
    return row_inputs(experiment, method, split) + kernels


def variant_inputs(wildcards):
    """What a variant reads on all splits; its job decomposes what it needs."""
    experiment, variant = wildcards.experiment, wildcards.variant
    paths = [
        path
        for split in row_splits(experiment, variant)
        for path in row_inputs(experiment, variant, split)
    ]
    return list(dict.fromkeys(paths))


def feature_entries(features, names):
    """The entries of these feature sets and of the sets that they are made of."""
    parts = {part for name in names for part in stored(features, name)}
    return {name: features[name] for name in sorted(names | parts)}


def method_content(experiment, row):
    """The method's entry, its feature sets, and the lambdas where it has any."""
    own, entry = EXPERIMENTS[experiment], entry_of(experiment, row)
    names = {name for pair in entry["sets"] for name in pair}
    chosen = {
        "compute": own["compute"],
        "method": {key: value for key, value in entry.items() if key not in SHOWN_ONLY},
        "features": feature_entries(own["features"], names),
    }
    if needs(entry) == "kernel":
        chosen["kernel"] = own["kernel"]
    return chosen


def method_settings(row):
    """What decides a method's scores, for each job."""
    return lambda wildcards: canonical_json(method_content(wildcards.experiment, wildcards[row]))


def method_code(script, row):
    """Digest of the script, and of the user's own file where the method is a function of it."""
    digest = code(script)

    def of_job(wildcards):
        entry = entry_of(wildcards.experiment, wildcards[row])
        own = users_digest(entry["function"], Path.cwd()) if is_users(entry) else ""
        return digest + own

    return of_job


def evaluations(experiment, rows, file="lds.csv"):
    """The evaluations of those of these rows that can run on some split, each once."""
    return [
        f"results/{experiment}/evaluations/{row}/{file}"
        for row in dict.fromkeys(rows)
        if row_splits(experiment, row)
    ]


def own_methods(experiment):
    """The methods that `all` runs: those that are not left to the studies."""
    methods = EXPERIMENTS[experiment]["methods"]
    return [name for name, entry in methods.items() if not entry.get("deferred")]


def table_content(experiment, rows, why_not):
    """What a table says of its rows beside the numbers.

    rows: names of methods or variants, in the table's order. why_not: why an entry of an experiment
    has no number on a split, or None.
    """
    own = EXPERIMENTS[experiment]
    entries = {row: entry_of(experiment, row) for row in dict.fromkeys(rows)}
    first = {entry["sets"][0][0] for entry in entries.values() if entry["sets"]}
    return {
        "order": list(entries),
        "methods": entries,
        "features": feature_entries(own["features"], first),
        "missing": {
            row: {split: why for split in SPLITS if (why := why_not(own, entry, split))}
            for row, entry in entries.items()
        },
        "paper": own["paper"],
    }


def lds_settings(wildcards):
    """What the LDS tables say of the experiment's methods, and how sure they are to be."""
    own = EXPERIMENTS[wildcards.experiment]
    content = table_content(wildcards.experiment, own["methods"], not_in_all)
    content["confidence"] = own["evaluation"]["bootstrap"]["confidence"]
    return canonical_json(content)


def not_in_all(experiment, entry, split):
    """Why a row has no number in a table of `all`, as a sentence, or None."""
    if entry.get("deferred"):
        return "computed by the studies (`make studies`)"
    return obstacle(experiment, entry, split)


def study_rows(experiment, study):
    """The names of a study's rows."""
    return [row.row for row in EXPERIMENTS[experiment]["study_rows"][study]]


def row_predictions(experiment, rows):
    """The predictions of rows on all splits where they can run."""
    return [
        f"results/{experiment}/predictions/{row}/{split}.{MANIFEST}"
        for row in dict.fromkeys(rows)
        for split in row_splits(experiment, row)
    ]


def gallery_scores(wildcards, split=None):
    """The scores of the methods that the galleries show."""
    return [
        f"results/{wildcards.experiment}/scores/{method}/{split or wildcards.split}.{MANIFEST}"
        for method in EXPERIMENTS[wildcards.experiment]["galleries"]["methods"]
    ]
