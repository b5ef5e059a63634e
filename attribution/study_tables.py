"""Tables of the studies: the axes of a study down and across, LDS with intervals in the cells.

A study's frame has one record a (row, split, readout, lambda rule): the study's axes, `row`, the
columns of lds.csv, `paper_lds` and `note` (why a row could not run). `study_frame` makes it; the
rest are views of it and compute nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import pandas as pd

from attribution.markup import (
    both_forms,
    latex_line,
    latex_table,
    latex_text,
    markdown_table,
    markdown_text,
    spanning,
)
from attribution.paper import study_row
from attribution.tables import (
    BLANK,
    CEILING_NOTE,
    HELDOUT,
    LINEAR,
    NO_LAMBDA,
    ORACLE,
    PUBLISHED,
    READOUT_NAMES,
    RULE_NOTES,
    SPLIT_NAMES,
    ceilings,
    interval,
    lambda_notes,
    size_sentence,
    split_name,
)

SHOWN_READOUTS = (LINEAR, "signed_square")
READOUT_NOTE = (
    "Readout: what becomes of the scores before they are added up over a subset; “signed "
    "square” adds up sign(τ) τ², “squared” τ²."
)
AXIS_TITLES = {
    "function": "Gradients of",
    "eta": "η",
    "timesteps": "Timesteps",
    "noises": "Noises a timestep",
    "strategy": "Timesteps chosen",
    "dim": "Projected dimensions",
    "checkpoint": "Checkpoint",
    "label": "Method",
    "method": "Method",
    "models": "Retrained models",
    "sharing": "One noise for",
    "output": "Output of the benchmark",
    "seed": "Seed of the noise",
}
VALUES = {
    "function": {
        "simple": "simple (TRAK)",
        "square": "square (D-TRAK)",
        "elbo": "ELBO",
        "l1_norm": "1-norm",
        "l2_norm": "2-norm",
        "linf_norm": "∞-norm",
    },
    "strategy": {"uniform": "evenly from 0", "midpoints": "midpoints", "cumulative": "the first"},
    "sharing": {
        "all": "all images and timesteps",
        "timestep": "all images, per timestep",
        "batch": "a batch row, per timestep",
        "none": "nobody (independent)",
    },
}
VALUES["output"] = {**VALUES["function"], "simple": "simple", "square": "square"}
# How a number is said where its axis is not named beside it; one and many.
COUNTED = {
    "timesteps": ("timestep", "timesteps"),
    "noises": ("noise", "noises"),
    "models": ("model", "models"),
    "dim": ("dimension", "dimensions"),
}

Cells = dict[tuple, pd.Series]


class Study(Protocol):
    """What a table must know of a study; `attribution.studies.Study` is one."""

    name: str
    title: str
    source: str
    index: tuple[str, ...]
    columns: tuple[str, ...]


def axis_title(axis: str) -> str:
    """What a person calls an axis."""
    return AXIS_TITLES.get(axis, axis.replace("_", " ").capitalize())


def axis_value(axis: str, value: Any, named: bool = False) -> str:
    """What a person calls a value of an axis; `named` says as well of what it is a number."""
    if value is None or pd.isna(value):
        return BLANK
    if axis in VALUES:
        return VALUES[axis].get(value, str(value))
    text = f"{value:,g}" if isinstance(value, Real) and axis != "seed" else str(value)
    if not named:
        return text
    if axis in COUNTED:
        return f"{text} {COUNTED[axis][int(value != 1)]}"
    return f"{axis_title(axis).lower()} {text}" if text[:1].isdigit() else text


def study_frame(
    study: str,
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    evaluations: Mapping[str, pd.DataFrame],
    paper: str | None = None,
    methods: Mapping[str, Mapping[str, Any]] | None = None,
    missing: Mapping[str, Mapping[str, str]] | None = None,
) -> pd.DataFrame:
    """The frame of a study from the evaluations of its rows, in the order of the rows.

    Args:
        study: its name, for the paper's numbers.
        rows: (row, its place on the axes).
        evaluations: each row's lds.csv; a row that could not run has none.
        paper: the paper's setting that the experiment repeats, or None.
        methods: the rows' entries, for `paper` (what the paper calls a row where the axes do not
            say it) and `readout` (its own).
        missing: why a row has no evaluation on a split; of splits that it has, nothing is read.
    """
    frames = []
    for row, axes in rows:
        frame = evaluations.get(row, pd.DataFrame())
        frame = frame.assign(note=pd.Series(None, index=frame.index, dtype=object))
        entry, known = (methods or {}).get(row, {}), set(frame.get("split", []))
        for split, reason in (missing or {}).get(row, {}).items():
            if split in known:
                continue
            gap = {"split": split, "readout": LINEAR, "lambda_rule": NO_LAMBDA, "note": reason}
            frame = pd.concat([frame, pd.DataFrame([gap])], ignore_index=True)
        if frame.empty:
            continue
        for axis, value in axes.items():
            frame[axis] = pd.Series([value] * len(frame), dtype=object, index=frame.index)
        frame["row"] = row
        frame["own_readout"] = frame["readout"] == entry.get("readout", LINEAR)
        frame["paper_lds"] = [
            _published(study, axes, paper, entry.get("paper"), record)
            for _, record in frame.iterrows()
        ]
        frames.append(frame)
    whole = pd.concat(frames, ignore_index=True)
    first = [*dict.fromkeys(axis for _, axes in rows for axis in axes), "row"]
    return whole[[*first, *[column for column in whole if column not in first]]]


def _published(
    study: str, axes: Mapping, paper: str | None, name: str | None, record: pd.Series
) -> float:
    """The paper's number, which is of a linear readout at the best lambda."""
    if record["readout"] != LINEAR or record["lambda_rule"] == HELDOUT:
        return float("nan")
    found = study_row(paper, study, axes, record["split"], name)
    return found.lds if found else float("nan")


