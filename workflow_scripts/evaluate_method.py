"""Evaluate the linear datamodeling score of one method or variant on the splits where it runs."""

from pathlib import Path

import numpy as np
import pandas as pd

from attribution.evaluation import CURVE_NUMBERS, NUMBERS, SplitEvaluator
from attribution.stores import Reader
from attribution.workflow import job, read_settings


def main(snakemake):
    settings = read_settings(snakemake)["evaluation"]
    rows, curves, resampled = [], [], {}
    for outputs, predictions in zip(
        snakemake.input.outputs, snakemake.input.predictions, strict=True
    ):
        evaluator = SplitEvaluator(Reader(Path(outputs).parent), settings)
        more = evaluator.rows(Reader(Path(predictions).parent))
        rows += more[0]
        curves += more[1]
        resampled |= more[2]
    Path(snakemake.output.lds).parent.mkdir(parents=True, exist_ok=True)
    for values, columns, path in (
        (rows, NUMBERS, snakemake.output.lds),
        (curves, CURVE_NUMBERS, snakemake.output.curve),
    ):
        pd.DataFrame(values, columns=columns).to_csv(path, index=False, float_format="%.6g")
    np.savez_compressed(snakemake.output.bootstrap, **resampled)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
