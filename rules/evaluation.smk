rule evaluate_method:
    input:
        predictions=lambda wildcards: row_predictions(wildcards.experiment, [wildcards.row]),
        outputs=lambda wildcards: [
            f"results/{wildcards.experiment}/outputs/subsets/{split}.{MANIFEST}"
            for split in row_splits(wildcards.experiment, wildcards.row)
        ],
    output:
        lds="results/{experiment}/evaluations/{row}/lds.csv",
        curve="results/{experiment}/evaluations/{row}/curve.csv",
        bootstrap="results/{experiment}/evaluations/{row}/bootstrap.npz",
    log:
        "results/{experiment}/logs/evaluate_method/{row}.log",
    benchmark:
        "results/{experiment}/benchmarks/evaluate_method/{row}.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("evaluate_method"),
        settings=settings("evaluation", without=("evaluation.readouts", "evaluation.top_fraction")),
    script:
        "../workflow_scripts/evaluate_method.py"


rule tabulate_lds:
    input:
        evaluations=lambda wildcards: evaluations(
            wildcards.experiment, own_methods(wildcards.experiment)
        ),
        curves=lambda wildcards: evaluations(
            wildcards.experiment, own_methods(wildcards.experiment), "curve.csv"
        ),
        bootstraps=lambda wildcards: evaluations(
            wildcards.experiment, own_methods(wildcards.experiment), "bootstrap.npz"
        ),
        paper=PAPER,
    output:
        lds=report(
            "results/{experiment}/tables/lds.csv",
            caption="../report/lds.rst",
            category="Tables",
            labels={"experiment": "{experiment}", "table": "LDS by method"},
        ),
        curves="results/{experiment}/tables/lds_by_lambda.csv",
        differences="results/{experiment}/tables/lds_differences.csv",
    log:
        "results/{experiment}/logs/tabulate_lds.log",
    benchmark:
        "results/{experiment}/benchmarks/tabulate_lds.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("tabulate_lds"),
        settings=lds_settings,
    script:
        "../workflow_scripts/tabulate_lds.py"