@dataclass(frozen=True)
class Line:
    """One line of a table: values of the index axes, readout, lambda rule, records by column."""

    keys: tuple
    readout: str
    rule: str
    cells: Cells


@dataclass(frozen=True)
class Sheet:
    """A laid-out table: columns are (split, values of the column axes)."""

    index: tuple[str, ...]
    across: tuple[str, ...]
    columns: list[tuple[str, tuple]]
    lines: list[Line]
    best: set[tuple[int, tuple]]

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(split for split, _ in self.columns))


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The records of the readouts that tables show: SHOWN_READOUTS, and each row's own."""
    return frame[frame["readout"].isin(SHOWN_READOUTS) | frame["own_readout"]]


def lay_out(frame: pd.DataFrame, index: Sequence[str], across: Sequence[str]) -> Sheet:
    """Arrange a study's records: lines in the order of the frame, columns by split and axes.

    A row without a value on an axis across (a method that has no timesteps) stands in all columns
    of its split. Of several rows in one cell, each gets a line of its own, told apart by its name.
    """
    frame = shown(frame)
    frame, index = _told_apart(frame, list(index), list(across))
    splits = sorted(dict.fromkeys(frame["split"]), key=_split_order)
    places = [
        tuple(_value(one) for one in values)
        for values in frame[list(across)].dropna().drop_duplicates().itertuples(index=False)
    ]
    columns = [(split, place) for split in splits for place in _ordered(places) or [()]]
    lines = []
    for keys, records in frame.groupby(index, sort=False, dropna=False):
        lines += _lines(tuple(map(_value, keys)), records, columns, across)
    return Sheet(tuple(index), tuple(across), columns, lines, _best(lines, columns))


def _told_apart(
    frame: pd.DataFrame, index: list[str], across: list[str]
) -> tuple[pd.DataFrame, list[str]]:
    """The frame with the rows' names as an index axis too where the axes leave rows alike."""
    cell = [*index, *across, "split", "readout", "lambda_rule"]
    if not index or frame.duplicated(cell).any():
        return frame.assign(name=frame["row"]), [*index, "name"]
    return frame, index


def _split_order(split: str) -> int:
    return list(SPLIT_NAMES).index(split) if split in SPLIT_NAMES else len(SPLIT_NAMES)


def _value(value: Any) -> Any:
    """A value as plain Python, None where it is blank."""
    if value is None or pd.isna(value):
        return None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _ordered(places: list[tuple]) -> list[tuple]:
    """Numbers in their order; anything else in the order of the frame."""
    if all(isinstance(one, Real) for place in places for one in place):
        return sorted(places)
    return places


