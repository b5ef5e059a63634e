rule score_method:
    input:
        unpack(method_inputs),
    output:
        manifest="results/{experiment}/scores/{method}/{split}.zarr/manifest.json",
    log:
        "results/{experiment}/logs/score_method/{method}-{split}.log",
    benchmark:
        "results/{experiment}/benchmarks/score_method/{method}-{split}.tsv"
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("score_method"),
        settings=method_settings,
    script:
        "../workflow_scripts/score_method.py"
