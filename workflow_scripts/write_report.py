"""Write the report: one self-contained page with the answer, the evidence and how it was made."""

from pathlib import Path

import pandas as pd

from attribution.galleries import read_galleries
from attribution.images import read_split
from attribution.provenance import environment
from attribution.report import write_report
from attribution.timings import stage_seconds
from attribution.workflow import job, read_settings


def main(snakemake):
    settings, page = read_settings(snakemake), Path(snakemake.output.page)
    frame = pd.read_csv(snakemake.input.lds)
    figures = [Path(file) for file in snakemake.input.figures if file.endswith(".svg")]
    write_report(
        page,
        lds=frame,
        pairs=pd.read_csv(snakemake.input.differences),
        figures={file.stem: file for file in figures},
        galleries=galleries(snakemake, frame, settings["galleries"]),
        settings=settings,
        versions={"python": environment()["python"], **environment()["libraries"]},
        commit=environment()["commit"],
        stages=stage_seconds(page.parent / "benchmarks"),
        sections=sections(snakemake.input),
        template=Path(snakemake.input.template),
    )


def sections(files):
    """The Markdown files of evaluations beyond the main table, with their figures, if any."""
    texts = [Path(path) for path in getattr(files, "texts", [])]
    figures = [Path(path) for path in getattr(files, "shown", []) if path.endswith(".svg")]
    return [
        (
            text,
            [
                figure
                for figure in figures
                if figure.parent == text.parent and text.stem in (figure.stem, "counterfactual")
            ],
        )
        for text in texts
    ]


def galleries(snakemake, frame, settings):
    """The galleries of each split, read from the score stores."""
    train, _ = read_split(Path(snakemake.input.train).parent)
    splits = {}
    for manifest in map(Path, snakemake.input.splits):
        split = manifest.parent.stem
        stores = [Path(path).parent for path in snakemake.input.scores if f"/{split}." in path]
        queries, _ = read_split(manifest.parent)
        splits[split] = read_galleries(
            stores, frame, queries, train, settings["queries"], settings["images"]
        )
    return splits


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
