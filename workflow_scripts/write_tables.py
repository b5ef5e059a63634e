"""Write the LDS table as Markdown and LaTeX."""

from pathlib import Path

import pandas as pd

from attribution.tables import lds_latex, lds_markdown
from attribution.workflow import job


def main(snakemake):
    frame = pd.read_csv(snakemake.input.lds)
    Path(snakemake.output.markdown).write_text(lds_markdown(frame), encoding="utf-8")
    Path(snakemake.output.latex).write_text(lds_latex(frame), encoding="utf-8")


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
