# Counterfactual evaluation: images are removed, models trained again, queries generated again.


rule draw_cases:
    input:
        train=images("train"),
        queries=images("generation"),
        evaluations=counterfactual_evaluations,
        scores=counterfactual_scores,
    output:
        manifest="results/{experiment}/counterfactual/cases.zarr/manifest.json",
    log:
        "results/{experiment}/logs/draw_cases.log",
    benchmark:
        "results/{experiment}/benchmarks/draw_cases.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("draw_cases"),
        settings=case_settings,
    script:
        "../workflow_scripts/draw_cases.py"


rule retrain_cases:
    input:
        train=inputs("train"),
        cases=rules.draw_cases.output.manifest,
    output:
        part="results/{experiment}/models/counterfactual/{number}-of-{of}.json",
    log:
        "results/{experiment}/logs/retrain_cases/{number}-of-{of}.log",
    benchmark:
        "results/{experiment}/benchmarks/retrain_cases/{number}-of-{of}.tsv"
    wildcard_constraints:
        number=r"\d+",
        of=r"\d+",
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("retrain_cases"),
        settings=settings(
            "compute",
            "pretrained",
            "model",
            "diffusion",
            "training",
            without=("training.seed", "training.checkpoints"),
        ),
        scratch="results/{experiment}/scratch/retrain_cases",
    script:
        "../workflow_scripts/retrain_cases.py"


rule regenerate_images:
    input:
        unpack(captions),
        cases=rules.draw_cases.output.manifest,
        parts=lambda wildcards: [
            f"results/{wildcards.experiment}/models/counterfactual/{number}-of-{jobs}.json"
            for jobs in [EXPERIMENTS[wildcards.experiment]["execution"]["counterfactual_jobs"]]
            for number in range(jobs)
        ],
        queries=images("generation"),
        model=rules.train_base.output.manifest,
    output:
        manifest="results/{experiment}/counterfactual/images.zarr/manifest.json",
    log:
        "results/{experiment}/logs/regenerate_images.log",
    benchmark:
        "results/{experiment}/benchmarks/regenerate_images.tsv"
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("regenerate_images"),
        settings=settings(
            "compute",
            "pretrained",
            "diffusion",
            "generation",
            "data.labels",
            "data.image_size",
        ),
    script:
        "../workflow_scripts/regenerate_images.py"


rule compare_images:
    input:
        cases=rules.draw_cases.output.manifest,
        again=rules.regenerate_images.output.manifest,
        queries=images("generation"),
        model=rules.train_base.output.manifest,
    output:
        cases="results/{experiment}/counterfactual/{start}/cases.csv",
        summary="results/{experiment}/counterfactual/{start}/summary.csv",
        differences="results/{experiment}/counterfactual/{start}/differences.csv",
        markdown="results/{experiment}/counterfactual/{start}/counterfactual.md",
        latex="results/{experiment}/counterfactual/{start}/counterfactual.tex",
        figures=multiext("results/{experiment}/counterfactual/{start}/boxes", ".svg", ".png"),
        grids=multiext("results/{experiment}/counterfactual/{start}/grid", ".svg", ".png"),
    log:
        "results/{experiment}/logs/compare_images/{start}.log",
    benchmark:
        "results/{experiment}/benchmarks/compare_images/{start}.tsv"
    wildcard_constraints:
        start=r"final|step-\d+",
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("compare_images"),
        settings=counterfactual_settings,
    script:
        "../workflow_scripts/compare_images.py"


rule counterfactual:
    input:
        lambda wildcards: [
            f"{part}/counterfactual.md"
            for experiment in TRAINED_RUN
            for part in counterfactual_parts(experiment)
        ],
