"""What the jobs of an experiment took, from the files that Snakemake's benchmarks leave."""

from pathlib import Path

import pandas as pd


def stage_seconds(folder: Path) -> list[tuple[str, float]]:
    """Seconds of all jobs of each rule, in the order in which the rules last ended.

    Args:
        folder: results/{experiment}/benchmarks, with a file or a folder of files a rule.
    """
    stages: dict[str, float] = {}
    for file in sorted(folder.rglob("*.tsv"), key=lambda file: file.stat().st_mtime):
        rule = file.relative_to(folder).parts[0].removesuffix(".tsv")
        seconds = float(pd.read_csv(file, sep="\t")["s"].iloc[0])
        stages[rule] = stages.get(rule, 0.0) + seconds
    return list(stages.items())
