"""Paired differences: against sums done by hand, and narrower than what unpaired ones would be."""

import numpy as np
import pandas as pd
import pytest
from study_data import BOOTSTRAP, bootstraps, evaluation

from attribution.differences import averaged, differences, paired, read_bootstraps
from attribution.errors import StoreError
from attribution.study_tables import study_frame

AXES = ["function", "sharing", "seed"]
VALUES = {  # (function, sharing, seed) to the LDS on validation images
    ("simple", "none", 0): 20.0, ("simple", "none", 1): 22.0,
    ("simple", "all", 0): 31.0, ("simple", "all", 1): 35.0,
    ("square", "none", 0): 25.0, ("square", "none", 1): 24.0,
    ("square", "all", 0): 33.0, ("square", "all", 1): 33.5,
}  # fmt: skip


def study():
    rows = [("-".join(map(str, key)), dict(zip(AXES, key, strict=True))) for key in VALUES]
    evaluations = {
        row: evaluation(lds) for (row, _), lds in zip(rows, VALUES.values(), strict=True)
    }
    return study_frame("noise_sharing", rows, evaluations), bootstraps(evaluations)


def only(frame, **wanted):
    place = {"split": "validation", "readout": "linear", "lambda_rule": "oracle", **wanted}
    for column, value in place.items():
        frame = frame[frame[column] == value]
    (record,) = frame.to_dict("records")
    return record


def test_the_interval_is_that_of_the_resamples_differences():
    a, b = np.array([3.0, 5.0, 4.0, 6.0, 7.0]), np.array([1.0, 4.0, 3.5, 4.0, 4.0])
    found = paired(a, b, 5.5, 3.0, confidence=0.5)
    # The differences are 2, 1, 0.5, 2, 3: their quartiles are 1 and 2, their mean is 1.7; the
    # interval moves by 2.5 - 1.7, so that the mean comes to lie on the difference of all subsets.
    assert found == pytest.approx((2.5, 1.8, 2.8))


def test_what_both_share_cancels():
    random = np.random.default_rng(1)
    shared = random.normal(0, 10, 1000)
    a, b = 30 + shared + random.normal(0, 1, 1000), 28 + shared + random.normal(0, 1, 1000)
    found = paired(a, b, 30, 28)
    assert -0.9 < found.low < 0 < found.high < 5
    assert found.high - found.low < 0.2 * np.subtract(*np.percentile(a, [97.5, 2.5]))


def test_resamples_of_other_settings_refuse_to_be_paired():
    with pytest.raises(StoreError, match="100 and 50 resamples"):
        paired(np.zeros(100), np.zeros(50), 0, 0)


def test_differences_are_means_over_seeds_with_the_spread_of_the_pairs():
    frame, resampled = study()
    table = differences(frame, resampled, AXES, ("sharing", "none"), ["seed"], 0.95)
    assert len(table) == 2 * 2 * 2 * 2  # functions, splits, readouts, rules
    found = only(table, function="simple")
    assert found["value"] == "all"
    assert found["baseline"] == "none"
    assert found["difference"] == pytest.approx((11 + 13) / 2)
    assert (found["repeats"], found["repeat_low"], found["repeat_high"]) == (2, 11, 13)
    assert found["repeat_std"] == pytest.approx(np.sqrt(2))
    place = ("validation", "linear", "oracle")
    each = [
        resampled[(f"simple-all-{seed}", *place)] - resampled[(f"simple-none-{seed}", *place)]
        for seed in (0, 1)
    ]
    mean = np.mean(each, axis=0)
    moved = np.percentile(mean, [2.5, 97.5]) + 12 - mean.mean()
    assert [found["ci_low"], found["ci_high"]] == pytest.approx(list(moved))


def test_methods_are_compared_at_equal_settings():
    frame, resampled = study()
    table = differences(frame, resampled, AXES, ("function", "simple"), ["seed"], 0.95)
    assert only(table, sharing="none")["difference"] == pytest.approx((5 + 2) / 2)
    assert only(table, sharing="all")["difference"] == pytest.approx((2 - 1.5) / 2)
    assert only(table, sharing="all")["value"] == "square"
    assert "seed" not in table


def test_without_a_baseline_there_is_no_difference():
    frame, resampled = study()
    table = differences(frame, resampled, AXES, ("sharing", "batch"), ["seed"], 0.95)
    assert table.empty
    assert "difference" in table


def test_seeds_are_averaged_with_the_interval_of_their_mean():
    frame, resampled = study()
    means = averaged(frame, resampled, AXES, ["seed"], BOOTSTRAP)
    found = only(means, function="square", sharing="all")
    assert found["lds"] == pytest.approx(33.25)
    assert found["repeats"] == 2
    assert found["repeat_std"] == pytest.approx(0.5 / np.sqrt(2))
    place = ("validation", "linear", "oracle")
    mean = (resampled[("square-all-0", *place)] + resampled[("square-all-1", *place)]) / 2
    assert found["bootstrap_std"] == pytest.approx(mean[:64].std())
    assert found["ci_low"] == pytest.approx(np.percentile(mean, 2.5) + 33.25 - mean.mean())
    assert "seed" not in means
    assert len(means) == len(frame) / 2


def test_a_single_row_is_its_own_mean():
    frame, resampled = study()
    frame = frame[frame["seed"] == 0]
    means = averaged(frame, resampled, AXES, ["seed"], BOOTSTRAP)
    assert means["lds"].tolist() == frame["lds"].tolist()
    assert means["ci_low"].tolist() == frame["ci_low"].tolist()
    assert means["repeat_std"].isna().all()


def test_archives_are_read_by_row_and_place():
    values = np.arange(3.0)
    found = read_bootstraps({"trak_10": {"validation/linear/oracle": values}})
    assert list(found) == [("trak_10", "validation", "linear", "oracle")]
    assert pd.Series(found[next(iter(found))]).tolist() == [0, 1, 2]
