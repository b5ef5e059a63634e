"""What each method costs by the paper's formulas and as measured, beside its LDS."""

from pathlib import Path

import pandas as pd

from attribution.cost import FAMILIES, cost_table, costs, times, with_lds
from attribution.figures import save
from attribution.provenance import read_manifest
from attribution.studies import STUDIES
from attribution.study_figures import plot_cost
from attribution.study_tables import study_frame
from attribution.workflow import job, read_settings


def main(snakemake):
    settings, output = read_settings(snakemake), snakemake.output
    study, base = STUDIES[settings["study"]], Path(snakemake.input.base)
    evaluations = {
        Path(path).parent.name: pd.read_csv(path) for path in snakemake.input.evaluations
    }
    entries = {row: settings["methods"][row] for row, _ in settings["rows"] if row in evaluations}
    training = times(base).training
    frame = study_frame(study.name, settings["rows"], evaluations, methods=entries)
    table = with_lds(costs(entries, settings["uses"], training), frame)
    made = read_manifest(base.parent)
    machine = f"{made['made']['machine']}, {made['device']}"
    markdown, latex = cost_table(table, training, machine, study.title)
    Path(output.csv).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(output.csv, index=False, float_format="%.6g")
    Path(output.markdown).write_text(markdown, encoding="utf-8")
    Path(output.latex).write_text(latex, encoding="utf-8")
    save(plot_cost(table, FAMILIES, study.title), Path(output.figure[0]).with_suffix(""))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