def _lines(keys: tuple, records: pd.DataFrame, columns: list, across: Sequence[str]) -> list[Line]:
    if records["lds"].notna().any():  # a method that runs on one split only needs no second line
        records = records[records["lds"].notna()]
    lines = []
    for readout in READOUT_NAMES:
        of_readout = records[records["readout"] == readout]
        for rule in (NO_LAMBDA, ORACLE, HELDOUT):
            cells = _cells(of_readout[of_readout["lambda_rule"] == rule], columns, across)
            if cells:
                lines.append(Line(keys, readout, rule, cells))
        paper = _cells(of_readout[of_readout["paper_lds"].notna()], columns, across)
        if paper:
            lines.append(Line(keys, readout, PUBLISHED, paper))
    return lines


def _cells(records: pd.DataFrame, columns: list, across: Sequence[str]) -> Cells:
    return {
        column: record
        for _, record in records.iterrows()
        for column in columns
        if column[0] == record["split"]
        and all(
            _value(record[axis]) in (None, wanted)
            for axis, wanted in zip(across, column[1], strict=False)
        )
    }


def _best(lines: list[Line], columns: list) -> set[tuple[int, tuple]]:
    """The highest LDS of each column, for each readout among oracle and among held-out lines.

    Lines without a lambda compete in both; equal values share the honour.
    """
    best = set()
    for column in columns:
        for readout in READOUT_NAMES:
            for rule in (ORACLE, HELDOUT):
                values = {
                    number: line.cells[column]["lds"]
                    for number, line in enumerate(lines)
                    if line.readout == readout
                    and line.rule in (rule, NO_LAMBDA)
                    and column in line.cells
                    and pd.notna(line.cells[column]["lds"])
                }
                if len(values) > 1:
                    top = max(values.values())
                    best |= {(number, column) for number, value in values.items() if value == top}
    return best


def _heads(sheet: Sheet) -> list[str]:
    """The heads of the columns that name a line."""
    heads = ["Row" if axis == "name" else axis_title(axis) for axis in sheet.index]
    if _says_readout(sheet):
        heads.append("Readout")
    if _says_rule(sheet):
        heads.append("λ")
    return heads


def _says_readout(sheet: Sheet) -> bool:
    return len({line.readout for line in sheet.lines}) > 1


def _says_rule(sheet: Sheet) -> bool:
    return any(line.rule != NO_LAMBDA for line in sheet.lines)


def _names(sheet: Sheet, line: Line) -> list[str]:
    """What stands left of a line's cells."""
    names = [axis_value(axis, value) for axis, value in zip(sheet.index, line.keys, strict=True)]
    if _says_readout(sheet):
        names.append("" if line.rule == PUBLISHED else READOUT_NAMES[line.readout])
    if _says_rule(sheet):
        names.append(RULE_NOTES[line.rule].removeprefix("λ ") or BLANK)
    return names


def _without_repeats(lines: list[list[str]], count: int) -> list[list[str]]:
    """The lines with the first `count` names blank where they and all before them are as above."""
    shown, above = [], [None] * count
    for line in lines:
        same = 0
        while same < count and line[same] == above[same]:
            same += 1
        shown.append([""] * same + line[same:])
        above = line[:count]
    return shown


def _column_name(sheet: Sheet, column: tuple[str, tuple]) -> str:
    split, place = column
    return ", ".join(
        [split_name(split)]
        + [axis_value(axis, one, named=True) for axis, one in zip(sheet.across, place, strict=True)]
    )


def study_markdown(frame: pd.DataFrame, study: Study) -> str:
    """The table of a study as Markdown, its title above and what it rests on below.

    Args:
        frame: from `study_frame`, seeds averaged where the table has no place for them.
    """
    sheet = lay_out(frame, study.index, study.columns)
    heads = _heads(sheet)
    lines = [
        [
            *map(markdown_text, _names(sheet, line)),
            *[_cell(line, c, (n, c) in sheet.best, "**{}**") for c in sheet.columns],
        ]
        for n, line in enumerate(sheet.lines)
    ]
    lines = _without_repeats(lines, len(sheet.index))
    known = ceilings(frame)
    if known:
        values = [_number(known.get(split)) for split, _ in sheet.columns]
        lines.append(["Ceiling", *[""] * (len(heads) - 1), *values])
    table = markdown_table(
        [*heads, *[_column_name(sheet, column) for column in sheet.columns]], lines, len(heads)
    )
    note = " ".join(_sentences(frame, study, "**Bold**"))
    return f"## {study.title}\n\n{table}\n\n{note}\n"


