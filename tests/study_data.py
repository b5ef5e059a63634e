"""A study's evaluations made up for tests: values that follow a formula, with their resamples."""

from typing import Any

import numpy as np
import pandas as pd

CEILINGS = {"validation": 62.0, "generation": 48.0}
BOOTSTRAP = {"resamples": 64, "interval_resamples": 200, "confidence": 0.95, "seed": 42}


def evaluation(
    lds: float, rules=("oracle", "heldout"), readouts=("linear", "signed_square"), splits=None
) -> pd.DataFrame:
    """lds.csv of one row: LDS on validation, 0.7 of it on generation, held out one point below."""
    records = []
    for split in splits or CEILINGS:
        for readout in readouts:
            for rule in rules:
                value = lds * (1.0 if split == "validation" else 0.7)
                value += 4.0 * (readout == "signed_square") - 1.0 * (rule == "heldout")
                records.append(
                    {
                        "split": split,
                        "readout": readout,
                        "lambda": np.nan if rule == "none" else 2.5,
                        "lambda_rule": rule,
                        "lds": value,
                        "bootstrap_mean": value - 0.3,
                        "bootstrap_std": 0.9,
                        "ci_low": value - 2.2,
                        "ci_high": value + 1.6,
                        "subsets": 32,
                        "seeds": 2,
                        "queries": 200,
                        "train_size": 1000,
                        "ceiling": CEILINGS[split],
                    }
                )
    return pd.DataFrame(records)


def bootstraps(evaluations: dict[str, pd.DataFrame], spread: float = 0.5) -> dict[tuple, Any]:
    """Resampled LDS: what all rows share (std 3) and what each has of its own (std `spread`)."""
    random = np.random.default_rng(0)
    shared = random.normal(0, 3, BOOTSTRAP["interval_resamples"])
    return {
        (row, one["split"], one["readout"], one["lambda_rule"]): one["lds"]
        + shared
        + random.normal(0, spread, len(shared))
        for row, frame in evaluations.items()
        for _, one in frame.iterrows()
    }


def curve(lds: float) -> pd.DataFrame:
    """curve.csv of one row: one maximum, at a tenth of the mean eigenvalue."""
    grid = np.logspace(-5, 3, 25)
    frames = []
    for split, factor in (("validation", 1.0), ("generation", 0.7)):
        values = factor * lds * np.exp(-((np.log10(grid) + 1) ** 2) / 12)
        best = int(values.argmax())
        frame = pd.DataFrame({"lambda": 100 * grid, "lambda_over_mean_eigenvalue": grid})
        frame = frame.assign(split=split, readout="linear", lds=values, oracle=False, heldout=0)
        frame.loc[best, ["oracle", "heldout"]] = True, 7
        frame.loc[best - 1, "heldout"] = 3
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
