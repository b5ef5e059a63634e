"""Put a study's rows together: its table, its paired differences and its figure."""

from pathlib import Path

import numpy as np
import pandas as pd

from attribution.differences import COMPARISONS, averaged, differences, read_bootstraps
from attribution.figures import save
from attribution.studies import STUDIES
from attribution.study_figures import plot_lambda_curves, plot_study
from attribution.study_tables import (
    curve_table,
    differences_markdown,
    study_frame,
    study_latex,
    study_markdown,
)
from attribution.workflow import job, read_settings


def main(snakemake):
    settings, output = read_settings(snakemake), snakemake.output
    study = STUDIES[settings["study"]]
    Path(output.csv).parent.mkdir(parents=True, exist_ok=True)
    make = of_curves if study.kind == "curves" else of_rows
    frame, markdown, latex, figure = make(snakemake.input, settings, study, output)
    frame.to_csv(output.csv, index=False, float_format="%.6g")
    Path(output.markdown).write_text(markdown, encoding="utf-8")
    Path(output.latex).write_text(latex, encoding="utf-8")
    save(figure, Path(output.figure[0]).with_suffix(""))


def of_rows(paths, settings, study, output):
    """The study's frame, both tables and the figure."""
    frame = study_frame(
        study.name,
        settings["rows"],
        {name: pd.read_csv(path) for name, path in by_row(paths.evaluations)},
        settings["paper"],
        settings["methods"],
        settings["missing"],
    )
    axes = list(dict.fromkeys(axis for _, place in settings["rows"] for axis in place))
    shown = {*study.index, *study.columns, study.x, *study.series}
    over = [axis for axis in axes if axis not in shown]
    compared = COMPARISONS.get(study.name, ())
    resampled = {}
    if over or compared:
        resampled = read_bootstraps(
            {name: np.load(path) for name, path in by_row(paths.bootstraps)}
        )
    bootstrap = settings["evaluation"]["bootstrap"]
    found = [
        differences(frame, resampled, axes, compare, over, bootstrap["confidence"])
        for compare in compared
    ]
    mean = averaged(frame, resampled, axes, over, bootstrap) if over else frame
    text = study_markdown(mean, study)
    if found:
        table = pd.concat([one for one in found if len(one)] or found[:1], ignore_index=True)
        if hasattr(output, "differences"):
            table.to_csv(output.differences, index=False, float_format="%.6g")
        text += "\n" + differences_markdown(table, axes)
    return frame, text, study_latex(mean, study), plot_study(mean, study)


def of_curves(paths, settings, study, output):
    """The rows' curves, what they say of lambda, and the figure."""
    curves = {name: pd.read_csv(path) for name, path in by_row(paths.curves)}
    frames = [
        curves[row].assign(row=row, label=place["label"], timesteps=place["timesteps"])
        for row, place in settings["rows"]
        if row in curves
    ]
    frame = pd.concat(frames, ignore_index=True)
    frame["timesteps"] = frame["timesteps"].astype("Int64")
    return frame, *curve_table(frame, study.title), plot_lambda_curves(frame, study.title)


def by_row(paths):
    """(row, path) of files evaluations/{row}/…."""
    return [(Path(path).parent.name, path) for path in paths]


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
