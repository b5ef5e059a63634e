"""How far each method is behind the best, from the differences of every two methods.

Each method counts under its own readout, with its held-out lambda where it has one.
"""

import pandas as pd

from attribution.markup import both_forms
from attribution.tables import BLANK, ORACLE, headline, row_names, split_name

TITLE = "How far each method is behind the best"


def comparable(lds: pd.DataFrame) -> pd.DataFrame:
    """The records of lds.csv that are compared, with a `name` to show, e.g. `TRAK, 10 timesteps`.

    One a method and split: its own readout, and its held-out lambda if it has any.
    """
    frame = headline(lds)
    names = row_names(frame)
    counts = frame["timesteps"].map(lambda one: "" if pd.isna(one) else f", {int(one)} timesteps")
    frame = frame.assign(name=names + counts)
    return frame[frame["lambda_rule"] != ORACLE].reset_index(drop=True)


def apart(pairs: pd.DataFrame) -> pd.Series:
    """Whether each difference's interval leaves zero out: one bool a record."""
    return (pairs["ci_low"] > 0) | (pairs["ci_high"] < 0)


def comparison_table(lds: pd.DataFrame, pairs: pd.DataFrame) -> tuple[str, str]:
    """How far each method is behind the best of each split, as Markdown and as LaTeX.

    Args:
        lds: the records of lds.csv.
        pairs: from `differences.compare_methods`.
    """
    frame = comparable(lds)
    splits = list(dict.fromkeys(frame["split"]))
    cells = {split: _behind(frame[frame["split"] == split], pairs) for split in splits}
    names = frame.drop_duplicates("method").set_index("method")["name"]
    lines = [
        [name, *(text for split in splits for text in cells[split].get(method, (BLANK, BLANK)))]
        for method, name in names.items()
    ]
    heads = ["Method"]
    for split in splits:
        heads += [f"{split_name(split)}: LDS", "behind the best by"]
    return both_forms(TITLE, heads, lines, 1, NOTE)


NOTE = (
    "LDS in per cent, λ held out where there is one. Behind the best by: percentage points, with "
    "the interval over resampled subsets, the same resamples for both methods, so that it is "
    "narrower than their own intervals suggest. “open”: the interval holds zero, and this "
    "benchmark does not tell the method from the best. The best is the best of these subsets, "
    "which flatters it a little, and with many methods some intervals miss by chance. "
    "lds_differences.csv has every two methods."
)


def _behind(records: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """The LDS and the distance from the best of each method of a split, as texts."""
    best = records.loc[records["lds"].idxmax(), "method"]
    split = records["split"].iloc[0]
    own = pairs[(pairs["split"] == split) & (pairs["higher"] == best)]
    differences = own.assign(apart=apart(own)).set_index("lower")
    cells = {}
    for _, record in records.iterrows():
        value, method = f"{record['lds']:.1f}", record["method"]
        if method == best:
            cells[method] = (value, "best")
            continue
        one = differences.loc[method]
        text = f"{one['difference']:.1f} [{one['ci_low']:.1f}, {one['ci_high']:.1f}]"
        cells[method] = (value, text if one["apart"] else f"{text}, open")
    return cells
