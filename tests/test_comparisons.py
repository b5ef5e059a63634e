"""Every two methods compared on the same resamples: against sums done by hand."""

import numpy as np
import pandas as pd
import pytest
from reporting_data import lds_frame, pair_frame, whole_frame

from attribution.comparisons import apart, comparable, comparison_table
from attribution.differences import PAIR_COLUMNS, compare_methods


def test_each_method_counts_once_a_split_under_its_own_readout_and_held_out_lambda():
    frame = comparable(whole_frame())
    assert not frame.duplicated(["method", "split"]).any()
    das = frame[frame["method"] == "das_10"]
    assert set(das["readout"]) == {"square"}
    assert set(das["name"]) == {"DAS, squared, 10 timesteps"}
    assert set(frame["lambda_rule"]) == {"heldout", "none"}
    assert frame["lds"].notna().all()


def test_differences_are_those_of_the_paired_resamples():
    """Three methods, two resamples of 50 %: quartiles of two values lie a quarter in."""
    base = lds_frame()
    base = base[(base["split"] == "validation") & (base["lambda_rule"] != "oracle")]
    frame = base.iloc[:3].assign(
        method=["a", "b", "c"], lds=[5.0, 9.0, 6.0], readout="linear", lambda_rule="none"
    )
    values = {"a": [4.0, 8.0], "b": [10.0, 12.0], "c": [7.0, 5.0]}
    resampled = {
        (name, "validation", "linear", "none"): np.array(each) for name, each in values.items()
    }
    found = compare_methods(frame, resampled, 0.5)
    assert list(found.columns) == PAIR_COLUMNS
    assert list(zip(found["higher"], found["lower"], strict=True)) == [
        ("b", "c"), ("b", "a"), ("c", "a")
    ]  # fmt: skip
    # b - c: 3 and 7, mean 5, moved to 3: 1 and 5, quartiles 2 and 4. b - a: 6 and 4 about 4.
    # c - a: 3 and -3 about 1: -2 and 4, quartiles -0.5 and 2.5.
    numbers = found[["difference", "ci_low", "ci_high"]].to_numpy()
    np.testing.assert_allclose(numbers, [[3, 2, 4], [4, 3.5, 4.5], [1, -0.5, 2.5]])
    assert apart(found).tolist() == [True, True, False]


def test_the_table_says_best_behind_and_open():
    frame = whole_frame()
    pairs = pair_frame(frame, spread=0.3)
    markdown, latex = comparison_table(frame, pairs)
    lines = [line.split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    cells = {line[0].removeprefix("| "): [one.strip(" |") for one in line[1:]] for line in lines}
    assert cells["D-TRAK, 100 timesteps"][:2] == ["31.3", "best"]
    assert cells["DAS, squared, 10 timesteps"][2:] == ["30.0", "best"]
    own = pairs[pairs["split"] == "validation"].set_index(["higher", "lower"])
    one = own.loc[("dtrak_100", "dtrak_10")]
    expected = rf"{one['difference']:.1f} \[{one['ci_low']:.1f}, {one['ci_high']:.1f}\]"
    assert cells["D-TRAK, 10 timesteps"][1] == expected
    journey = [line for name, line in cells.items() if name.startswith("Journey TRAK")]
    assert journey[0][:2] == ["–", "–"]
    assert "open" not in markdown.split("\n\n")[1]
    wide, _ = comparison_table(frame, pair_frame(frame, spread=60))
    assert wide.split("\n\n")[1].count(", open") > 5
    assert latex.count(r"\toprule") == 1


def test_one_method_has_nothing_to_be_compared_with():
    frame = lds_frame()
    frame = frame[frame["method"] == "random"]
    pairs = compare_methods(frame, {}, 0.95)
    assert pairs.empty
    assert list(pairs.columns) == PAIR_COLUMNS
    markdown, _ = comparison_table(frame, pairs)
    assert "| Random | 0.2 | best | " in markdown


def test_a_table_read_back_is_the_same(tmp_path):
    frame = whole_frame()
    pairs = pair_frame(frame)
    for name, one in (("lds", frame), ("pairs", pairs)):
        one.to_csv(tmp_path / f"{name}.csv", index=False)
    again = [pd.read_csv(tmp_path / f"{name}.csv") for name in ("lds", "pairs")]
    assert comparison_table(*again) == comparison_table(frame, pairs)


def test_a_pair_without_its_resamples_is_refused():
    with pytest.raises(KeyError):
        compare_methods(lds_frame(), {}, 0.95)
