rule prepare_data:
    output:
        train="results/{experiment}/data/train.zarr/manifest.json",
        validation="results/{experiment}/data/validation.zarr/manifest.json",
    log:
        "results/{experiment}/logs/prepare_data.log",
    benchmark:
        "results/{experiment}/benchmarks/prepare_data.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("prepare_data"),
        settings=settings("data"),
    script:
        "../workflow_scripts/prepare_data.py"


rule draw_subsets:
    input:
        train=images("train"),
    output:
        manifest="results/{experiment}/data/subsets.zarr/manifest.json",
    log:
        "results/{experiment}/logs/draw_subsets.log",
    benchmark:
        "results/{experiment}/benchmarks/draw_subsets.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("draw_subsets"),
        settings=settings("subsets"),
    script:
        "../workflow_scripts/draw_subsets.py"
