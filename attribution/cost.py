"""What each method costs on this machine, by the paper's formulas and as measured (Appendix A.4).

With TRAIN the seconds of training one model, GRAD those of the gradients of all images (training,
validation, generation) at all timesteps, PROJ those of their projection:

    TRAK, D-TRAK and their kin           GRAD + PROJ
    TracInCP, GAS (C checkpoints)        C (GRAD + PROJ)
    ensembles (S models)                 S (TRAIN + GRAD + PROJ)
    Empirical Influence, Datamodel       P TRAIN

Measured is the sum of the seconds in the manifests of all artifacts that a method used beyond the
model it explains: features, decompositions, scores or predictions, and the models and outputs of a
pool. Training on half of the images takes half as long, which the formulas do not know. Artifacts
are shared: two methods on the same features each count them whole.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from attribution.markup import both_forms
from attribution.provenance import MANIFEST, read_manifest
from attribution.study_tables import axis_value
from attribution.tables import BLANK, HELDOUT, interval, split_name

FAMILIES = {
    "similarity": "similarity of images",
    "gradients": "gradients of one model",
    "checkpoints": "gradients of checkpoints",
    "ensemble": "gradients of retrained models",
    "retraining": "outputs of retrained models",
}
FORMULAS = {
    "similarity": "",
    "gradients": "GRAD + PROJ",
    "checkpoints": "{} × (GRAD + PROJ)",
    "ensemble": "{} × (TRAIN + GRAD + PROJ)",
    "retraining": "{} × TRAIN",
}


class Times(NamedTuple):
    """Seconds of an artifact: of training, of gradients, of their projection, and of all else."""

    training: float = 0.0
    gradients: float = 0.0
    projection: float = 0.0
    other: float = 0.0

    def plus(self, more: "Times") -> "Times":
        """The sum, stage by stage."""
        return Times(*(a + b for a, b in zip(self, more, strict=True)))


def times(path: Path) -> Times:
    """The seconds of an artifact from its manifest.json, or of the models that a marker lists.

    A feature store tells gradients from projection in `timings`; without these, all its seconds
    count as gradients. What its jobs spent on starting and writing is `other`.
    """
    if path.name != MANIFEST:  # the marker of a retraining job
        listed = json.loads(path.read_text(encoding="utf-8"))["models"]
        folders = [path.parent / f"subset-{int(number):04d}" for number in listed]
        return total(folder / MANIFEST for folder in folders)
    made = read_manifest(path.parent)
    seconds = float(made["made"]["seconds"])
    if made["kind"] == "model":
        return Times(training=seconds)
    if made["kind"] == "features" and "parameters" in made:  # of gradients, not of CLIP
        timings = made.get("timings", {"gradients": seconds, "projection": 0.0})
        known = timings["gradients"] + timings["projection"]
        return Times(0.0, timings["gradients"], timings["projection"], max(seconds - known, 0.0))
    return Times(other=seconds)


def total(paths: Iterable[Path]) -> Times:
    """The seconds of several artifacts, each once."""
    whole = Times()
    for path in dict.fromkeys(paths):
        whole = whole.plus(times(path))
    return whole


def family(entry: Mapping[str, Any], uses: Iterable[str]) -> tuple[str, int]:
    """Which of the paper's formulas a method has, and its C, S or P (1 where it has none).

    Args:
        entry: the method's entry with its `sets`. uses: the artifacts that it used.
    """
    models = [path for path in uses if "/models/" in path]
    if not entry["sets"]:
        if not models:
            return "similarity", 1
        return "retraining", int(entry.get("models") or _models(models))
    if entry.get("ensemble"):
        return "ensemble", int(entry["ensemble"])
    if not any("/features/" in path and _is_gradient(Path(path)) for path in uses):
        return "similarity", 1
    return ("checkpoints" if len(entry["sets"]) > 1 else "gradients"), len(entry["sets"])


def _models(paths: Iterable[str]) -> int:
    """How many models these manifests and markers stand for."""
    numbers = [
        1
        if Path(path).name == MANIFEST
        else len(json.loads(Path(path).read_text(encoding="utf-8"))["models"])
        for path in dict.fromkeys(paths)
    ]
    return sum(numbers)


def _is_gradient(manifest: Path) -> bool:
    return "parameters" in read_manifest(manifest.parent)


def predicted(which: str, count: int, training: float, one: Times) -> float:
    """The seconds that the paper's formula gives; NaN for a method that it has none for.

    Args:
        which, count: from `family`. training: of one model. one: of one feature set, all splits.
    """
    features = one.gradients + one.projection
    return {
        "similarity": float("nan"),
        "gradients": features,
        "checkpoints": count * features,
        "ensemble": count * (training + features),
        "retraining": count * training,
    }[which]


def costs(
    entries: Mapping[str, Mapping[str, Any]],
    uses: Mapping[str, list[str]],
    training: float,
) -> pd.DataFrame:
    """One record a method: row, label, family, count, formula, GRAD, PROJ, predicted, measured.

    Args:
        entries: of the methods, with their `sets`, in the order of the table.
        uses: the manifests (or markers of retraining jobs) of all artifacts that a method used.
        training: TRAIN, the seconds of the base model.
    """
    records = []
    for row, entry in entries.items():
        which, count = family(entry, uses[row])
        first = {name for pair in entry["sets"][:1] for name in pair}
        one = total(
            Path(path) for path in uses[row] if any(f"/features/{name}/" in path for name in first)
        )
        measured = total(map(Path, uses[row]))
        records.append(
            {
                "row": row,
                "label": entry.get("label", row),
                "family": which,
                "count": count,
                "formula": FORMULAS[which].format(count),
                "gradients_of_one_set": one.gradients,
                "projection_of_one_set": one.projection,
                "predicted": predicted(which, count, training, one),
                "measured": sum(measured),
                "measured_training": measured.training,
            }
        )
    return pd.DataFrame(records)


def with_lds(costs: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """The costs with each method's LDS, one record a (method, split).

    The LDS is that of the method's own readout at the best lambda. A method that has no evaluation
    is left out.

    Args:
        frame: from `study_tables.study_frame`, with the axis `timesteps`.
    """
    own = frame[frame["own_readout"] & (frame["lambda_rule"] != HELDOUT) & frame["lds"].notna()]
    numbers = ["row", "split", "timesteps", "lds", "ci_low", "ci_high", "ceiling"]
    sizes = ["subsets", "seeds", "queries", "train_size"]
    return costs.merge(own[numbers + sizes], on="row", how="inner", sort=False)


def cost_table(frame: pd.DataFrame, training: float, machine: str, title: str) -> tuple[str, str]:
    """Formula, predicted and measured seconds, and LDS of each method: Markdown and LaTeX.

    Args:
        frame: from `with_lds`. training: TRAIN in seconds. machine: in words.
    """
    splits = list(dict.fromkeys(frame["split"]))
    heads = ["Method", "Timesteps", "Formula", "GRAD", "PROJ", "By the formula", "Measured"]
    heads += [f"LDS, {split_name(split).lower()}" for split in splits]
    note = (
        f"Seconds on this machine ({machine}); TRAIN, the training of the base model, took "
        f"{seconds(training)} s. GRAD and PROJ: gradients of all images of one feature set, and "
        "their projection. Measured: the sum over all artifacts that the method used beyond the "
        "base model; what two methods share counts for both. LDS in per cent at the best λ with "
        "its interval over resampled subsets."
    )
    return both_forms(title, heads, _lines(frame, splits), 3, note)


def _lines(frame: pd.DataFrame, splits: list[str]) -> list[list[str]]:
    lines = []
    for _, records in frame.groupby("row", sort=False):
        one = records.iloc[0]
        by_split = records.set_index("split")
        lds = [
            f"{by_split.loc[split, 'lds']:.1f} {interval(by_split.loc[split])}"
            if split in by_split.index
            else BLANK
            for split in splits
        ]
        numbers = ["gradients_of_one_set", "projection_of_one_set", "predicted", "measured"]
        lines.append(
            [
                str(one["label"]),
                axis_value("timesteps", one["timesteps"]),
                one["formula"] or BLANK,
                *[seconds(one[number] or np.nan) for number in numbers],
                *lds,
            ]
        )
    return lines


def seconds(value: float) -> str:
    """Seconds with about three digits, blank where there are none."""
    if pd.isna(value):
        return BLANK
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
