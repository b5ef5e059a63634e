"""The LDS table as Markdown, LaTeX and plain text: methods down, splits and timesteps across.

The layout is the paper's (Tables 2, 3 and 6). All three are views of `tables/lds.csv`; they compute
nothing. Where a method has a lambda, it has two rows: lambda chosen on the very subsets that are
reported (oracle, as the paper does), and with what that adds taken off (held out).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from attribution.markup import (
    latex_line,
    latex_table,
    latex_text,
    markdown_table,
    markdown_text,
    spanning,
)

# (split, timesteps); None where no method of the table has timesteps.
Column = tuple[str, int | None]

ORACLE, HELDOUT, NO_LAMBDA, PUBLISHED = "oracle", "heldout", "none", "published"
RULE_NOTES = {
    ORACLE: "λ best here",
    HELDOUT: "λ held out",
    NO_LAMBDA: "",
    PUBLISHED: "in the paper",
}
SPLIT_NAMES = {"validation": "Validation", "generation": "Generation"}
BLANK = "–"
LINEAR = "linear"
READOUT_NAMES = {
    LINEAR: "linear",
    "square": "squared",
    "signed_square": "signed square",
    "top_fraction": "top fraction",
}
CEILING_NOTE = "Ceiling: what a perfect prediction would reach, given the noise of training."


@dataclass(frozen=True)
class Row:
    """One line of a table: a method under one lambda rule, and its records of lds.csv by column."""

    name: str
    rule: str
    cells: dict[Column, pd.Series]

    @property
    def title(self) -> str:
        """The name with what the lambda rule is, e.g. `TRAK, λ held out`."""
        note = RULE_NOTES[self.rule]
        return f"{self.name}, {note}" if note else self.name


@dataclass(frozen=True)
class Grid:
    """The rows and columns of a table, and the cells (row, column) that are a column's best."""

    columns: list[Column]
    rows: list[Row]
    best: set[tuple[int, Column]]

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(split for split, _ in self.columns))

    def of_split(self, split: str) -> list[Column]:
        """The columns of one split."""
        return [column for column in self.columns if column[0] == split]


def split_name(split: str) -> str:
    """What a person calls a split."""
    return SPLIT_NAMES.get(split, split.capitalize())


def split_images(split: str) -> str:
    """What a person calls the images of a split, e.g. `Generated images`."""
    return "Generated images" if split == "generation" else f"{split_name(split)} images"


def row_names(frame: pd.DataFrame) -> pd.Series:
    """A display name for every record of a table; methods that would share a cell are told apart.

    Methods of one label that differ in their timesteps share a name (they stand in one row, in
    different columns). Where two methods agree in label and timesteps, e.g. in an ablation, all of
    that label carry their own name of config.yaml too.
    """
    methods = frame.drop_duplicates("method")
    clashes = methods[methods.duplicated(["label", "timesteps"], keep=False)]["label"]
    clashing = frame["label"].isin(clashes)
    names = frame["label"].where(~clashing, frame["label"] + " (" + frame["method"] + ")")
    if "readout" in frame:
        note = ", " + frame["readout"].map(READOUT_NAMES).fillna(frame["readout"])
        names = names.where(frame["readout"] == LINEAR, names + note)
    return names


def headline(frame: pd.DataFrame) -> pd.DataFrame:
    """The records that tables and figures lead with: each method under its own readout.

    Left out are the other readouts, and the rows without a number.
    """
    if "own_readout" not in frame:
        return frame
    return frame[frame["own_readout"].astype(bool) & frame["lds"].notna()].reset_index(drop=True)


def missing(frame: pd.DataFrame) -> list[str]:
    """Which methods have no number on some split, a sentence for each reason."""
    if "note" not in frame:
        return []
    rows = frame[frame["note"].notna()]
    told: dict[tuple[str, str], list[str]] = {}
    for _, row in rows.iterrows():
        told.setdefault((row["method"], row["note"]), []).append(row["split"])
    found: dict[str, list[str]] = {}
    for (method, note), splits in told.items():
        record = rows[rows["method"] == method].iloc[0]
        count = f", {int(record['timesteps'])} timesteps" if pd.notna(record["timesteps"]) else ""
        place = "" if len(splits) > 1 else f", {split_name(splits[0]).lower()} split"
        found.setdefault(note, []).append(f"{record['label']}{count}{place}")
    return [f"{'; '.join(names)}: {note}." for note, names in found.items()]


