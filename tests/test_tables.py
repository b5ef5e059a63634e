"""The LDS table in its three forms: what is bold, what is shown, and LaTeX with any name."""

import io
import re

import pandas as pd
import pytest
from reporting_data import LATER, NO_PATH, lds_frame, whole_frame

from attribution.markup import latex_text
from attribution.readouts import READOUTS
from attribution.tables import (
    READOUT_NAMES,
    headline,
    layout,
    lds_latex,
    lds_markdown,
    missing,
    row_names,
    terminal_table,
)


def markdown_rows(text: str) -> dict[str, list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_rows_follow_the_frame_and_columns_are_splits_by_timesteps():
    grid = layout(lds_frame())
    assert grid.columns == [
        ("validation", 10), ("validation", 100), ("generation", 10), ("generation", 100)
    ]  # fmt: skip
    assert [row.title for row in grid.rows] == [
        "Raw pixel (cosine)", "Gradient (dot prod.)", "TRAK, λ best here", "TRAK, λ held out",
        "D-TRAK, λ best here", "D-TRAK, λ held out", "Random",
    ]  # fmt: skip


def test_markdown_shows_points_with_intervals_and_the_best_in_bold():
    rows = markdown_rows(lds_markdown(lds_frame()))
    assert rows["D-TRAK, λ best here"][1] == "**31.6** [30.0, 33.2]"
    assert rows["D-TRAK, λ held out"][1] == "**31.3** [29.7, 32.9]"
    assert rows["TRAK, λ best here"][0] == "10.7 [9.1, 12.3]"
    # Without timesteps there is one value a split, which stands in both of its columns.
    assert rows["Raw pixel (cosine)"] == ["7.9 [6.3, 9.5]"] * 2 + ["5.4 [3.8, 7.0]"] * 2
    assert rows["Ceiling"] == ["62.0", "62.0", "48.0", "48.0"]


def test_a_method_without_lambda_can_be_best_of_both():
    frame = lds_frame()
    frame.loc[frame["method"] == "raw_pixel_cosine", "lds"] = 99.0
    text = lds_markdown(frame)
    assert text.count("**99.0**") == 4
    assert not re.search(r"^\| D-TRAK.*\*\*", text, re.MULTILINE)


def test_equal_best_values_are_both_bold():
    frame = lds_frame()
    frame.loc[(frame["method"] == "trak_10") & (frame["split"] == "validation"), "lds"] = 24.6
    rows = markdown_rows(lds_markdown(frame))
    assert rows["TRAK, λ best here"][0].startswith("**24.6**")
    assert rows["D-TRAK, λ best here"][0].startswith("**24.6**")


@pytest.mark.parametrize("render", [lds_markdown, lds_latex, terminal_table])
def test_every_form_says_what_it_rests_on(render):
    text = render(lds_frame())
    for part in ("32 training subsets", "2 seed(s)", "200 validation", "150 generation", "1,000"):
        assert part in text


@pytest.mark.parametrize("render", [lds_markdown, lds_latex, terminal_table])
def test_without_a_ceiling_there_is_no_ceiling_line(render):
    assert "Ceiling" in render(lds_frame())
    assert "Ceiling" not in render(lds_frame().assign(ceiling=float("nan")))


def test_published_values_stand_below_their_method():
    frame = lds_frame()
    oracle = (frame["method"] == "dtrak_10") & (frame["lambda_rule"] == "oracle")
    frame.loc[oracle & (frame["split"] == "validation"), "paper_lds"] = 24.91
    rows = markdown_rows(lds_markdown(frame))
    assert list(rows).index("D-TRAK, in the paper") == list(rows).index("D-TRAK, λ held out") + 1
    assert rows["D-TRAK, in the paper"] == ["24.9", "–", "–", "–"]


def test_methods_that_would_share_a_cell_are_told_apart():
    frame = lds_frame()
    frame["label"] = frame["label"].replace("D-TRAK", "TRAK")
    names = set(row_names(frame))
    assert {"TRAK (trak_10)", "TRAK (dtrak_10)", "TRAK (dtrak_100)"} <= names
    assert "Gradient (dot prod.)" in names
    assert len(layout(frame).rows) == 3 + 4 * 2


def test_without_timesteps_a_column_is_a_split():
    frame = lds_frame()
    frame = frame[frame["timesteps"].isna()]
    assert layout(frame).columns == [("validation", None), ("generation", None)]
    assert "timesteps" not in lds_markdown(frame)
    assert "multicolumn" not in lds_latex(frame)


def test_latex_has_means_with_deviations_and_spans():
    text = lds_latex(lds_frame())
    assert r"\textbf{31.48} $\pm$ 0.80" in text
    assert r"Raw pixel (cosine) & \multicolumn{2}{c}{7.78 $\pm$ 0.80}" in text
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in text
    assert r"TRAK, $\lambda$ held out" in text
    assert text.rindex(r"\midrule") < text.rindex("Ceiling &") < text.index(r"\bottomrule")
    for line in text.splitlines():
        if line.endswith(r"\\"):  # every line fills the five columns
            spanned = sum(int(width) - 1 for width in re.findall(r"multicolumn\{(\d)\}", line))
            assert line.count(" & ") + spanned == 4


def test_latex_escapes_what_it_would_take_for_commands():
    assert latex_text(r"50% & a_b #1 $x {y} \z ~ ^") == (
        r"50\% \& a\_b \#1 \$x \{y\} \textbackslash{}z \textasciitilde{} \textasciicircum{}"
    )
    frame = lds_frame()
    frame["label"] = frame["label"].replace("TRAK", r"100% mine_&_yours")
    frame["experiment"] = "my_run"
    text = lds_latex(frame)
    assert r"100\% mine\_\&\_yours, $\lambda$ best here" in text
    assert r"experiment my\_run" in text


def test_markdown_escapes_names():
    frame = lds_frame()
    frame["label"] = frame["label"].replace("TRAK", "a|b*c")
    assert r"| a\|b\*c, λ held out |" in lds_markdown(frame)


def test_terminal_table_is_aligned_and_marks_the_best():
    lines = terminal_table(lds_frame()).splitlines()
    table = lines[2:-2]
    assert len({line.index("±") for line in table}) == 1
    starred = [line for line in table if "*" in line]
    assert [line.split(",")[0] for line in starred] == ["D-TRAK", "D-TRAK"]
    assert all(line.count("*") == 4 for line in starred)
    assert max(map(len, table)) <= 80


def read_back(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as the next job reads it from lds.csv."""
    return pd.read_csv(io.StringIO(frame.to_csv(index=False)))


def test_the_headline_is_each_method_under_its_own_readout_where_it_has_a_number():
    whole = whole_frame()
    for frame in (whole, read_back(whole)):
        lead = headline(frame)
        assert lead["lds"].notna().all()
        readouts = {(row.method, row.readout) for row in lead.itertuples()}
        assert {readout for method, readout in readouts if method != "das_10"} == {"linear"}
        assert {readout for method, readout in readouts if method == "das_10"} == {"square"}
        assert set(lead["method"]) == set(whole["method"]) - {"datamodel"}
        assert lead.index.tolist() == list(range(len(lead)))


def test_a_table_that_knows_no_readouts_is_all_headline_and_misses_nothing():
    frame = lds_frame().drop(columns=["own_readout", "note", "readout"])
    pd.testing.assert_frame_equal(headline(frame), frame)
    assert missing(frame) == []
    assert "Readouts" not in lds_markdown(frame)


def test_what_is_missing_is_said_once_a_method_with_its_split_where_it_is_one():
    wanted = [
        f"Journey TRAK, 10 timesteps, validation split: {NO_PATH}.",
        f"Datamodel: {LATER}.",
    ]
    assert missing(whole_frame()) == wanted
    assert missing(read_back(whole_frame())) == wanted
    assert missing(lds_frame()) == []


def test_two_reasons_of_a_method_are_both_said():
    frame = whole_frame()
    noted = (frame["method"] == "datamodel") & (frame["split"] == "generation")
    frame.loc[noted, "note"] = "has no pool"
    assert missing(frame)[1:] == [
        f"Datamodel, validation split: {LATER}.",
        "Datamodel, generation split: has no pool.",
    ]


@pytest.mark.parametrize("render", [lds_markdown, lds_latex, terminal_table])
def test_every_form_says_what_is_missing(render):
    text = re.sub(r"\\(.)", r"\1", render(read_back(whole_frame())))
    assert "Journey TRAK, 10 timesteps, validation split: validation images have no" in text
    assert "Datamodel: computed by the studies" in text
    assert "nan" not in text.lower()
    assert "Without a number" not in render(lds_frame())


def test_a_method_of_another_readout_is_named_after_it_and_can_be_best():
    rows = markdown_rows(lds_markdown(whole_frame()).split("### Readouts")[0])
    assert rows["DAS, squared, λ best here"][0] == "**33.0** [31.4, 34.6]"
    assert rows["DAS, squared, λ held out"][0] == "**30.0** [28.4, 31.6]"
    assert rows["TRAK, λ best here"][0] == "10.7 [9.1, 12.3]"  # its linear value
    assert rows["Journey TRAK, λ held out"] == ["–", "–", "4.2 [2.6, 5.8]", "–"]
    assert not any("TRAK, squared" in name for name in rows)
    assert not any(name.startswith("Datamodel") for name in rows)


def test_the_readouts_of_every_method_stand_side_by_side_with_its_best_in_bold():
    text = lds_markdown(read_back(whole_frame()))
    before, after = text.split("### Readouts")
    assert "squared" in before and "signed square" not in after
    rows = markdown_rows(after)
    assert rows["Method"] == [
        "Validation, linear", "Validation, squared", "Generation, linear", "Generation, squared"
    ]  # fmt: skip
    # Held out, where there is a lambda.
    assert rows["TRAK, 10 timesteps"] == ["10.2", "**15.2**", "5.5", "**10.5**"]
    assert rows["D-TRAK, 10 timesteps"] == ["**24.4**", "19.4", "**15.5**", "10.5"]
    assert rows["D-TRAK, 100 timesteps"] == ["**31.3**", "–", "**19.2**", "–"]
    assert rows["DAS, 10 timesteps"] == ["2.0", "**30.0**", "2.0", "**30.0**"]
    assert rows["Random"] == ["**0.2**", "-4.8", "**-0.4**", "-5.4"]
    assert rows["Journey TRAK, 10 timesteps"] == ["–", "–", "**4.2**", "–"]
    assert "Datamodel" not in rows


def test_with_one_readout_there_is_no_table_of_readouts():
    assert "Readouts" not in lds_markdown(lds_frame())


def test_every_readout_has_a_name():
    assert set(READOUT_NAMES) == set(READOUTS)


def test_latex_with_notes_stays_one_caption_of_plain_text():
    text = lds_latex(whole_frame())
    caption = next(line for line in text.splitlines() if line.startswith(r"  \caption{"))
    assert caption.endswith("}")
    assert caption.count("{") == caption.count("}")
    assert r"Without a number: Journey TRAK, 10 timesteps, validation split" in caption
    assert r"DAS, squared, $\lambda$ held out" in text
    frame = whole_frame()
    frame.loc[frame["method"] == "datamodel", "note"] = "needs a_b & 50% of #1"
    assert r"needs a\_b \& 50\% of \#1." in lds_latex(frame)
    columns = len(layout(headline(frame)).columns)
    for line in text.splitlines():
        if line.endswith(r"\\"):
            spanned = sum(int(width) - 1 for width in re.findall(r"multicolumn\{(\d)\}", line))
            assert line.count(" & ") + spanned == columns


def test_the_size_of_the_benchmark_is_told_though_rows_are_missing():
    for render in (lds_markdown, lds_latex, terminal_table):
        assert "32 training subsets, 2 seed(s)" in render(read_back(whole_frame()))
