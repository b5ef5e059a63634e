rule write_tables:
    input:
        lds=rules.tabulate_lds.output.lds,
        differences=rules.tabulate_lds.output.differences,
    output:
        markdown="results/{experiment}/tables/lds.md",
        latex="results/{experiment}/tables/lds.tex",
        behind="results/{experiment}/tables/lds_differences.md",
        behind_latex="results/{experiment}/tables/lds_differences.tex",
    log:
        "results/{experiment}/logs/write_tables.log",
    benchmark:
        "results/{experiment}/benchmarks/write_tables.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("write_tables"),
        settings="{}",
    script:
        "../workflow_scripts/write_tables.py"


rule collect_losses:
    input:
        base=rules.train_base.output.manifest,
        retrained=lambda wildcards: retraining_markers(wildcards.experiment),
    output:
        losses="results/{experiment}/tables/training_loss.csv",
    log:
        "results/{experiment}/logs/collect_losses.log",
    benchmark:
        "results/{experiment}/benchmarks/collect_losses.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("collect_losses"),
        settings="{}",
    script:
        "../workflow_scripts/collect_losses.py"


rule draw_figures:
    input:
        lds=rules.tabulate_lds.output.lds,
        curves=rules.tabulate_lds.output.curves,
        losses=rules.collect_losses.output.losses,
        generated=images("generation"),
        train=images("train"),
    output:
        report(
            multiext("results/{experiment}/figures/lds_by_method", ".svg", ".png"),
            caption="../report/figure.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "LDS by method"},
        ),
        report(
            multiext("results/{experiment}/figures/lds_by_lambda", ".svg", ".png"),
            caption="../report/figure.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "LDS against lambda"},
        ),
        report(
            multiext("results/{experiment}/figures/training_loss", ".svg", ".png"),
            caption="../report/figure.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "Training loss"},
        ),
        report(
            multiext("results/{experiment}/figures/generated", ".svg", ".png"),
            caption="../report/figure.rst",
            category="Figures",
            labels={"experiment": "{experiment}", "figure": "Generated images"},
        ),
    log:
        "results/{experiment}/logs/draw_figures.log",
    benchmark:
        "results/{experiment}/benchmarks/draw_figures.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("draw_figures"),
        settings=settings("galleries.generated"),
    script:
        "../workflow_scripts/draw_figures.py"


rule draw_gallery:
    input:
        train=images("train"),
        queries=lambda wildcards: images(wildcards.split).format(**wildcards),
        lds=rules.tabulate_lds.output.lds,
        scores=gallery_scores,
    output:
        report(
            multiext("results/{experiment}/figures/gallery_{split}", ".svg", ".png"),
            caption="../report/figure.rst",
            category="Galleries",
            labels={"experiment": "{experiment}", "gallery": "{split}"},
        ),
    log:
        "results/{experiment}/logs/draw_gallery/{split}.log",
    benchmark:
        "results/{experiment}/benchmarks/draw_gallery/{split}.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("draw_gallery"),
        settings=settings("galleries.queries", "galleries.images", "galleries.methods"),
    script:
        "../workflow_scripts/draw_gallery.py"


rule write_report:
    input:
        lds=rules.tabulate_lds.output.lds,
        differences=rules.tabulate_lds.output.differences,
        figures=rules.draw_figures.output,
        train=images("train"),
        splits=[images(split) for split in SPLITS],
        scores=lambda wildcards: [
            path for split in SPLITS for path in gallery_scores(wildcards, split)
        ],
        template=own_file("report/page.html.j2"),
    output:
        page=report(
            "results/{experiment}/report.html",
            caption="../report/page.rst",
            category="Report",
            labels={"experiment": "{experiment}", "page": "The whole report"},
        ),
    log:
        "results/{experiment}/logs/write_report.log",
    benchmark:
        "results/{experiment}/benchmarks/write_report.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("write_report"),
        settings=settings(*REPORTED),
    script:
        "../workflow_scripts/write_report.py"


rule models:
    input:
        expand(rules.train_base.output.manifest, experiment=TRAINED_RUN),
        lambda wildcards: [path for name in TRAINED_RUN for path in retraining_markers(name)],


rule features:
    input:
        lambda wildcards: [
            path
            for name in config["run"]
            for method in own_methods(name)
            for split in row_splits(name, method)
            for path in named_features(name, method, split)
        ],


rule scores:
    input:
        [
            f"results/{name}/scores/{method}/{split}.zarr/manifest.json"
            for name in config["run"]
            for method in own_methods(name)
            for split in row_splits(name, method)
        ],


rule tables:
    input:
        expand(rules.write_tables.output, experiment=TRAINED_RUN),
        expand(rules.tabulate_lds.output, experiment=TRAINED_RUN),
        expand(rules.collect_losses.output, experiment=TRAINED_RUN),


rule figures:
    input:
        expand(rules.draw_figures.output, experiment=TRAINED_RUN),
        expand(rules.draw_gallery.output, experiment=TRAINED_RUN, split=SPLITS),
