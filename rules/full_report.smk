# The report with all studies and counterfactuals, which `all` does not make.


rule write_full_report:
    input:
        unpack(section_inputs),
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
            "results/{experiment}/report_full.html",
            caption="../report/page.rst",
            category="Report",
            labels={"experiment": "{experiment}", "page": "The report with all studies"},
        ),
    log:
        "results/{experiment}/logs/write_full_report.log",
    benchmark:
        "results/{experiment}/benchmarks/write_full_report.tsv"
    conda:
        "../envs/attribution.yaml"
    params:
        code=code("write_report"),
        settings=settings(*REPORTED, "counterfactual", "studies"),
    script:
        "../workflow_scripts/write_report.py"


rule full_report:
    input:
        expand("results/{experiment}/report_full.html", experiment=TRAINED_RUN),
