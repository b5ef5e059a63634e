"""Evaluate the linear datamodeling score of every method on both splits."""

from pathlib import Path

from attribution.evaluation import SplitEvaluator, frames
from attribution.stores import Reader
from attribution.workflow import job, read_settings


def main(snakemake):
    masks = Reader(Path(snakemake.input.subsets).parent).read("masks")
    settings = read_settings(snakemake)
    evaluators = {}
    for manifest in snakemake.input.outputs:
        store = Reader(Path(manifest).parent)
        split = store.path.stem
        evaluators[split] = SplitEvaluator(
            snakemake.wildcards.experiment, split, masks, store, settings
        )
    rows, curves = [], []
    for manifest in snakemake.input.scores:
        scores = Reader(Path(manifest).parent)
        evaluator = evaluators[scores.manifest["split"]]
        more_rows, more_curves = evaluator.rows(scores.manifest["method"], scores)
        rows += more_rows
        curves += more_curves
    table, curve = frames(rows, curves)
    Path(snakemake.output.lds).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(snakemake.output.lds, index=False, float_format="%.6g")
    curve.to_csv(snakemake.output.curves, index=False, float_format="%.6g")


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
