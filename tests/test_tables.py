"""The LDS table in its three forms: what is bold, what is shown, and LaTeX with any name."""

import re

import pytest
from reporting_data import lds_frame

from attribution.tables import (
    latex_text,
    layout,
    lds_latex,
    lds_markdown,
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
