# A finished model, its training images and its queries: nothing is trained (docs/own-model.md).


rule adopt_model:
    output:
        manifest="results/{experiment}/models/base/manifest.json",
    log:
        "results/{experiment}/logs/adopt_model.log",
    benchmark:
        "results/{experiment}/benchmarks/adopt_model.tsv"
    wildcard_constraints:
        experiment=one_of(FINISHED),
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("adopt_model"),
        settings=settings("pretrained", "diffusion"),
    script:
        "../workflow_scripts/adopt_model.py"


rule read_training_images:
    input:
        prompts=prompts,
        model=rules.adopt_model.output.manifest,
    output:
        manifest=images("train"),
    log:
        "results/{experiment}/logs/read_training_images.log",
    benchmark:
        "results/{experiment}/benchmarks/read_training_images.tsv"
    wildcard_constraints:
        experiment=one_of(FINISHED),
    conda:
        "../envs/attribution.yaml"
    params:
        **folder_of("data"),
        code=code("read_images"),
        settings="{}",
    script:
        "../workflow_scripts/read_images.py"


use rule read_training_images as read_queries with:
    output:
        manifest=images("generation"),
    log:
        "results/{experiment}/logs/read_queries.log",
    benchmark:
        "results/{experiment}/benchmarks/read_queries.tsv"
    params:
        **folder_of("generation"),
        code=code("read_images"),
        settings="{}",


rule answer_queries:
    input:
        answer_inputs,
        model=rules.adopt_model.output.manifest,
        train=images("train"),
        queries=images("generation"),
        scores=lambda wildcards: gallery_scores(wildcards, "generation"),
        template=own_file("report/answer.html.j2"),
    output:
        page=report(
            "results/{experiment}/answer.html",
            caption="../report/answer.rst",
            category="Answers",
            labels={"experiment": "{experiment}", "page": "The answer"},
        ),
        csv="results/{experiment}/answer.csv",
        summary="results/{experiment}/summary.csv",
    log:
        "results/{experiment}/logs/answer_queries.log",
    benchmark:
        "results/{experiment}/benchmarks/answer_queries.tsv"
    wildcard_constraints:
        experiment=one_of(FINISHED),
    conda:
        "../envs/attribution.yaml"
    resources:
        gpu=gpus,
    params:
        code=code("answer_queries"),
        settings=answer_settings,
    script:
        "../workflow_scripts/answer_queries.py"


rule answers:
    input:
        expand(
            "results/{experiment}/{file}",
            experiment=FINISHED_RUN,
            file=["answer.html", "answer.csv", "summary.csv"],
        ),
