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
        code=code("prepare_data"),
        settings=settings("data"),
    script:
        "../workflow_scripts/prepare_data.py"


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
