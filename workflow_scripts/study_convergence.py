"""Evaluate all methods on parts of the benchmark: how small may it be?"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from attribution.convergence import (
    Costs,
    Protocol,
    best_predictions,
    convergence_table,
    evaluate,
    protocols,
    summarise,
)
from attribution.cost import total
from attribution.figures import save
from attribution.stores import Reader
from attribution.studies import STUDIES
from attribution.study_figures import plot_convergence
from attribution.study_tables import axis_value
from attribution.workflow import job, read_settings

logger = logging.getLogger(__name__)


def main(snakemake):
    settings, output = read_settings(snakemake), snakemake.output
    costs = Costs(
        total(map(Path, snakemake.input.models)).training,
        sum(total([Path(path)]).other for path in snakemake.input.outputs),
    )
    errors = {Path(path).parent.name: pd.read_csv(path) for path in snakemake.input.evaluations}
    stores = [Reader(Path(path).parent) for path in snakemake.input.predictions]
    order = [row for row, _ in settings["rows"]]
    whole, single = [], []
    for path in snakemake.input.outputs:
        outputs = Reader(Path(path).parent)
        split, values = outputs.path.stem, outputs.read("outputs")
        known = {one.manifest["row"]: one for one in stores if one.manifest["split"] == split}
        rows = [row for row in order if row in known]
        predictions = np.stack([best_predictions(linear(known[row]), values) for row in rows])
        full = Protocol(*values.shape[:4])
        wanted = protocols(full, settings["settings"]["subsets"])
        logger.info("%s: %d methods, %d protocols", split, len(rows), len(wanted))
        results = list(evaluate(predictions, values, wanted, settings["settings"]["draws"]))
        spread = np.array([bootstrap_std(errors[row], split) for row in rows])
        one, each = summarise(results, full, spread, costs)
        whole.append(one.assign(split=split))
        each["method"] = [order.index(rows[number]) for number in each["method"]]
        single.append(each.assign(split=split, row=[order[number] for number in each["method"]]))
    whole, single = pd.concat(whole, ignore_index=True), pd.concat(single, ignore_index=True)
    Path(output.csv).parent.mkdir(parents=True, exist_ok=True)
    whole.to_csv(output.csv, index=False, float_format="%.6g")
    single.drop(columns="method").to_csv(output.methods, index=False, float_format="%.6g")
    title, steps = STUDIES[settings["study"]].title, settings["outputs"]["timesteps"]
    markdown, latex = convergence_table(whole, steps, title)
    Path(output.markdown).write_text(markdown, encoding="utf-8")
    Path(output.latex).write_text(latex, encoding="utf-8")
    figure = plot_convergence(
        whole, single, [label(*row) for row in settings["rows"]], steps, title
    )
    save(figure, Path(output.figure[0]).with_suffix(""))


def linear(store):
    """Predictions of the linear readout, [lambdas, subsets, queries]."""
    index = store.manifest["readouts"].index("linear")
    return store.array("predictions")[index : index + 1][0]


def bootstrap_std(frame, split):
    """The bootstrap standard deviation of a row's LDS, linear and at the oracle's lambda."""
    own = frame[(frame["split"] == split) & (frame["readout"] == "linear")]
    return float(own[own["lambda_rule"] != "heldout"]["bootstrap_std"].iloc[0])


def label(row, place):
    """What a person calls a method."""
    named = [
        axis_value(axis, value, named=True) for axis, value in place.items() if value is not None
    ]
    return ", ".join(named) or row


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