def _cell(line: Line, column: tuple, best: bool, bold: str) -> str:
    if column not in line.cells:
        return BLANK
    record = line.cells[column]
    if line.rule == PUBLISHED:
        return _number(record["paper_lds"])
    if pd.isna(record["lds"]):
        return BLANK
    value = f"{record['lds']:.1f}"
    around = f" {interval(record)}" if pd.notna(record["ci_low"]) else ""
    return (bold.format(value) if best else value) + around


def _number(value: float | None) -> str:
    return BLANK if value is None or pd.isna(value) else f"{value:.1f}"


def _sentences(frame: pd.DataFrame, study: Study, bold: str) -> list[str]:
    """What the table shows and what it rests on."""
    run = frame[frame["lds"].notna()]
    where = (
        f"Counterpart of the paper: {study.source}."
        if study.source[:3] in ("Tab", "Fig", "App")
        else "Not in the paper."
    )
    sentences = [
        "Linear datamodeling score (LDS) in per cent, with its interval over resampled subsets "
        f"(95 % unless set otherwise). {where} {bold}: the best of a column, once among the lines "
        "with the best λ here and once among those with a held-out λ, for each readout.",
        *lambda_notes(set(run["lambda_rule"])),
    ]
    if shown(frame)["readout"].nunique() > 1:
        sentences.append(READOUT_NOTE)
    if frame["paper_lds"].notna().any():
        sentences.append("“in the paper”: its published number in this setting.")
    if "repeats" in frame and frame["repeats"].max() > 1:
        sentences.append(
            f"Means over {int(frame['repeats'].max())} seeds of the noise; the seeds' standard "
            f"deviation is {frame['repeat_std'].median():.1f} points (median), "
            f"{frame['repeat_std'].max():.1f} at most."
        )
    if frame["ceiling"].notna().any():
        sentences.append(CEILING_NOTE)
    sentences += _gaps(frame, study)
    return [*sentences, size_sentence(run)] if len(run) else sentences


def _gaps(frame: pd.DataFrame, study: Study) -> list[str]:
    """Which rows could not run, and why."""
    if "note" not in frame:
        return []
    reasons: dict[str, list[str]] = {}
    for _, record in frame[frame["note"].notna()].iterrows():
        name = ", ".join(axis_value(axis, record[axis]) for axis in study.index) or record["row"]
        known = reasons.setdefault(str(record["note"]), [])
        known += [name] if name not in known else []
    return [f"Not run: {'; '.join(names)} ({reason})." for reason, names in reasons.items()]


def study_latex(frame: pd.DataFrame, study: Study) -> str:
    """The table of a study as LaTeX (packages booktabs and graphicx)."""
    sheet = lay_out(frame, study.index, study.columns)
    heads = _heads(sheet)
    names = [list(map(latex_text, _names(sheet, line))) for line in sheet.lines]
    body = [
        name + [_latex_cell(line, c, (n, c) in sheet.best) for c in sheet.columns]
        for n, (name, line) in enumerate(
            zip(_without_repeats(names, len(sheet.index)), sheet.lines, strict=True)
        )
    ]
    known = ceilings(frame)
    width = len(sheet.columns) // len(sheet.splits)
    foot = []
    if known:
        cells = [spanning(width, latex_text(_number(known.get(one)))) for one in sheet.splits]
        foot = [r"\midrule", latex_line(["Ceiling", *[""] * (len(heads) - 1), *cells])]
    caption = latex_text(" ".join([study.title, *_sentences(frame, study, "Bold")]))
    return latex_table(
        caption,
        f"{'l' * len(heads)}{'r' * len(sheet.columns)}",
        _latex_heads(sheet, heads),
        [*map(latex_line, body), *foot],
    )


def _latex_heads(sheet: Sheet, heads: list[str]) -> list[str]:
    """The splits above, then one line for each axis across; its title ends the names' columns."""
    names = [latex_text(head) for head in heads]
    if not sheet.across:
        return [latex_line([*names, *map(split_name, sheet.splits)])]
    width = len(sheet.columns) // len(sheet.splits)
    blank = [""] * len(heads)
    spans, rules = [], []
    for number, split in enumerate(sheet.splits):
        spans.append(spanning(width, split_name(split)))
        start = len(heads) + 1 + number * width
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
    lines = [latex_line([*blank, *spans]), " ".join(rules)]
    for number, axis in enumerate(sheet.across):
        last = number == len(sheet.across) - 1
        values = [latex_text(axis_value(axis, place[number], True)) for _, place in sheet.columns]
        lines.append(latex_line([*(names if last else blank), *values]))
    return lines


