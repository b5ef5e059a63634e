rule score_method:
    input:
        method_inputs,
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
        code=method_code("score_method", "method"),
        settings=method_settings("method"),
    script:
        "../workflow_scripts/score_method.py"


rule predict_outputs:
    input:
        scores=rules.score_method.output.manifest,
        subsets="results/{experiment}/data/subsets.zarr/manifest.json",
    output:
        manifest="results/{experiment}/predictions/{method}/{split}.zarr/manifest.json",
    log:
        "results/{experiment}/logs/predict_outputs/{method}-{split}.log",
    benchmark:
        "results/{experiment}/benchmarks/predict_outputs/{method}-{split}.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("predict_outputs"),
        settings=settings("evaluation.readouts", "evaluation.top_fraction"),
    script:
        "../workflow_scripts/predict_outputs.py"


# Rows that only studies compare: their scores are summed up over the subsets at once, never stored.
rule predict_variant:
    input:
        variant_inputs,
        subsets="results/{experiment}/data/subsets.zarr/manifest.json",
    output:
        **{
            split: f"results/{{experiment}}/predictions/{{variant}}/{split}.{MANIFEST}"
            for split in SPLITS
        },
    log:
        "results/{experiment}/logs/predict_variant/{variant}.log",
    benchmark:
        "results/{experiment}/benchmarks/predict_variant/{variant}.tsv"
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=method_code("predict_variant", "variant"),
        settings=method_settings("variant"),
    script:
        "../workflow_scripts/predict_variant.py"
