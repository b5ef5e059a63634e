"""The tables of the linear datamodeling score, put together from the evaluations of many rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from attribution.evaluation import CURVE_NUMBERS, NUMBERS
from attribution.paper import method_row

DESCRIBED = [
    "experiment", "method", "label", "output_function", "timesteps", "noises", "projection",
    "proj_dim", "models",
]  # fmt: skip
COLUMNS = [
    "experiment", "split", *DESCRIBED[1:], "readout", "own_readout", *NUMBERS[2:], "paper_lds",
    "note",
]  # fmt: skip
CURVE_COLUMNS = ["experiment", "split", *DESCRIBED[1:], *CURVE_NUMBERS[1:]]
WHOLE = ("timesteps", "noises", "proj_dim", "models")


def described(experiment: str, row: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What the tables say of a row beside its numbers.

    Args:
        settings: `methods` (entries with their `sets`) and `features` (the sets they read).
    """
    method = settings["methods"][row]
    sets = method["sets"]
    feature = settings["features"][sets[0][0]] if sets else {}
    for part in feature.get("combine", {}):
        feature = {**settings["features"][part], **feature}
    projection = feature.get("projection", {})
    dense = projection.get("kind") != "none"
    return {
        "experiment": experiment,
        "method": row,
        "label": method.get("label", row),
        "output_function": feature.get("function"),
        "timesteps": feature.get("timesteps"),
        "noises": feature.get("noises"),
        "projection": projection.get("kind"),
        "proj_dim": feature.get("dim", projection.get("dim")) if dense else None,
        "models": method.get("ensemble") or method.get("models") or (1 if feature else None),
    }


def published(
    frame: pd.DataFrame, setting: str | None, method: dict[str, Any], about: dict[str, Any]
) -> list[float | None]:
    """The paper's LDS beside each row of a method, which has it for the linear readout only."""
    if not len(frame) or "paper" not in method:
        return [None] * len(frame)
    found = {
        split: method_row(setting, split, method["paper"], about["timesteps"], about["models"])
        for split in set(frame["split"])
    }
    return [
        found[split].lds if found[split] and readout == "linear" else None
        for split, readout in zip(frame["split"], frame["readout"], strict=True)
    ]


def together(
    experiment: str, paths: Sequence[Path], settings: dict[str, Any], columns: Sequence[str]
) -> pd.DataFrame:
    """The rows of several evaluations, `evaluations/{row}/*.csv`, described and in their order."""
    read = {path.parent.name: path for path in paths}
    frames = []
    for row in settings["order"]:
        about = described(experiment, row, settings)
        frame = pd.read_csv(read[row]) if row in read else pd.DataFrame()
        if "note" in columns:
            for split, reason in settings["missing"][row].items():
                note = pd.DataFrame([{"split": split, "readout": "linear", "note": reason}])
                frame = pd.concat([frame, note], ignore_index=True)
            own = settings["methods"][row].get("readout", "linear")
            frame["own_readout"] = frame["readout"] == own if len(frame) else []
            method = settings["methods"][row]
            frame["paper_lds"] = published(frame, settings["paper"], method, about)
        frames.append(frame.assign(**about))
    filled = [frame for frame in frames if len(frame)]
    table = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
    table = table.reindex(columns=list(columns))
    for column in WHOLE:
        table[column] = table[column].astype("Int64")
    return table