def _latex_cell(line: Line, column: tuple, best: bool) -> str:
    value, _, around = _cell(line, column, best, r"\textbf{{{}}}").partition(" ")
    value = latex_text(value) if value == BLANK else value
    return value + (rf" {{\scriptsize {around}}}" if around else "")


def differences_markdown(frame: pd.DataFrame, axes: Sequence[str]) -> str:
    """Paired differences of the linear readout as Markdown, a table for each axis compared.

    Args:
        frame: the records of one or more comparisons (`attribution.differences`).
        axes: of the study.
    """
    frame = frame[(frame["readout"] == LINEAR) & (frame["lambda_rule"] != ORACLE)]
    if frame.empty:
        return ""
    tables = [
        _differences_table(frame[frame["compared"] == axis], axis, axes)
        for axis in dict.fromkeys(frame["compared"])
    ]
    note = (
        "Differences of LDS in percentage points, all else equal, λ held out where there is one, "
        "with the interval over resampled subsets, the same resamples for both sides. **Bold**: "
        "the interval is off zero."
    )
    if frame["repeats"].max() > 1:
        note += (
            f" Each is the mean over {int(frame['repeats'].max())} seeds of the noise; in "
            "parentheses the smallest and the largest of the seeds' own differences."
        )
    return "\n\n".join(["### Paired differences", *tables, note]) + "\n"


def _differences_table(frame: pd.DataFrame, axis: str, axes: Sequence[str]) -> str:
    splits = sorted(dict.fromkeys(frame["split"]), key=_split_order)
    others = [one for one in axes if one != axis and one in frame and frame[one].notna().any()]
    place = ["value", "baseline", *others]
    lines = []
    for keys, records in frame.groupby(place, sort=False, dropna=False):
        value, baseline, *rest = map(_value, keys)
        names = [f"{axis_value(axis, value)} − {axis_value(axis, baseline)}"]
        names += [axis_value(other, one) for other, one in zip(others, rest, strict=True)]
        by_split = records.set_index("split")
        cells = [_difference_cell(by_split, split) for split in splits]
        lines.append([*map(markdown_text, names), *cells])
    heads = [axis_title(axis), *map(axis_title, others)]
    return markdown_table([*heads, *map(split_name, splits)], lines, len(heads))


def _difference_cell(by_split: pd.DataFrame, split: str) -> str:
    if split not in by_split.index:
        return BLANK
    record = by_split.loc[split]
    value = f"{record['difference']:+.1f}"
    if record["ci_low"] > 0 or record["ci_high"] < 0:
        value = f"**{value}**"
    text = f"{value} [{record['ci_low']:+.1f}, {record['ci_high']:+.1f}]"
    if record["repeats"] > 1:
        text += f" ({record['repeat_low']:+.1f} to {record['repeat_high']:+.1f})"
    return text


FLAT = 0.95  # a lambda serves as well as the best one if it keeps this share of the best LDS


def curve_table(frame: pd.DataFrame, title: str) -> tuple[str, str]:
    """The best and the held-out lambda of each method, and how far from it one may go.

    Args:
        frame: the rows' curve.csv with the columns row, label and timesteps.

    Returns:
        Markdown and LaTeX.
    """
    lines = []
    frame = frame[frame["readout"] == LINEAR]
    for (_, split), curve in frame.groupby(["row", "split"], sort=False):
        unit, lds = curve["lambda_over_mean_eigenvalue"], curve["lds"]
        best = curve["oracle"].astype(bool)
        chosen = unit.repeat(curve["heldout"].astype(int)).sort_values()
        flat = unit[lds >= FLAT * lds.max()]
        first = curve.iloc[0]
        lines.append(
            [
                str(first["label"]),
                axis_value("timesteps", first["timesteps"]),
                split_name(split),
                f"{lds.max():.1f}",
                f"{unit[best].iloc[0]:g}",
                f"{chosen.iloc[(len(chosen) - 1) // 2]:g}",
                f"{flat.min():g} to {flat.max():g}",
            ]
        )
    heads = ["Method", "Timesteps", "Split", "LDS at the best λ (%)", "Best λ", "Held-out λ"]
    heads.append(f"λ that keep {100 * FLAT:.0f} % of the best LDS")
    note = (
        "λ in units of the mean eigenvalue of the kernel, on the grid of the configuration. Best: "
        "on the reported subsets. Held out: the median of the choices made on half of the subsets."
    )
    return both_forms(title, heads, lines, 3, note)
