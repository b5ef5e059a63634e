# Which files the counterfactual evaluation needs, and its settings.


def counterfactual_scores(wildcards):
    """The scores by which images are removed."""
    experiment = wildcards.experiment
    return [
        f"results/{experiment}/scores/{method}/generation.{MANIFEST}"
        for method in counterfactual_methods(EXPERIMENTS[experiment])
    ]


def counterfactual_evaluations(wildcards):
    """The evaluations that say which lambda is each method's best."""
    experiment = wildcards.experiment
    return evaluations(experiment, counterfactual_methods(EXPERIMENTS[experiment]))


def case_settings(wildcards):
    """What decides which images are removed for which query."""
    own = EXPERIMENTS[wildcards.experiment]
    readouts = {
        name: own["methods"][name].get("readout", "linear") for name in counterfactual_methods(own)
    }
    sections = ["counterfactual", "training.seed", "diffusion.timesteps"]
    return canonical_json({**select(own, sections), "readouts": readouts})


def counterfactual_settings(wildcards):
    """What is measured of regenerated images, and how methods are called."""
    own = EXPERIMENTS[wildcards.experiment]
    sections = ["compute", "pretrained", "diffusion", "counterfactual", "galleries.queries"]
    return canonical_json(
        {
            **select(own, [*sections, "evaluation.bootstrap"]),
            "labels": {
                name: own["methods"][name].get("label", name)
                for name in counterfactual_methods(own)
            },
            "clip": own["features"].get("clip", {}).get("clip"),
        }
    )


def counterfactual_parts(experiment):
    """The folders of an experiment's counterfactual results: the whole way, and each step."""
    own = EXPERIMENTS[experiment]["counterfactual"]
    if not own:
        return []
    starts = ["final", *(f"step-{one['timestep']}" for one in own["steps"])]
    return [f"results/{experiment}/counterfactual/{start}" for start in starts]
