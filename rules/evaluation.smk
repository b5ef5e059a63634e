rule evaluate_lds:
    input:
        subsets=rules.draw_subsets.output.manifest,
        outputs=expand(rules.assemble_outputs.output.manifest, split=SPLITS, allow_missing=True),
        scores=score_stores,
    output:
        lds=report(
            "results/{experiment}/tables/lds.csv",
            caption="../report/lds.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "table": "LDS by method"},
        ),
        curves="results/{experiment}/tables/lds_by_lambda.csv",
    log:
        "results/{experiment}/logs/evaluate_lds.log",
    benchmark:
        "results/{experiment}/benchmarks/evaluate_lds.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("evaluate_lds"),
        settings=settings("evaluation", "methods", "features", "retraining.seeds"),
    script:
        "../workflow_scripts/evaluate_lds.py"