def layout(frame: pd.DataFrame) -> Grid:
    """Arrange the records of lds.csv: rows in their order, columns by split and timesteps."""
    counts: list[int | None] = [
        int(count) for count in sorted(frame["timesteps"].dropna().unique())
    ]
    splits = list(dict.fromkeys(frame["split"]))
    splits.sort(key=lambda split: list(SPLIT_NAMES).index(split) if split in SPLIT_NAMES else 99)
    columns = [(split, count) for split in splits for count in counts or [None]]
    rows: list[Row] = []
    for name, records in frame.assign(name=row_names(frame)).groupby("name", sort=False):
        for rule in (NO_LAMBDA, ORACLE, HELDOUT):
            cells = _cells(records[records["lambda_rule"] == rule], columns)
            if cells:
                rows.append(Row(str(name), rule, cells))
        paper = records[records["paper_lds"].notna() & (records["lambda_rule"] != HELDOUT)]
        if len(paper):
            rows.append(Row(str(name), PUBLISHED, _cells(paper, columns)))
    return Grid(columns, rows, _best(rows, columns))


def _cells(records: pd.DataFrame, columns: Sequence[Column]) -> dict[Column, pd.Series]:
    """Each record under its column; one without timesteps under every column of its split."""
    return {
        column: record
        for _, record in records.iterrows()
        for column in columns
        if column[0] == record["split"]
        and (pd.isna(record["timesteps"]) or record["timesteps"] == column[1])
    }


def _best(rows: Sequence[Row], columns: Sequence[Column]) -> set[tuple[int, Column]]:
    """The highest LDS of each column, once among the oracle rows and once among the held-out ones.

    Rows without a lambda compete in both; equal values share the honour.
    """
    best = set()
    for column in columns:
        for rule in (ORACLE, HELDOUT):
            values = {
                index: row.cells[column]["lds"]
                for index, row in enumerate(rows)
                if row.rule in (rule, NO_LAMBDA) and column in row.cells
            }
            if values:
                top = max(values.values())
                best |= {(index, column) for index, value in values.items() if value == top}
    return best


def ceilings(frame: pd.DataFrame) -> dict[str, float]:
    """The ceiling of each split that has one, in per cent."""
    known = frame.dropna(subset=["ceiling"])
    return {
        str(split): float(value)
        for split, value in known.groupby("split")["ceiling"].first().items()
    }


def size_sentence(frame: pd.DataFrame) -> str:
    """What the numbers rest on: subsets, seeds, queries and training images, in one sentence."""
    queries = [
        f"{_span(records['queries'])} {split} queries"
        for split, records in frame.groupby("split", sort=False)
    ]
    return (
        f"{_span(frame['subsets'])} training subsets, {_span(frame['seeds'])} seed(s) "
        f"a subset, {' and '.join(queries)}, {_span(frame['train_size'])} training images."
    )


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def lambda_notes(rules: set[str]) -> list[str]:
    """What a reader must know about the lambda rules of a table, a sentence each."""
    notes = []
    if ORACLE in rules:
        notes.append(
            "“λ best here”: λ is the best one on the reported subsets "
            "(the paper's way, a little too optimistic)."
        )
    if HELDOUT in rules:
        notes.append(
            "“λ held out”: that less what it owes to this choice, measured by choosing λ on half "
            "of the subsets and looking at the other half."
        )
    return notes


def _notes(frame: pd.DataFrame) -> list[str]:
    """What a reader must know about the rows that this table has."""
    notes = lambda_notes(set(frame["lambda_rule"]))
    if frame["timesteps"].isna().any() and frame["timesteps"].notna().any():
        notes.append("A method without timesteps has one value a split.")
    if frame["ceiling"].notna().any():
        notes.append(CEILING_NOTE)
    return notes


