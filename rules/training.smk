rule train_base:
    input:
        train=inputs("train"),
    output:
        manifest="results/{experiment}/models/base/manifest.json",
    log:
        "results/{experiment}/logs/train_base.log",
    benchmark:
        "results/{experiment}/benchmarks/train_base.tsv"
    wildcard_constraints:
        experiment=one_of(TRAINED),
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("train_base"),
        settings=settings("compute", "pretrained", "model", "diffusion", "training"),
        scratch="results/{experiment}/scratch/train_base/state.pt",
    script:
        "../workflow_scripts/train_base.py"


rule generate_images:
    input:
        unpack(captions),
        model=rules.train_base.output.manifest,
    output:
        manifest=images("generation"),
    log:
        "results/{experiment}/logs/generate_images.log",
    benchmark:
        "results/{experiment}/benchmarks/generate_images.tsv"
    wildcard_constraints:
        experiment=one_of(TRAINED),
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("generate_images"),
        settings=settings(
            "compute",
            "pretrained",
            "diffusion",
            "generation",
            "data.labels",
            "data.image_size",
        ),
    script:
        "../workflow_scripts/generate_images.py"


rule record_trajectories:
    input:
        unpack(captions),
        model=rules.train_base.output.manifest,
    output:
        manifest="results/{experiment}/generated/trajectories.zarr/manifest.json",
    log:
        "results/{experiment}/logs/record_trajectories.log",
    benchmark:
        "results/{experiment}/benchmarks/record_trajectories.tsv"
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("record_trajectories"),
        settings=settings(
            "compute",
            "pretrained",
            "diffusion",
            "generation",
            "data.labels",
            "data.image_size",
        ),
    script:
        "../workflow_scripts/record_trajectories.py"
