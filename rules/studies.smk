# One table and one figure a study: results/{experiment}/studies/{study}.*


rule tabulate_study:
    input:
        evaluations=study_inputs(None),
        bootstraps=study_inputs(None, "bootstrap.npz"),
        paper=PAPER,
    output:
        csv="results/{experiment}/studies/{study}.csv",
        markdown="results/{experiment}/studies/{study}.md",
        latex="results/{experiment}/studies/{study}.tex",
        figure=multiext("results/{experiment}/studies/{study}", ".svg", ".png"),
    log:
        "results/{experiment}/logs/tabulate_study/{study}.log",
    benchmark:
        "results/{experiment}/benchmarks/tabulate_study/{study}.tsv"
    wildcard_constraints:
        study=study_kinds("rows"),
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("tabulate_study"),
        settings=study_settings(sections=EVALUATION),
    script:
        "../workflow_scripts/tabulate_study.py"


rule compare_study:
    input:
        evaluations=study_inputs(None),
        bootstraps=study_inputs(None, "bootstrap.npz"),
        paper=PAPER,
    output:
        csv="results/{experiment}/studies/{study}.csv",
        differences="results/{experiment}/studies/{study}_differences.csv",
        markdown="results/{experiment}/studies/{study}.md",
        latex="results/{experiment}/studies/{study}.tex",
        figure=multiext("results/{experiment}/studies/{study}", ".svg", ".png"),
    log:
        "results/{experiment}/logs/compare_study/{study}.log",
    benchmark:
        "results/{experiment}/benchmarks/compare_study/{study}.tsv"
    wildcard_constraints:
        study=study_kinds("comparison"),
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("tabulate_study"),
        settings=study_settings(sections=EVALUATION),
    script:
        "../workflow_scripts/tabulate_study.py"


rule draw_curves:
    input:
        curves=study_inputs(None, "curve.csv"),
    output:
        csv="results/{experiment}/studies/{study}.csv",
        markdown="results/{experiment}/studies/{study}.md",
        latex="results/{experiment}/studies/{study}.tex",
        figure=multiext("results/{experiment}/studies/{study}", ".svg", ".png"),
    log:
        "results/{experiment}/logs/draw_curves/{study}.log",
    benchmark:
        "results/{experiment}/benchmarks/draw_curves/{study}.tsv"
    wildcard_constraints:
        study=study_kinds("curves"),
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("tabulate_study"),
        settings=study_settings(sections=EVALUATION),
    script:
        "../workflow_scripts/tabulate_study.py"


rule compare_outputs:
    input:
        predictions=study_predictions("benchmark_output"),
        paper=PAPER,
        outputs=benchmark_outputs,
    output:
        csv="results/{experiment}/studies/benchmark_output.csv",
        markdown="results/{experiment}/studies/benchmark_output.md",
        latex="results/{experiment}/studies/benchmark_output.tex",
        figure=multiext("results/{experiment}/studies/benchmark_output", ".svg", ".png"),
    log:
        "results/{experiment}/logs/compare_outputs.log",
    benchmark:
        "results/{experiment}/benchmarks/compare_outputs.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("study_benchmark_outputs"),
        settings=study_settings("benchmark_output", ("outputs", *EVALUATION)),
    script:
        "../workflow_scripts/study_benchmark_outputs.py"


rule rank_self_influence:
    input:
        unpack(kernel_of_study("self_influence")),
        train=images("train"),
    output:
        csv="results/{experiment}/studies/self_influence.csv",
        markdown="results/{experiment}/studies/self_influence.md",
        latex="results/{experiment}/studies/self_influence.tex",
        figure=multiext("results/{experiment}/studies/self_influence", ".svg", ".png"),
    log:
        "results/{experiment}/logs/rank_self_influence.log",
    benchmark:
        "results/{experiment}/benchmarks/rank_self_influence.tsv"
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("study_self_influence"),
        settings=study_settings("self_influence", ("compute",)),
    script:
        "../workflow_scripts/study_self_influence.py"


rule tabulate_cost:
    input:
        base=rules.train_base.output.manifest,
        evaluations=study_inputs("cost"),
        artifacts=files_of_methods,
    output:
        csv="results/{experiment}/studies/cost.csv",
        markdown="results/{experiment}/studies/cost.md",
        latex="results/{experiment}/studies/cost.tex",
        figure=multiext("results/{experiment}/studies/cost", ".svg", ".png"),
    log:
        "results/{experiment}/logs/tabulate_cost.log",
    benchmark:
        "results/{experiment}/benchmarks/tabulate_cost.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("study_cost"),
        settings=cost_settings,
    script:
        "../workflow_scripts/study_cost.py"


rule measure_convergence:
    input:
        models=lambda wildcards: retraining_markers(wildcards.experiment),
        outputs=benchmark_outputs,
        predictions=study_predictions("convergence"),
        evaluations=study_inputs("convergence"),
    output:
        csv="results/{experiment}/studies/convergence.csv",
        methods="results/{experiment}/studies/convergence_methods.csv",
        markdown="results/{experiment}/studies/convergence.md",
        latex="results/{experiment}/studies/convergence.tex",
        figure=multiext("results/{experiment}/studies/convergence", ".svg", ".png"),
    log:
        "results/{experiment}/logs/measure_convergence.log",
    benchmark:
        "results/{experiment}/benchmarks/measure_convergence.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("study_convergence"),
        settings=study_settings("convergence", ("outputs", *EVALUATION)),
    script:
        "../workflow_scripts/study_convergence.py"


# Every study by its name, and all of them: `snakemake studies`, `snakemake study_cost`, …
for study_name in STUDIES:

    rule:
        name:
            f"study_{study_name}"
        input:
            study_files(study_name),


rule studies:
    input:
        [path for study_name in STUDIES for path in study_files(study_name)],
