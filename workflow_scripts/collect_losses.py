"""Collect the training losses of the base model and of the retrained models into one table."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from attribution.provenance import read_manifest
from attribution.workflow import job


def main(snakemake):
    losses = {"base": read_manifest(Path(snakemake.input.base).parent)["losses"]}
    retrained = []
    for part in map(Path, snakemake.input.retrained):
        for subset in json.loads(part.read_text(encoding="utf-8"))["models"]:
            folder = part.parent / f"subset-{int(subset):04d}"
            retrained.append(read_manifest(folder)["losses"])
    losses["retrained on half, mean"] = np.mean(retrained, axis=0).tolist()
    rows = [
        {"model": model, "epoch": epoch, "loss": loss}
        for model, curve in losses.items()
        for epoch, loss in enumerate(curve, start=1)
    ]
    Path(snakemake.output.losses).parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(snakemake.output.losses, index=False, float_format="%.6g")


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
