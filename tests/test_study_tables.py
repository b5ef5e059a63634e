"""Tables of studies: what stands where, what is bold, what is told of gaps, LaTeX that adds up."""

import re

import numpy as np
import pandas as pd
import pytest
from study_data import curve, evaluation

from attribution.markup import both_forms
from attribution.studies import STUDIES
from attribution.study_tables import (
    axis_value,
    curve_table,
    differences_markdown,
    lay_out,
    study_frame,
    study_latex,
    study_markdown,
)

STUDY = STUDIES["output_functions"]
ROWS = [
    (f"{function}_{count}", {"function": function, "timesteps": count})
    for function in ("simple", "square")
    for count in (10, 100)
]
LDS = dict(zip([row for row, _ in ROWS], (20.0, 22.0, 25.0, 21.0), strict=True))


def frame_of(paper=None, **kinds):
    evaluations = {row: evaluation(lds, **kinds) for row, lds in LDS.items()}
    return study_frame("output_functions", ROWS, evaluations, paper)


def table_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_axes_stand_down_and_across():
    lines = table_of(study_markdown(frame_of(), STUDY))
    assert lines[0] == [
        "Gradients of", "Readout", "λ", "Validation, 10 timesteps", "Validation, 100 timesteps",
        "Generation, 10 timesteps", "Generation, 100 timesteps",
    ]  # fmt: skip
    names = [line[:3] for line in lines[2:]]
    assert names == [
        ["simple (TRAK)", "linear", "best here"], ["", "linear", "held out"],
        ["", "signed square", "best here"], ["", "signed square", "held out"],
        ["square (D-TRAK)", "linear", "best here"], ["", "linear", "held out"],
        ["", "signed square", "best here"], ["", "signed square", "held out"],
        ["Ceiling", "", ""],
    ]  # fmt: skip
    assert lines[2][3:] == [
        "20.0 [17.8, 21.6]", "**22.0** [19.8, 23.6]", "14.0 [11.8, 15.6]", "**15.4** [13.2, 17.0]",
    ]  # fmt: skip
    assert lines[6][3].startswith("**25.0**")
    assert lines[7][3].startswith("**24.0**")  # the best of the held-out lines
    assert lines[8][3].startswith("**29.0**")  # and of the other readout
    assert lines[-1][3:] == ["62.0", "62.0", "48.0", "48.0"]


def test_the_papers_numbers_stand_below_the_linear_readout():
    lines = table_of(study_markdown(frame_of("cifar2"), STUDY))
    places = [number for number, line in enumerate(lines) if line[2] == "in the paper"]
    assert [lines[place][3:] for place in places] == [
        ["10.7", "19.5", "5.1", "12.1"], ["24.8", "30.8", "16.2", "22.6"],
    ]  # fmt: skip
    assert all(lines[place - 1][1:3] == ["linear", "held out"] for place in places)
    assert "its published number" in study_markdown(frame_of("cifar2"), STUDY)
    assert "in the paper" not in study_markdown(frame_of(), STUDY)


def test_one_readout_and_no_lambda_need_no_columns_for_them():
    frame = frame_of(rules=("none",), readouts=("linear",))
    text = study_markdown(frame, STUDY)
    assert table_of(text)[0][:2] == ["Gradients of", "Validation, 10 timesteps"]
    assert "λ is" not in text
    assert "Readout" not in text


def test_a_row_without_an_axis_across_stands_in_all_its_columns():
    rows = [
        ("a", {"method": "TRAK (ensemble)", "models": 2, "timesteps": 10}),
        ("b", {"method": "TRAK (ensemble)", "models": 2, "timesteps": 100}),
        ("c", {"method": "Datamodel", "models": 64, "timesteps": None}),
    ]
    evaluations = {
        "a": evaluation(10.0),
        "b": evaluation(12.0),
        "c": evaluation(5.0, rules=("none",), readouts=("linear",)),
    }
    study = STUDIES["retraining_based"]
    frame = study_frame(study.name, rows, evaluations, "cifar2")
    lines = table_of(study_markdown(frame, study))
    assert lines[0][:4] == ["Method", "Retrained models", "Readout", "λ"]
    pool = next(line for line in lines if line[0] == "Datamodel")
    assert pool[4:] == ["5.0 [2.8, 6.6]"] * 2 + ["3.5 [1.3, 5.1]"] * 2
    paper = next(line for line in lines if line[3] == "in the paper")
    assert paper[4:] == ["13.2", "27.3", "7.0", "19.2"]
    assert lines[lines.index(pool) + 1][4:] == ["6.0", "6.0", "4.1", "4.1"]


def test_rows_that_could_not_run_say_why():
    rows = [
        ("clip", {"label": "CLIP", "timesteps": None}),
        ("journey", {"label": "Journey TRAK", "timesteps": 10}),
        ("trak", {"label": "TRAK", "timesteps": 10}),
    ]
    evaluations = {"journey": evaluation(9.0, splits=["generation"]), "trak": evaluation(20.0)}
    missing = {
        "clip": {"validation": "needs weights", "generation": "needs weights"},
        "journey": {"validation": "has no path"},
        "trak": {"validation": "is computed by `snakemake studies`"},
    }
    frame = study_frame("methods", rows, evaluations, missing=missing)
    text = study_markdown(frame, STUDIES["methods"])
    lines = table_of(text)
    assert ["CLIP", "linear", "–", "–", "–"] in lines
    journey = next(line for line in lines if line[0] == "Journey TRAK")
    assert journey[1:4] == ["linear", "best here", "–"]
    assert "Not run: CLIP (needs weights). Not run: Journey TRAK (has no path)." in text
    assert "computed by" not in text
    assert "CLIP & linear & -- & -- &" in study_latex(frame, STUDIES["methods"])


