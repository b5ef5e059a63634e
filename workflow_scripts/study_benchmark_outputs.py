"""Evaluate rows on benchmarks of other output functions F than the experiment's own (Table 4)."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from attribution.evaluation import NUMBERS, SplitEvaluator
from attribution.figures import save
from attribution.stores import Reader
from attribution.studies import STUDIES
from attribution.study_figures import plot_study
from attribution.study_tables import SHOWN_READOUTS, study_frame, study_latex, study_markdown
from attribution.workflow import job, read_settings


def main(snakemake):
    settings, output = read_settings(snakemake), snakemake.output
    stores = [Reader(Path(path).parent) for path in snakemake.input.predictions]
    arrays = {settings["outputs"]["function"]: "outputs"}
    arrays |= {name: f"outputs_{name}" for name in settings["outputs"]["others"]}
    found = {}  # (row, F) to rows of lds.csv
    for path in snakemake.input.outputs:
        outputs = Reader(Path(path).parent)
        for name, array in arrays.items():
            evaluator = SplitEvaluator(outputs, settings["evaluation"], array)
            for store in stores:
                if store.manifest["split"] == evaluator.split:
                    records = evaluator.rows(store, SHOWN_READOUTS)[0]
                    found.setdefault((store.manifest["row"], name), []).extend(records)
    rows = [
        (f"{row}/{name}", {**place, "output": name})
        for row, place in settings["rows"]
        for name in arrays
    ]
    frames = {
        f"{row}/{name}": pd.DataFrame(records, columns=NUMBERS)
        for (row, name), records in found.items()
    }
    study = STUDIES[settings["study"]]
    frame = study_frame(study.name, rows, frames, settings["paper"])
    Path(output.csv).parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(output.csv, index=False, float_format="%.6g")
    Path(output.markdown).write_text(study_markdown(frame, study), encoding="utf-8")
    Path(output.latex).write_text(study_latex(frame, study), encoding="utf-8")
    drawn = replace(study, x=study.index[0], series=("output",))
    save(plot_study(frame, drawn), Path(output.figure[0]).with_suffix(""))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
