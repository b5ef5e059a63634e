"""Write the LDS table, and how far methods are behind the best, as Markdown and LaTeX."""

from pathlib import Path

import pandas as pd

from attribution.comparisons import comparison_table
from attribution.tables import lds_latex, lds_markdown
from attribution.workflow import job


def main(snakemake):
    frame, output = pd.read_csv(snakemake.input.lds), snakemake.output
    behind, behind_latex = comparison_table(frame, pd.read_csv(snakemake.input.differences))
    for path, text in (
        (output.markdown, lds_markdown(frame)),
        (output.latex, lds_latex(frame)),
        (output.behind, behind),
        (output.behind_latex, behind_latex),
    ):
        Path(path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake)
