# Which files the studies need, and their settings.

EVALUATION = ("evaluation.bootstrap", "evaluation.heldout")


def study_kinds(*kinds):
    """A pattern of the studies of these kinds."""
    return "|".join(name for name, study in STUDIES.items() if study.kind in kinds)


def study_content(experiment, study, sections=()):
    """A study's rows on their axes, what its table says of them, and `sections`."""
    own = EXPERIMENTS[experiment]
    return {
        **select(own, list(sections)),
        **table_content(experiment, study_rows(experiment, study), obstacle),
        "study": study,
        "rows": [list(row) for row in own["study_rows"][study]],
        "settings": own["studies"][study],
    }


def study_settings(name=None, sections=()):
    """The content of a study, for each job."""
    return lambda wildcards: canonical_json(
        study_content(wildcards.experiment, name or wildcards.study, sections)
    )


def study_inputs(name, file="lds.csv"):
    """The evaluations of a study's rows."""
    return lambda wildcards: evaluations(
        wildcards.experiment, study_rows(wildcards.experiment, name or wildcards.study), file
    )


def study_predictions(name):
    """The predictions of a study's rows."""
    return lambda wildcards: row_predictions(
        wildcards.experiment, study_rows(wildcards.experiment, name)
    )


def benchmark_outputs(wildcards):
    """The outputs of the benchmark's models on both splits."""
    place = f"results/{wildcards.experiment}/outputs/subsets"
    return [f"{place}/{split}.{MANIFEST}" for split in SPLITS]


def kernel_of_study(name):
    """The decomposition of the training features of a study's only row."""

    def of_job(wildcards):
        (row,) = study_rows(wildcards.experiment, name)
        ((train, _),) = entry_of(wildcards.experiment, row)["sets"]
        place = f"results/{wildcards.experiment}"
        return {
            "features": f"{place}/features/{train}/train.{MANIFEST}",
            "kernel": f"{place}/kernels/{train}.{MANIFEST}",
            "evaluation": f"{place}/evaluations/{row}/lds.csv",
        }

    return of_job


def artifacts_of_methods(wildcards):
    """{method: the artifacts that it used}, for the study of costs."""
    experiment, place = wildcards.experiment, f"results/{wildcards.experiment}"
    used = {}
    for method in study_rows(experiment, "cost"):
        entry, files = entry_of(experiment, method), []
        if not row_splits(experiment, method):
            continue
        for split in row_splits(experiment, method):
            files += row_inputs(experiment, method, split)
            files.append(f"{place}/scores/{method}/{split}.{MANIFEST}")
        if needs(entry) == "kernel":
            files += [f"{place}/kernels/{train}.{MANIFEST}" for train, _ in entry["sets"]]
        files += models_of_pool(experiment, entry)
        # Images, masks and outputs of the benchmark are there for every method.
        shared = (f"{place}/data/", f"{place}/generated/")
        used[method] = [path for path in dict.fromkeys(files) if not path.startswith(shared)]
    return used


def models_of_pool(experiment, entry):
    """The models of the pool that a method needed."""
    place = f"results/{experiment}/models/pool/seed-0"
    if needs(entry) == "pool":
        count = entry.get("models", EXPERIMENTS[experiment]["pool"]["count"])
    else:
        count = entry.get("ensemble", 0)
    return [f"{place}/subset-{index:04d}/manifest.json" for index in range(count)]


def files_of_methods(wildcards):
    """The files behind these artifacts; a model stands in the marker of the job that trained it."""
    used = {path for files in artifacts_of_methods(wildcards).values() for path in files}
    models = {path for path in used if "/models/pool/" in path}
    markers = retraining_markers(wildcards.experiment, "pool") if models else []
    return sorted(used - models) + markers


def cost_settings(wildcards):
    """The settings of the study of costs, with the artifacts that each method used."""
    content = study_content(wildcards.experiment, "cost")
    return canonical_json({**content, "uses": artifacts_of_methods(wildcards)})


def section_inputs(wildcards):
    """The Markdown files and figures beyond the main ones: counterfactuals, then every study."""
    experiment = wildcards.experiment
    parts = counterfactual_parts(experiment)
    studies = [
        f"results/{experiment}/studies/{name}" for name in EXPERIMENTS[experiment]["study_rows"]
    ]
    figures = [f"{part}/{name}" for part in parts for name in ("boxes", "grid")]
    return {
        "texts": [f"{part}/counterfactual.md" for part in parts]
        + [f"{study}.md" for study in studies],
        "shown": [f"{path}{end}" for path in figures + studies for end in (".svg", ".png")],
    }


def study_files(name):
    """A study's table for each experiment that runs and has it."""
    return [
        f"results/{experiment}/studies/{name}.csv"
        for experiment in TRAINED_RUN
        if name in EXPERIMENTS[experiment]["study_rows"]
    ]
