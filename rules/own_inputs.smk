# What the answer about a finished model is made of.

from attribution.listing import listing_digest


def folder_of(section):
    """The folder of images that a section names, and what tells it from the same after a change."""
    return {
        "folder": lambda wildcards: EXPERIMENTS[wildcards.experiment][section]["path"],
        "files": lambda wildcards: listing_digest(
            EXPERIMENTS[wildcards.experiment][section]["path"]
        ),
    }


def prompts(wildcards):
    """The table of prompts, if there is one."""
    table = (EXPERIMENTS[wildcards.experiment]["pretrained"] or {}).get("prompts")
    return [str(Path(table).expanduser())] if table else []


def answering(experiment):
    """The methods whose proponents the answer shows."""
    return EXPERIMENTS[experiment]["galleries"]["methods"]


def answer_inputs(wildcards):
    """What the answering methods read and what they said."""
    experiment = wildcards.experiment
    read = [files_of_method(experiment, name, "generation") for name in answering(experiment)]
    return list(dict.fromkeys(path for paths in read for path in paths))


def answer_settings(wildcards):
    """The answering methods, how they are named, and how much is shown."""
    experiment = wildcards.experiment
    methods = EXPERIMENTS[experiment]["methods"]
    return canonical_json(
        {
            **select(EXPERIMENTS[experiment], ["compute", "galleries.images", "pretrained"]),
            "methods": {name: method_content(experiment, name) for name in answering(experiment)},
            "labels": {name: methods[name].get("label", name) for name in answering(experiment)},
        }
    )
