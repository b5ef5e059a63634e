"""The paper's published LDS, to stand beside ours where an experiment repeats the paper's setting.

`paper_lds.csv` holds Tables 1 to 8 of the paper in per cent, one number a line: setting, table,
split, method, function, timesteps, noises, strategy, models, output_of_benchmark, lds, std. A blank
means that the method has no such thing. Tables 2, 3, 6, 7 and 8 are means and standard deviations
over resampled subsets; Tables 1, 4 and 5 have no deviation and are point values. The names of the
functions in Tables 1 and 4 are inferred where the paper's text has lost them (paper-facts, section
0). All are at the best lambda on the reported subsets.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from attribution.errors import ConfigurationError

PUBLISHED = Path(__file__).with_name("paper_lds.csv")
SETTINGS = ("cifar2", "cifar10", "celeba", "artbench2", "artbench5")
METHOD_TABLES = (2, 3, 6, 7, 8)
# The tables of the paper that a study is the counterpart of.
STUDY_TABLES = {
    "output_functions": (1,),
    "methods": METHOD_TABLES,
    "benchmark_output": (4,),
    "timesteps": (5,),
    "retraining_based": (7, 8),
}
# What an axis of a study is called in the csv; axes that are not here have no published numbers.
AXES = {
    "function": "function",
    "timesteps": "timesteps",
    "noises": "noises",
    "strategy": "strategy",
    "models": "models",
    "method": "method",
    "output": "output_of_benchmark",
}
METHOD_NAMES = {
    "TRAK (ensemble)": "trak_ensemble",
    "D-TRAK (ensemble)": "dtrak_ensemble",
    "Empirical Influence": "empirical_influence",
    "Datamodel": "datamodel",
}


class Published(NamedTuple):
    """A number of the paper in per cent; std is NaN where the paper gives none."""

    lds: float
    std: float
    table: int


@cache
def published(path: Path = PUBLISHED) -> pd.DataFrame:
    """All published numbers; where there is none, texts are blank and numbers <NA>."""
    whole = {"timesteps": "Int64", "noises": "Int64", "models": "Int64", "table": "int64"}
    frame = pd.read_csv(path, dtype=whole)
    texts = ["setting", "split", "method", "function", "strategy", "output_of_benchmark"]
    return frame.fillna(dict.fromkeys(texts, ""))


def method_row(
    setting: str | None,
    split: str,
    method: str,
    timesteps: int | None = None,
    models: int | None = None,
) -> Published | None:
    """The published number of a method (Tables 2, 3, 6, 7, 8), or None.

    Args:
        setting: one of SETTINGS; None for an experiment that is none of the paper's.
        method: its name in the csv, e.g. `dtrak` or `trak_ensemble`.
        timesteps: None for methods that have none.
        models: of an ensemble or a pool; else None.

    Raises:
        ConfigurationError: the paper has no such setting, or no such method.
    """
    if setting is None:
        return None
    frame = _of_setting(setting)
    if method not in set(published()["method"]):
        known = ", ".join(dict.fromkeys(published()["method"]))
        raise ConfigurationError(f"the paper has no row {method!r}; it has {known}")
    wanted: dict[str, Any] = {"split": split, "method": method}
    if method in METHOD_NAMES.values():
        wanted["models"] = models
    if (frame["method"] == method).any() and _has(frame, method, "timesteps"):
        wanted["timesteps"] = timesteps
    return _only(frame, METHOD_TABLES, wanted)


def study_row(
    setting: str | None,
    study: str,
    axes: Mapping[str, Any],
    split: str,
    method: str | None = None,
) -> Published | None:
    """The published counterpart of a study's row, or None where the paper has none.

    Args:
        axes: where the row stands; an axis of which the csv knows nothing has no counterpart.
        method: the paper's name of the row, for the study of all methods.
    """
    if setting is None or study not in STUDY_TABLES:
        return None
    if study == "methods":
        return method and method_row(setting, split, method, axes.get("timesteps"))
    if not set(axes) <= set(AXES):
        return None
    wanted = {AXES[axis]: value for axis, value in axes.items()}
    if "method" in wanted:
        wanted["method"] = METHOD_NAMES.get(wanted["method"], wanted["method"])
    return _only(_of_setting(setting), STUDY_TABLES[study], {"split": split, **wanted})


def _of_setting(setting: str) -> pd.DataFrame:
    if setting not in SETTINGS:
        raise ConfigurationError(
            f"the paper has no setting {setting!r}; it has {', '.join(SETTINGS)}"
        )
    frame = published()
    return frame[frame["setting"] == setting]


def _has(frame: pd.DataFrame, method: str, column: str) -> bool:
    return bool(frame.loc[frame["method"] == method, column].notna().any())


def _only(
    frame: pd.DataFrame, tables: tuple[int, ...], wanted: Mapping[str, Any]
) -> Published | None:
    """The one number that fits; None where there is none, or where it is not clear which."""
    fits = frame["table"].isin(tables)
    for column, value in wanted.items():
        blank = value is None or pd.isna(value)
        same = frame[column].isin(["", pd.NA]) if blank else frame[column] == value
        fits &= same.fillna(False).astype(bool)
    if fits.sum() != 1:
        return None
    found = frame[fits].iloc[0]
    return Published(float(found["lds"]), float(found["std"]), int(found["table"]))
