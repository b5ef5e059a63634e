rule prepare_data:
    output:
        train="results/{experiment}/data/train.zarr/manifest.json",
        validation="results/{experiment}/data/validation.zarr/manifest.json",
    log:
        "results/{experiment}/logs/prepare_data.log",
    benchmark:
        "results/{experiment}/benchmarks/prepare_data.tsv"
    wildcard_constraints:
        experiment=one_of(TRAINED),
    conda:
        "../envs/attribution.yaml"
    params:
        files=files_of_data,
        code=code("prepare_data"),
        settings=settings("data"),
    script:
        "../workflow_scripts/prepare_data.py"


rule encode_latents:
    input:
        images=lambda wildcards: images(wildcards.split).format(**wildcards),
    output:
        manifest="results/{experiment}/latents/{split}.zarr/manifest.json",
    log:
        "results/{experiment}/logs/encode_latents/{split}.log",
    benchmark:
        "results/{experiment}/benchmarks/encode_latents/{split}.tsv"
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("encode_latents"),
        settings=settings("compute", "pretrained", "data.caption"),
    script:
        "../workflow_scripts/encode_latents.py"


rule draw_subsets:
    input:
        train=images("train"),
    output:
        manifest="results/{experiment}/data/{models}.zarr/manifest.json",
    log:
        "results/{experiment}/logs/draw_subsets/{models}.log",
    benchmark:
        "results/{experiment}/benchmarks/draw_subsets/{models}.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("draw_subsets"),
        settings=settings("{models}"),
    script:
        "../workflow_scripts/draw_subsets.py"
