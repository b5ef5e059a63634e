"""Small made-up tables and images for the tests of the reporting part."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from attribution.differences import compare_methods

# (method, label, timesteps, {rule: (LDS on validation, LDS on generation)})
METHODS = [
    ("raw_pixel_cosine", "Raw pixel (cosine)", None, {"none": (7.9, 5.4)}),
    ("gradient_dot_10", "Gradient (dot prod.)", 10, {"none": (5.0, 3.1)}),
    ("gradient_dot_100", "Gradient (dot prod.)", 100, {"none": (6.0, 4.0)}),
    ("trak_10", "TRAK", 10, {"oracle": (10.7, 6.1), "heldout": (10.2, 5.5)}),
    ("trak_100", "TRAK", 100, {"oracle": (20.2, 12.1), "heldout": (19.8, 11.6)}),
    ("dtrak_10", "D-TRAK", 10, {"oracle": (24.6, 15.9), "heldout": (24.4, 15.5)}),
    ("dtrak_100", "D-TRAK", 100, {"oracle": (31.6, 20.0), "heldout": (31.3, 19.2)}),
    ("random", "Random", None, {"none": (0.2, -0.4)}),
]


def lds_frame() -> pd.DataFrame:
    """lds.csv of an experiment with both splits, two timestep counts and both lambda rules."""
    rows = [
        _row(split, values[index], method, label, timesteps, rule)
        for method, label, timesteps, rules in METHODS
        for index, split in enumerate(("validation", "generation"))
        for rule, values in rules.items()
    ]
    return _frame(rows)


# A method whose own readout is another one, and its LDS under both: (linear, square).
DAS = ("das_10", "DAS", 10, {"oracle": (3.0, 33.0), "heldout": (2.0, 30.0)})
LATER = "computed by the studies (`make studies`)"
NO_PATH = "validation images have no sampling trajectory"
# Rows without a number: (method, label, timesteps, {split: why}).
WITHOUT = [
    ("journey_trak_10", "Journey TRAK", 10, {"validation": NO_PATH}),
    ("datamodel", "Datamodel", None, {"validation": LATER, "generation": LATER}),
]


def whole_frame() -> pd.DataFrame:
    """lds.csv with all that it can hold: readouts, a method of another readout, rows with notes."""
    rows = lds_frame().to_dict("records")
    for row in list(rows):
        if row["method"] in ("trak_10", "dtrak_10", "random"):
            bonus = 5.0 if row["method"] == "trak_10" else -5.0
            rows.append(
                {**row, "readout": "square", "own_readout": False, "lds": row["lds"] + bonus}
            )
    for split in ("validation", "generation"):
        for rule, values in DAS[3].items():
            for own, readout in enumerate(("linear", "square")):
                row = _row(split, values[own], *DAS[:3], rule)
                rows.append({**row, "readout": readout, "own_readout": bool(own)})
    for rule, lds in (("oracle", 4.4), ("heldout", 4.2)):
        rows.append(_row("generation", lds, *WITHOUT[0][:3], rule))
    for method, label, timesteps, reasons in WITHOUT:
        for split, why in reasons.items():
            row = _row(split, np.nan, method, label, timesteps, None)
            rows.append({**row, **dict.fromkeys(MEASURED, np.nan), "note": why})
    return _frame(rows)


def pair_frame(frame: pd.DataFrame, spread: float = 0.5) -> pd.DataFrame:
    """lds_differences.csv of such a table; the methods' resamples share most of their deviations.

    spread: standard deviation in per cent of what each method's resamples have of their own.
    """
    random = np.random.default_rng(0)
    shared = random.normal(0, 3, 400)
    measured = frame[frame["lds"].notna()]
    keys = measured[["method", "split", "readout", "lambda_rule"]].itertuples(index=False)
    resampled = {
        tuple(key): lds + shared + random.normal(0, spread, 400)
        for key, lds in zip(keys, measured["lds"], strict=True)
    }
    return compare_methods(frame, resampled, 0.95)


def _frame(rows: list[dict]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    frame["timesteps"] = frame["timesteps"].astype("Int64")
    return frame


MEASURED = (
    "lambda", "bootstrap_mean", "bootstrap_std", "ci_low", "ci_high", "subsets", "seeds",
    "queries", "train_size", "ceiling",
)  # fmt: skip


def _row(split, lds, method, label, timesteps, rule) -> dict:
    return {
        "experiment": "digits",
        "split": split,
        "method": method,
        "label": label,
        "output_function": "square" if "dtrak" in method else "simple",
        "timesteps": timesteps,
        "noises": 1,
        "projection": "count_sketch",
        "proj_dim": 8192,
        "models": 1,
        "readout": "linear",
        "own_readout": True,
        "lambda": np.nan if rule == "none" else 12.5,
        "lambda_rule": rule,
        "lds": lds,
        "bootstrap_mean": lds - 0.12,
        "bootstrap_std": 0.8,
        "ci_low": lds - 1.6,
        "ci_high": lds + 1.6,
        "subsets": 32,
        "seeds": 2,
        "queries": 200 if split == "validation" else 150,
        "train_size": 1000,
        "ceiling": 62.0 if split == "validation" else 48.0,
        "paper_lds": np.nan,
        "note": None,
    }


def lambda_frame() -> pd.DataFrame:
    """lds_by_lambda.csv: curves with one maximum each."""
    grid = np.logspace(-5, 3, 25)
    rows = []
    for method, label, timesteps, rules in METHODS:
        if "oracle" not in rules:
            continue
        for split, top in zip(("validation", "generation"), rules["oracle"], strict=True):
            lds = top * np.exp(-((np.log10(grid) + 1) ** 2) / 12)
            best = int(lds.argmax())
            for index, value in enumerate(grid):
                rows.append(
                    {
                        "experiment": "digits",
                        "split": split,
                        "method": method,
                        "label": label,
                        "timesteps": timesteps,
                        "lambda": value * 100,
                        "lambda_over_mean_eigenvalue": value,
                        "lds": lds[index],
                        "oracle": index == best,
                        "heldout": {best: 7, best - 1: 3}.get(index, 0),
                    }
                )
    return pd.DataFrame(rows)


def loss_frame() -> pd.DataFrame:
    """training_loss.csv of two models."""
    epochs = np.arange(1, 41)
    return pd.concat(
        pd.DataFrame({"model": model, "epoch": epochs, "loss": start / epochs**0.7 + 0.05})
        for model, start in (("base", 0.9), ("subset 0", 1.0))
    )


def split(count: int, channels: int = 1, side: int = 8, labelled: bool = True) -> SimpleNamespace:
    """Images with the fields of `attribution.datasets.Split`: each a disc of its own size."""
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    radius = np.hypot(rows, columns)
    sizes = side * (0.15 + 0.35 * (np.arange(count) % 10) / 9)
    discs = np.clip((sizes[:, None, None] - radius) * 255, 0, 255)  # [count, side, side]
    tints = 0.4 + 0.6 * (np.arange(count)[:, None] * [3, 5, 7] % 11) / 10  # [count, 3]
    images = discs[:, None] * tints[:, :channels, None, None]
    return SimpleNamespace(
        images=images.astype(np.uint8),
        labels=np.arange(count) % 10 if labelled else np.full(count, -1),
        ids=np.arange(count) * 7 + 3,
        names=[f"digit {row * 7 + 3}" for row in range(count)],
        label_names=[str(digit) for digit in range(10)],
    )