def test_a_rows_own_readout_is_shown_beside_the_linear_one():
    rows = [("das", {"label": "DAS", "timesteps": 10})]
    readouts = ("linear", "square", "signed_square", "top_fraction")
    evaluations = {"das": evaluation(20.0, readouts=readouts)}
    frame = study_frame("methods", rows, evaluations, methods={"das": {"readout": "square"}})
    shown = [line.readout for line in lay_out(frame, ("label",), ("timesteps",)).lines]
    assert list(dict.fromkeys(shown)) == ["linear", "square", "signed_square"]
    assert set(frame.loc[frame["own_readout"], "readout"]) == {"square"}


def test_rows_in_one_cell_are_told_apart():
    rows = [
        ("one", {"label": "TRAK", "timesteps": 10}),
        ("two", {"label": "TRAK", "timesteps": 10}),
    ]
    frame = study_frame("methods", rows, {"one": evaluation(10.0), "two": evaluation(11.0)})
    lines = table_of(study_markdown(frame, STUDIES["methods"]))
    assert lines[0][:2] == ["Method", "Row"]
    assert [line[:2] for line in lines if line[1] in ("one", "two")] == [
        ["TRAK", "one"], ["", "two"],
    ]  # fmt: skip


@pytest.mark.parametrize("paper", [None, "cifar2"])
def test_latex_lines_fill_the_columns(paper):
    text = study_latex(frame_of(paper), STUDY)
    assert r"\begin{tabular}{lllrrrr}" in text
    assert r"\textbf{25.0} {\scriptsize [22.8, 26.6]}" in text
    assert r"& $\lambda$ & 10 timesteps & 100 timesteps" in text
    assert r"\cmidrule(lr){4-5} \cmidrule(lr){6-7}" in text
    assert r"\multicolumn{2}{c}{62.0}" in text
    assert ("in the paper" in text) == bool(paper)
    assert text.count("{") == text.count("}")
    for line in text.splitlines():
        if line.endswith(r"\\"):
            spanned = sum(int(width) - 1 for width in re.findall(r"multicolumn\{(\d)\}", line))
            assert line.count(" & ") + spanned == 6


def test_the_caption_says_what_the_numbers_rest_on():
    for text in (study_markdown(frame_of(), STUDY), study_latex(frame_of(), STUDY)):
        for part in (STUDY.title, "Table 1", "32 training subsets", "2 seed(s)", "200 validation"):
            assert part in text


def test_values_are_said_in_words():
    assert axis_value("timesteps", 1, named=True) == "1 timestep"
    assert axis_value("timesteps", np.int64(100), named=True) == "100 timesteps"
    assert axis_value("dim", 8192, named=True) == "8,192 dimensions"
    assert axis_value("checkpoint", 3, named=True) == "checkpoint 3"
    assert axis_value("function", "linf_norm") == "∞-norm"
    assert axis_value("output", "square") == "square"
    assert axis_value("eta", 0.5) == "0.5"
    assert axis_value("timesteps", None) == axis_value("timesteps", pd.NA) == "–"
    assert axis_value("mine", "anything") == "anything"


def test_differences_are_a_table_for_each_axis_compared():
    record = {
        "split": "validation", "readout": "linear", "lambda_rule": "heldout", "compared": "sharing",
        "value": "all", "baseline": "none", "function": "simple", "difference": 10.0, "ci_low": 8.0,
        "ci_high": 12.0, "repeats": 3, "repeat_std": 1.0, "repeat_low": 9.0, "repeat_high": 11.0,
    }  # fmt: skip
    other = {**record, "compared": "function", "value": "square", "baseline": "simple"}
    other |= {"function": None, "sharing": "all", "ci_low": -1.0}
    oracle = {**record, "lambda_rule": "oracle"}
    text = differences_markdown(pd.DataFrame([record, other, oracle]), ["function", "sharing"])
    lines = table_of(text)
    assert lines[0] == ["One noise for", "Gradients of", "Validation"]
    assert lines[2] == [
        "all images and timesteps − nobody (independent)", "simple (TRAK)",
        "**+10.0** [+8.0, +12.0] (+9.0 to +11.0)",
    ]  # fmt: skip
    assert lines[5][2] == "+10.0 [-1.0, +12.0] (+9.0 to +11.0)"  # its interval holds zero
    assert len(lines) == 6
    assert differences_markdown(pd.DataFrame([oracle]), ["function"]) == ""


def test_plain_tables_have_two_forms():
    markdown, latex = both_forms("Title", ["A_b", "c"], [["x|y", "1"], ["50 %", "2"]], 1, "Note.")
    assert r"| x\|y | 1 |" in markdown
    assert "| --- | ---: |" in markdown
    assert r"50 \% & 2 \\" in latex
    assert r"\begin{tabular}{lr}" in latex
    assert r"\caption{Title Note.}" in latex


def test_the_lambda_table_says_how_far_one_may_go():
    frame = curve(30.0).assign(row="trak_10", label="TRAK", timesteps=10)
    lines = table_of(curve_table(frame, "Title")[0])
    grid = np.logspace(-5, 3, 25)
    values = np.exp(-((np.log10(grid) + 1) ** 2) / 12)
    good = grid[values >= 0.95]
    assert lines[2][:4] == ["TRAK", "10", "Validation", "30.0"]
    assert [float(cell) for cell in lines[2][4:6]] == pytest.approx([0.1, 0.1])
    low, high = map(float, lines[2][6].split(" to "))
    assert (low, high) == pytest.approx((good[0], good[-1]), rel=1e-4)
