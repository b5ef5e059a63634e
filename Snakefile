"""Data attribution for diffusion models: from training to tables, one directory an experiment.

results/{experiment}/data, generated, models, outputs, features, kernels, scores, tables, figures
"""

import sys

from snakemake.utils import min_version

min_version("9.27")
sys.path.insert(0, workflow.basedir)


configfile: f"{workflow.basedir}/config.yaml"


include: "rules/common.smk"
include: "rules/inputs.smk"
include: "rules/own_inputs.smk"
include: "rules/data.smk"
include: "rules/training.smk"
include: "rules/own_model.smk"
include: "rules/retraining.smk"
include: "rules/features.smk"
include: "rules/scores.smk"
include: "rules/evaluation.smk"
include: "rules/counterfactual_inputs.smk"
include: "rules/study_inputs.smk"
include: "rules/studies.smk"
include: "rules/reporting.smk"
include: "rules/counterfactual.smk"
include: "rules/full_report.smk"


report: "report/workflow.rst"


# With every round of scheduling Snakemake 9 starts a timer for one more round, on account of its
# limit of jobs a second, and never one fewer: hundreds of waiting jobs keep a core busy with nothing
# (its issue 3804). Jobs of this machine need no such limit.
onstart:
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


localrules:
    all,
    answers,
    counterfactual,
    full_report,
    models,
    features,
    scores,
    tables,
    figures,
    studies,


rule all:
    default_target: True
    input:
        rules.tables.input,
        rules.figures.input,
        expand("results/{experiment}/report.html", experiment=TRAINED_RUN),
        rules.answers.input,
