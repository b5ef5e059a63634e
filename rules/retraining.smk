rule retrain_subsets:
    input:
        train=inputs("train"),
        subsets=rules.draw_subsets.output.manifest,
    output:
        part="results/{experiment}/models/{models}/seed-{seed}/{first}-{last}.json",
    log:
        "results/{experiment}/logs/retrain_subsets/{models}-seed-{seed}-{first}-{last}.log",
    benchmark:
        "results/{experiment}/benchmarks/retrain_subsets/{models}-seed-{seed}-{first}-{last}.tsv"
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("retrain_subsets"),
        settings=settings(
            "compute",
            "pretrained",
            "model",
            "diffusion",
            "training",
            "retraining.coupled",
            without=("training.seed", "training.checkpoints"),
        ),
        scratch="results/{experiment}/scratch/retrain_subsets/{models}",
    script:
        "../workflow_scripts/retrain_subsets.py"


rule evaluate_outputs:
    input:
        models=retrained_models,
        queries=inputs(),
    output:
        part="results/{experiment}/outputs/{models}/{split}.parts/seed-{seed}-{first}-{last}.json",
    log:
        "results/{experiment}/logs/evaluate_outputs/{models}-{split}-seed-{seed}-{first}-{last}.log",
    benchmark:
        "results/{experiment}/benchmarks/evaluate_outputs/{models}-{split}-seed-{seed}-{first}-{last}.tsv"
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("evaluate_outputs"),
        settings=output_settings,
    script:
        "../workflow_scripts/evaluate_outputs.py"


rule assemble_outputs:
    input:
        parts=lambda wildcards: [
            f"results/{wildcards.experiment}/outputs/{wildcards.models}/{wildcards.split}.parts/"
            f"seed-{seed}-{first}-{last}.json"
            for seed, first, last in retraining_parts(
                wildcards.experiment, wildcards.models, "output_models_per_job"
            )
        ],
    output:
        manifest="results/{experiment}/outputs/{models}/{split}.zarr/manifest.json",
    log:
        "results/{experiment}/logs/assemble_outputs/{models}-{split}.log",
    benchmark:
        "results/{experiment}/benchmarks/assemble_outputs/{models}-{split}.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("assemble_store"),
        settings="{}",
    script:
        "../workflow_scripts/assemble_store.py"
