"""Plain tables as Markdown and as LaTeX: escaping, alignment, and nothing about what they say."""

from collections.abc import Sequence


def markdown_text(text: str) -> str:
    """Text with everything that Markdown would take for markup escaped."""
    for special in "\\|*_`[]<>":
        text = text.replace(special, "\\" + special)
    return text


LATEX_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "λ": r"$\lambda$",
        "η": r"$\eta$",
        "τ": r"$\tau$",
        "∞": r"$\infty$",
        "±": r"$\pm$",
        "−": "$-$",
        "×": r"$\times$",
        "²": "$^2$",
        "≤": r"$\leq$",
        "“": "``",
        "”": "''",
        "–": "--",
    }
)


def latex_text(text: str) -> str:
    """Text with everything that LaTeX would take for a command escaped."""
    return text.translate(LATEX_SPECIAL)


def markdown_table(heads: list[str], lines: list[list[str]], left: int) -> str:
    """A Markdown table: the first `left` columns are aligned at left, the others at right."""
    rule = ["---"] * left + ["---:"] * (len(heads) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, rule, *lines])


def both_forms(
    title: str, heads: list[str], lines: list[list[str]], left: int, note: str
) -> tuple[str, str]:
    """A table of plain texts as Markdown and as LaTeX.

    Args:
        lines: cells as texts. left: how many columns are names, aligned at left.
        note: what the table rests on; the caption's end in LaTeX.
    """
    marked = [list(map(markdown_text, line)) for line in lines]
    table = markdown_table(list(map(markdown_text, heads)), marked, left)
    alignment = "l" * left + "r" * (len(heads) - left)
    body = [latex_line(list(map(latex_text, line))) for line in lines]
    latex = latex_table(
        latex_text(f"{title} {note}"), alignment, [latex_line(list(map(latex_text, heads)))], body
    )
    return f"## {title}\n\n{table}\n\n{markdown_text(note)}\n", latex


def latex_table(caption: str, alignment: str, heads: list[str], body: list[str]) -> str:
    """A floating LaTeX table that fits on a page; all arguments are LaTeX already."""
    lines = [
        r"% Needs \usepackage{booktabs} and \usepackage{graphicx}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{caption}}}",
        r"  \resizebox*{!}",
        r"    {\ifdim\totalheight>0.75\textheight0.75\textheight\else\totalheight\fi}{%",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{{alignment}}}",
        r"    \toprule",
        *["    " + line for line in heads],
        r"    \midrule",
        *["    " + line for line in body],
        r"    \bottomrule",
        r"  \end{tabular}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_line(cells: Sequence[str]) -> str:
    """The cells of a line, LaTeX already, as a line of a tabular."""
    return " & ".join(cells) + r" \\"


def spanning(width: int, text: str) -> str:
    """A cell, LaTeX already, across `width` columns."""
    return text if width == 1 else rf"\multicolumn{{{width}}}{{c}}{{{text}}}"