def lds_markdown(frame: pd.DataFrame) -> str:
    """The table as Markdown: LDS in per cent with its interval over resampled subsets.

    Args:
        frame: the records of lds.csv, at least one.
    """
    whole, frame = frame, headline(frame)
    grid = layout(frame)
    several = len(grid.columns) > len(grid.splits)
    heads = [_column_title(column) if several else split_name(column[0]) for column in grid.columns]
    lines = []
    for index, row in enumerate(grid.rows):
        cells = [
            _markdown_cell(row, column, (index, column) in grid.best) for column in grid.columns
        ]
        lines.append([markdown_text(row.title), *cells])
    known = ceilings(frame)
    if known:
        lines.append(["Ceiling", *[_number(known.get(split)) for split, _ in grid.columns]])
    caption = [
        f"Linear datamodeling score (LDS) of experiment `{frame['experiment'].iloc[0]}`, "
        "in per cent, with its interval over resampled subsets (95 % unless set otherwise). "
        "**Bold**: the best of a column, once among the rows with the best λ here and once among "
        "those with a held-out λ; methods without λ compete in both.",
        *_notes(frame),
        size_sentence(frame),
    ]
    table = markdown_table(["Method", *heads], lines, 1)
    parts = [table, " ".join(caption), *_missing_markdown(whole), *_readouts_markdown(whole)]
    return "\n\n".join(parts) + "\n"


def _missing_markdown(frame: pd.DataFrame) -> list[str]:
    lines = missing(frame)
    if not lines:
        return []
    return ["Without a number:", "\n".join(f"- {markdown_text(line)}" for line in lines)]


def _readouts_markdown(frame: pd.DataFrame) -> list[str]:
    """The readouts of every method side by side, as paragraphs; none where there is only one."""
    frame = frame[frame["lds"].notna()] if "readout" in frame else frame.iloc[:0]
    readouts = list(dict.fromkeys(frame.get("readout", [])))
    if len(readouts) < 2:
        return []
    frame = frame[frame["lambda_rule"] != ORACLE]
    splits = [split for split in SPLIT_NAMES if split in set(frame["split"])]
    heads = [
        f"{split_name(split)}, {READOUT_NAMES[readout]}" for split in splits for readout in readouts
    ]
    lines = []
    for _, records in frame.groupby("method", sort=False):
        first = records.iloc[0]
        count = f", {int(first['timesteps'])} timesteps" if pd.notna(first["timesteps"]) else ""
        cells = []
        for split in splits:
            values = records[records["split"] == split].set_index("readout")["lds"]
            top = values.max()
            for readout in readouts:
                text = _number(values.get(readout))
                cells.append(f"**{text}**" if values.get(readout) == top else text)
        lines.append([markdown_text(f"{first['label']}{count}"), *cells])
    table = markdown_table(["Method", *heads], lines, 1)
    caption = (
        "Readouts: what becomes of a method's scores before they are added up over a subset. LDS "
        "in per cent, λ held out where there is one. **Bold**: the best readout of a method."
    )
    return ["### Readouts", table, caption]


def _column_title(column: Column) -> str:
    split, count = column
    return split_name(split) if count is None else f"{split_name(split)}, {count} timesteps"


def _markdown_cell(row: Row, column: Column, best: bool) -> str:
    if column not in row.cells:
        return BLANK
    record = row.cells[column]
    if row.rule == PUBLISHED:
        return _number(record["paper_lds"])
    value = f"**{record['lds']:.1f}**" if best else f"{record['lds']:.1f}"
    return value + (f" {interval(record)}" if pd.notna(record["ci_low"]) else "")


def interval(record: pd.Series) -> str:
    """The interval of a record, e.g. `[27.1, 30.2]`."""
    return f"[{record['ci_low']:.1f}, {record['ci_high']:.1f}]"


def _number(value: float | None, digits: int = 1) -> str:
    return BLANK if value is None or pd.isna(value) else f"{value:.{digits}f}"


