"""Differences between rows of the LDS tables, and their uncertainty from shared resamples.

All rows of an experiment are evaluated on the same resamples of the subsets, so the difference of
two rows' resampled LDS is free of what both share: a subset that is hard for one is hard for the
other. Its interval is much narrower than two separate intervals suggest.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from attribution.errors import StoreError
from attribution.lds import interval, uncertainty

# (row, split, readout, lambda rule): the key of a row's resampled LDS [resamples].
Key = tuple[str, str, str, str]
PLACE = ["split", "readout", "lambda_rule"]
# Which values of which axis a study compares with which.
COMPARISONS = {
    "noise_sharing": (("sharing", "none"), ("function", "simple")),
    "output_functions": (("function", "simple"),),
    "timesteps": (("strategy", "uniform"), ("function", "simple")),
}


class Difference(NamedTuple):
    """A difference of two LDS values in percentage points, with its interval."""

    value: float
    low: float
    high: float


def paired(
    bootstrap_a: np.ndarray,
    bootstrap_b: np.ndarray,
    point_a: float,
    point_b: float,
    confidence: float = 0.95,
) -> Difference:
    """a - b with the interval of the paired resamples (`lds.interval`).

    Args:
        bootstrap_a, bootstrap_b: LDS in per cent on the same resamples, [resamples] each.
        point_a, point_b: LDS in per cent on all subsets.

    Raises:
        StoreError: the resamples are not the same ones.
    """
    if bootstrap_a.shape != bootstrap_b.shape:
        raise StoreError(
            f"two rows have {len(bootstrap_a)} and {len(bootstrap_b)} resamples, so their "
            "difference cannot be paired; evaluate both with the same settings"
        )
    value = float(point_a - point_b)
    return Difference(value, *interval(bootstrap_a - bootstrap_b, value, confidence))


PAIR_COLUMNS = [
    "experiment", "split", "higher", "lower", "higher_lds", "lower_lds", "difference", "ci_low",
    "ci_high",
]  # fmt: skip


def compare_methods(
    lds: pd.DataFrame, resampled: Mapping[Key, np.ndarray], confidence: float
) -> pd.DataFrame:
    """The difference of every two methods on each split, the one with the higher LDS first.

    Each method counts under its own readout, with its held-out lambda where it has one. Subsets
    that are hard for one method are hard for the other, so two methods whose own intervals overlap
    widely may still be told apart.

    Args:
        lds: the records of lds.csv.
        resampled: from `read_bootstraps`.

    Returns:
        `PAIR_COLUMNS`: names as in config.yaml, LDS in per cent, the difference in percentage
        points with its interval; pairs in the order of their LDS, the best method's first.
    """
    counted = lds["own_readout"].astype(bool) & lds["lds"].notna()
    counted &= lds["lambda_rule"] != "oracle"
    records = []
    for split, own in lds[counted].groupby("split", sort=False):
        ranked = own.sort_values("lds", ascending=False, kind="stable")
        for (_, high), (_, low) in combinations(ranked.iterrows(), 2):
            values = [
                resampled[(one["method"], split, one["readout"], one["lambda_rule"])]
                for one in (high, low)
            ]
            found = paired(*values, high["lds"], low["lds"], confidence)
            place = (high["experiment"], split, high["method"], low["method"])
            records.append((*place, high["lds"], low["lds"], *found))
    return pd.DataFrame(records, columns=PAIR_COLUMNS)


def read_bootstraps(archives: Mapping[str, Mapping[str, np.ndarray]]) -> dict[Key, np.ndarray]:
    """The resampled LDS of rows from their bootstrap.npz, whose keys are split/readout/rule."""
    return {
        (row, *name.split("/")): archive[name]
        for row, archive in archives.items()
        for name in archive
    }


def averaged(
    frame: pd.DataFrame,
    resampled: Mapping[Key, np.ndarray],
    axes: Sequence[str],
    over: Sequence[str],
    bootstrap: dict[str, Any],
) -> pd.DataFrame:
    """The frame with the rows that differ only in `over` replaced by their mean.

    The mean's interval is that of the mean of the rows' paired resamples. Two columns are added:
    `repeats`, how many rows a mean is of, and `repeat_std`, their standard deviation (ddof 1).

    Args:
        frame: records of a study: its axes, `row` and the columns of lds.csv.
        axes: of the study. over: those to average over, e.g. the seed of the noise.
        bootstrap: the section `evaluation.bootstrap`.
    """
    kept = [axis for axis in axes if axis not in over]
    means = []
    for _, records in frame.groupby([*kept, *PLACE], sort=False, dropna=False):
        mean = records.iloc[0].copy()
        mean["repeats"] = len(records)
        mean["repeat_std"] = records["lds"].std(ddof=1)
        if len(records) > 1:
            for column in ("lds", "lambda", "ceiling", "paper_lds"):
                if column in records:
                    mean[column] = records[column].astype(float).mean()
            values = np.mean([resampled[_key(one)] for _, one in records.iterrows()], axis=0)
            spread = uncertainty(values, mean["lds"], bootstrap)
            mean["bootstrap_mean"], mean["bootstrap_std"] = spread.mean, spread.std
            mean["ci_low"], mean["ci_high"] = spread.low, spread.high
        means.append(mean)
    return pd.DataFrame(means).drop(columns=list(over)).reset_index(drop=True)


def differences(
    frame: pd.DataFrame,
    resampled: Mapping[Key, np.ndarray],
    axes: Sequence[str],
    compare: tuple[str, Any],
    over: Sequence[str],
    confidence: float,
) -> pd.DataFrame:
    """The difference between each value of an axis and its baseline, all else equal.

    Args:
        frame: records of a study, before any averaging.
        compare: the axis and its baseline value.
        over: axes to average the differences over, e.g. the seed of the noise: pairs are made of
            rows with the same seed, and both the mean and the spread of their differences are told.

    Returns:
        split, readout, lambda_rule, compared (the axis), value, baseline, the other axes,
        difference, ci_low, ci_high (percentage points), repeats, repeat_std, repeat_low,
        repeat_high (standard deviation, ddof 1, and extremes of the pairs' differences).
    """
    axis, baseline = compare
    kept = [one for one in axes if one != axis and one not in over]
    records = []
    known = frame[frame["lds"].notna()]
    for place, group in known.groupby([*PLACE, *kept], sort=False, dropna=False):
        references = _by(group[group[axis] == baseline], over)
        for value, others in group[group[axis] != baseline].groupby(axis, sort=False):
            pairs = [
                (one, references[which])
                for which, one in _by(others, over).items()
                if which in references
            ]
            if pairs:
                records.append(
                    {
                        **dict(zip([*PLACE, *kept], place, strict=True)),
                        "compared": axis,
                        "value": value,
                        "baseline": baseline,
                        **_difference(pairs, resampled, confidence),
                    }
                )
    columns = [*PLACE, "compared", "value", "baseline", *kept]
    return pd.DataFrame(records, columns=[*columns, *DIFFERENCE_COLUMNS])


DIFFERENCE_COLUMNS = [
    "difference", "ci_low", "ci_high", "repeats", "repeat_std", "repeat_low", "repeat_high",
]  # fmt: skip


def _by(records: pd.DataFrame, over: Sequence[str]) -> dict[tuple, pd.Series]:
    return {tuple(one[axis] for axis in over): one for _, one in records.iterrows()}


def _key(record: pd.Series) -> Key:
    return (record["row"], record["split"], record["readout"], record["lambda_rule"])


def _difference(
    pairs: Sequence[tuple[pd.Series, pd.Series]],
    resampled: Mapping[Key, np.ndarray],
    confidence: float,
) -> dict[str, Any]:
    """The mean over pairs of rows, with the interval of the mean of their paired resamples."""

    def mean(side: int, value: Callable[[pd.Series], Any]) -> Any:
        return np.mean([value(pair[side]) for pair in pairs], axis=0)

    found = paired(
        *(mean(side, lambda one: resampled[_key(one)]) for side in (0, 1)),
        *(mean(side, lambda one: one["lds"]) for side in (0, 1)),
        confidence,
    )
    each = np.array([one["lds"] - other["lds"] for one, other in pairs], dtype=np.float64)
    spread = each.std(ddof=1) if len(each) > 1 else np.nan
    numbers = (*found, len(each), spread, each.min(), each.max())
    return dict(zip(DIFFERENCE_COLUMNS, numbers, strict=True))