def lds_latex(frame: pd.DataFrame) -> str:
    """The table as LaTeX (package booktabs), with the paper's mean ± std over resampled subsets.

    Args:
        frame: the records of lds.csv, at least one.
    """
    whole, frame = frame, headline(frame)
    grid = layout(frame)
    body = []
    for index, row in enumerate(grid.rows):
        bold = {column for position, column in grid.best if position == index}
        body.append(latex_line([latex_text(row.title), *_latex_cells(grid, row, bold)]))
    known = ceilings(frame)
    if known:
        cells = [
            spanning(len(grid.of_split(split)), latex_text(_number(known.get(split), 2)))
            for split in grid.splits
        ]
        body += [r"\midrule", latex_line(["Ceiling", *cells])]
    return latex_table(
        _latex_caption(frame, missing(whole)),
        "l" + "r" * len(grid.columns),
        _latex_head(grid),
        body,
    )


def _latex_head(grid: Grid) -> list[str]:
    if len(grid.columns) == len(grid.splits):
        return [latex_line(["Method", *map(split_name, grid.splits)])]
    spans, rules, start = [], [], 2
    for split in grid.splits:
        width = len(grid.of_split(split))
        spans.append(spanning(width, split_name(split)))
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    counts = [str(count) for _, count in grid.columns]
    return [
        latex_line(["Method", *spans]),
        " ".join(rules),
        latex_line(["Timesteps", *counts]),
    ]


def _latex_cells(grid: Grid, row: Row, bold: set[Column]) -> list[str]:
    """The row's cells; a value that holds for all timesteps of a split spans its columns."""
    cells = []
    for split in grid.splits:
        columns = grid.of_split(split)
        first = row.cells.get(columns[0])
        if first is not None and pd.isna(first["timesteps"]):
            cells.append(spanning(len(columns), _latex_value(row, columns[0], columns[0] in bold)))
        else:
            cells += [_latex_value(row, column, column in bold) for column in columns]
    return cells


def _latex_value(row: Row, column: Column, bold: bool) -> str:
    if column not in row.cells:
        return latex_text(BLANK)
    record = row.cells[column]
    if row.rule == PUBLISHED:
        return f"{record['paper_lds']:.2f}"
    mean = f"{record['bootstrap_mean']:.2f}"
    return (rf"\textbf{{{mean}}}" if bold else mean) + rf" $\pm$ {record['bootstrap_std']:.2f}"


def _latex_caption(frame: pd.DataFrame, without: Sequence[str]) -> str:
    sentences = [
        f"Linear datamodeling score (%) of experiment {frame['experiment'].iloc[0]}: "
        "mean ± standard deviation over resampled subsets, as in the paper; resamples repeat "
        "subsets, which lowers their mean below the LDS of all subsets.",
        "Bold: the highest point value of a column, once among the rows with the best λ here and "
        "once among those with a held-out λ.",
        *_notes(frame),
        size_sentence(frame),
        *(["Without a number:", *without] if without else []),
    ]
    return latex_text(" ".join(sentences))


def terminal_table(frame: pd.DataFrame) -> str:
    """The table for a terminal: LDS ± one bootstrap standard deviation, `*` at a column's best.

    Args:
        frame: the records of lds.csv, at least one.
    """
    whole, frame = frame, headline(frame)
    grid = layout(frame)
    lines = [["LDS in %", *[_short_title(column) for column in grid.columns]]]
    for index, row in enumerate(grid.rows):
        cells = [
            _terminal_cell(row, column, (index, column) in grid.best) for column in grid.columns
        ]
        lines.append([row.title, *cells])
    known = ceilings(frame)
    if known:
        lines.append(
            ["Ceiling", *[_number(known.get(split)) + " " * 6 for split, _ in grid.columns]]
        )
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    text = [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in lines
    ]
    text.insert(1, "-" * max(map(len, text)))
    return "\n".join([*text, size_sentence(frame), *missing(whole)]) + "\n"


def _short_title(column: Column) -> str:
    """A head whose last characters stand over the digits, not over `±` and the star."""
    split, count = column
    return split_name(split)[:3] + (f" {count}" if count is not None else "") + " " * 3


def _terminal_cell(row: Row, column: Column, best: bool) -> str:
    if column not in row.cells:
        return BLANK + " " * 6
    record = row.cells[column]
    if row.rule == PUBLISHED:
        return f"{record['paper_lds']:.1f}" + " " * 6
    return f"{record['lds']:.1f} ±{record['bootstrap_std']:3.1f}" + ("*" if best else " ")
