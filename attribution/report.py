"""report.html: the answer, the evidence and how it was made, on one page that needs no network."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from attribution.comparisons import apart, comparable, comparison_table
from attribution.figures import colour_last
from attribution.galleries import Neighbour, QueryGallery
from attribution.tables import (
    BLANK,
    HELDOUT,
    NO_LAMBDA,
    ORACLE,
    ceilings,
    headline,
    layout,
    missing,
    row_names,
    size_sentence,
    split_images,
    split_name,
)

TEMPLATE = Path(__file__).resolve().parents[1] / "report" / "page.html.j2"
LARGEST_SVG = 1_000_000  # bytes; a larger one (many pixels) goes onto the page as a JPEG
LARGEST_IN_SECTION = 250_000  # the same for a figure of a study, of which there are many
THUMBNAIL = 96  # pixels; larger images are reduced for the page
PAGE_WIDTH = 1600  # pixels

RULES = {ORACLE: "best here", HELDOUT: "held out", NO_LAMBDA: BLANK}

# The figures that the page knows, in its order: title, text for those who cannot see it, caption.
FIGURES = {
    "lds_by_method": (
        "LDS by method",
        "Dots with intervals: the linear datamodeling score of every method, a panel for each "
        "kind of image. The numbers are those of the table above.",
        "Further right is better; the dashed line is the ceiling. Lines through the dots are "
        "intervals over resampled subsets.",
    ),
    "lds_by_lambda": (
        "LDS by λ",
        "Curves: the linear datamodeling score of the methods with a λ, for every λ tried.",
        "Stars: the best λ on these subsets. Rings: the λ chosen on half of them; the closer to "
        "the star, and the flatter the curve, the less the choice matters.",
    ),
    "training_loss": (
        "Training loss",
        "A line: the training loss of the model by epoch.",
        "A line that still falls steeply at its end says that the model was trained too short.",
    ),
    "generated": (
        "Generated images",
        "Two sheets of small images: generated ones at the left, training images at the right.",
        "An attribution of a generated image means little if the model does not yet draw images "
        "like those it was trained on.",
    ),
}


def write_report(
    path: Path,
    *,
    lds: pd.DataFrame,
    pairs: pd.DataFrame,
    figures: Mapping[str, Path],
    galleries: Mapping[str, Sequence[QueryGallery]],
    settings: Mapping[str, Any],
    versions: Mapping[str, str | None],
    commit: str | None,
    stages: Sequence[tuple[str, float]],
    sections: Sequence[tuple[Path, Sequence[Path]]] = (),
    template: Path = TEMPLATE,
) -> None:
    """Write the page of one experiment.

    Args:
        lds: the records of lds.csv, of one experiment.
        pairs: the records of lds_differences.csv.
        figures: the image file (SVG or PNG) of each figure named in `FIGURES`; absent ones are
            left out. A PNG of the same name must lie beside an SVG.
        galleries: the galleries of each split, in the order shown.
        settings: JSON-able; shown as they are.
        versions: of the libraries; None for one that is not installed.
        commit: of the code.
        stages: name and seconds of each stage, in their order.
        sections: of studies and other evaluations, a table in Markdown and its figures each.
        template: the page's jinja2 template.
    """
    without, lds = missing(lds), headline(lds)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template.name).render(
        experiment=lds["experiment"].iloc[0],
        answers=answers(lds, pairs),
        size=size_sentence(lds),
        records=table_records(lds),
        missing=without,
        has_paper=bool(lds["paper_lds"].notna().any()),
        figures=_figure_content(figures),
        galleries=[
            {"split": split, "title": split_images(split), "queries": list(map(_query, queries))}
            for split, queries in galleries.items()
            if queries
        ],
        settings=json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False),
        versions=versions,
        commit=commit,
        behind=section("behind", comparison_table(lds, pairs)[0]),
        sections=[
            section(f"{text.parent.name}-{text.stem}", text.read_text(encoding="utf-8"), drawn)
            for text, drawn in sections
        ],
        stages=[(name, duration(seconds)) for name, seconds in stages],
        total=duration(sum(seconds for _, seconds in stages)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def section(name: str, markdown: str, figures: Sequence[Path] = ()) -> dict[str, Any]:
    """A section of the page: the title, blocks and figures of a table file of this library.

    name: what links to the section say.
    """
    blocks = markdown_blocks(markdown)
    title = next((block["text"] for block in blocks if block["kind"] == "heading"), name)
    return {
        "id": name,
        "title": title,
        "blocks": blocks[1:] if blocks and blocks[0]["kind"] == "heading" else blocks,
        "figures": [embed(path, LARGEST_IN_SECTION) for path in figures],
    }


def markdown_blocks(text: str) -> list[dict[str, Any]]:
    """Headings, tables and paragraphs of a table file of this library, escaped for HTML.

    Only what `both_forms` and its like write is known: pipe tables, `##` headings, bold text.
    """
    blocks: list[dict[str, Any]] = []
    for part in re.split(r"\n\s*\n", text.strip()):
        lines = part.splitlines()
        if part.startswith("#"):
            blocks.append({"kind": "heading", "text": _marked(part.lstrip("# "))})
        elif part.startswith("|") and len(lines) > 1:
            heads, ruler, *rows = ([cell.strip() for cell in _cells(line)] for line in lines)
            blocks.append({
                "kind": "table",
                "heads": [_marked(head) for head in heads],
                "numeric": [cell.endswith(":") for cell in ruler],
                "rows": [[_marked(cell) for cell in row] for row in rows],
            })  # fmt: skip
        else:
            blocks.append({"kind": "text", "text": _marked(" ".join(lines))})
    return blocks


def _cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line.strip())[1:-1]


def _marked(text: str) -> Markup:
    """Text of a Markdown file as HTML: escapes undone, `**bold**` bold."""
    plain = re.sub(r"\\([^\w\s])", r"\1", text)
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(escape(plain))))


def answers(frame: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """What the page says first of each split: the best method, how good it is, and how surely.

    The best is that of the held-out rows (with the methods that have no lambda), because the oracle
    rows choose with knowledge of the answer.

    Args:
        frame: the records of lds.csv. pairs: those of lds_differences.csv.
    """
    ranked = comparable(frame).sort_values("lds", ascending=False, kind="stable")
    return [
        _answer(split, ranked[ranked["split"] == split], pairs[pairs["split"] == split])
        for split in layout(frame).splits
    ]


def _answer(split: str, records: pd.DataFrame, pairs: pd.DataFrame) -> str:
    best = records.iloc[0]
    where = split_images(split).lower()
    figure = f"its LDS is {best['lds']:.1f} %"
    if pd.notna(best["ci_low"]):
        figure += f" (interval {best['ci_low']:.1f} to {best['ci_high']:.1f})"
    if not best["ci_low"] > 0:
        sure = records.loc[records["ci_low"] > 0, "name"].tolist()
        if not sure:
            return (
                f"For {where}, no method is clearly better than chance: {best['name']} comes "
                f"first, and {figure}."
            )
        verb = "is" if len(sure) == 1 else "are"
        return (
            f"For {where}, {best['name']} comes first, but {figure}, so it may be no better than "
            f"chance. Clearly better than chance {verb} {_listed(sure)}."
        )
    sentence = f"For {where}, {best['name']} predicts best what retraining does: {figure}"
    ceiling = ceilings(records).get(split)
    if ceiling is not None and ceiling > 0:
        share = f"{100 * best['lds'] / ceiling:.0f} % of" if best["lds"] <= ceiling else "above"
        sentence += f", {share} the estimated ceiling of {ceiling:.1f} %"
    control = records[records["method"] == "random"]
    if len(control):
        sentence += f"; random scores reach {control['lds'].iloc[0]:.1f} %"
    return f"{sentence}. {_lead(best, records, pairs)}"


NAMED = 4  # so many methods are named in a sentence, the rest are counted


def _lead(best: pd.Series, records: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """From which other methods the best one can be told, by the differences from it."""
    own = pairs[pairs["higher"] == best["method"]]
    if own.empty:
        return "There is no other method to compare it with."
    names = records.set_index("method")["name"]
    level = [names[method] for method in own.loc[~apart(own), "lower"]]
    if not level:
        second = own.iloc[0]
        return (
            f"Its lead over every other method is more than chance in the subsets explains; the "
            f"second, {names[second['lower']]}, is {second['difference']:.1f} points behind "
            f"({second['ci_low']:.1f} to {second['ci_high']:.1f})."
        )
    return f"These subsets do not tell it from {_listed(level)}."


def _listed(names: Sequence[str]) -> str:
    """The first few names, and how many there are beside them, as part of a sentence."""
    told = list(names)
    if len(told) > NAMED + 1:
        told = [*told[:NAMED], f"{len(told) - NAMED} others"]
    if len(told) < 3:
        return " and ".join(told)
    return f"{'; '.join(told[:-1])}; and {told[-1]}"


def table_records(frame: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """The rows of the page's table, split by split; a cell has its text and the value to sort by.

    A `sort` of None (blank) goes last whichever way the column is sorted.
    """
    frame = frame.assign(name=row_names(frame))
    order = {split: index for index, split in enumerate(layout(frame).splits)}
    frame = frame.sort_values("split", key=lambda split: split.map(order), kind="stable")
    ceiling = ceilings(frame)
    best = _best_rows(frame)
    rows = []
    for position, (_, record) in enumerate(frame.iterrows()):
        split = record["split"]
        cells = [
            {"text": split_name(split), "sort": split_name(split)},
            {"text": record["name"], "sort": record["name"].casefold()},
            _number(record["timesteps"], "{:.0f}"),
            {"text": RULES[record["lambda_rule"]], "sort": RULES[record["lambda_rule"]]},
            {**_number(record["lds"], "{:.1f}"), "best": position in best},
            _interval(record),
            _number(100 * record["lds"] / ceiling[split] if ceiling.get(split) else None, "{:.0f}"),
            _number(record["lambda"], "{:.3g}"),
            _number(record["paper_lds"], "{:.1f}"),
        ]
        rows.append(cells)
    return rows


def _best_rows(frame: pd.DataFrame) -> set[int]:
    """Positions of the highest LDS of each split, once among the oracle rows, once the held-out."""
    best = set()
    frame = frame.reset_index(drop=True)
    for rule in (ORACLE, HELDOUT):
        comparable = frame[frame["lambda_rule"].isin([rule, NO_LAMBDA])]
        best |= set(comparable.groupby("split")["lds"].idxmax())
    return best


def _number(value: Any, form: str) -> dict[str, Any]:
    if value is None or pd.isna(value):
        return {"text": BLANK, "sort": None}
    return {"text": form.format(value), "sort": float(value)}


def _interval(record: pd.Series) -> dict[str, Any]:
    if pd.isna(record["ci_low"]):
        return {"text": BLANK, "sort": None}
    return {
        "text": f"{record['ci_low']:.1f} to {record['ci_high']:.1f}",
        "sort": float(record["ci_low"]),
    }


def _figure_content(figures: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    return {
        name: {"title": title, "alt": alt, "caption": caption, "source": embed(figures[name])}
        for name, (title, alt, caption) in FIGURES.items()
        if name in figures
    }


def embed(path: Path, largest: int = LARGEST_SVG) -> str:
    """An image file as a data URI; one that would make the page heavy as a smaller JPEG."""
    if path.suffix == ".svg" and path.stat().st_size <= largest:
        return _uri("svg+xml", path.read_bytes())
    raster = path.with_suffix(".png")
    if raster.stat().st_size <= largest:
        return _uri("png", raster.read_bytes())
    with Image.open(raster) as opened:
        image = opened.convert("RGB")
    image.thumbnail((PAGE_WIDTH, 10 * PAGE_WIDTH))
    return _jpeg(image)


def picture(image: np.ndarray) -> str:
    """One image, uint8 [channels, height, width], as a data URI; large ones reduced."""
    pixels = Image.fromarray(colour_last(image)).convert("L" if len(image) == 1 else "RGB")
    if max(pixels.size) > THUMBNAIL:
        pixels.thumbnail((THUMBNAIL, THUMBNAIL))
        return _jpeg(pixels)
    file = io.BytesIO()
    pixels.save(file, "PNG")
    return _uri("png", file.getvalue())


def _jpeg(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return _uri("jpeg", file.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _query(one: QueryGallery) -> dict[str, Any]:
    return {
        "title": one.name + (f", label {one.label}" if one.label else ""),
        "source": picture(one.image),
        "methods": [
            {
                "name": method.method,
                "sides": [
                    ("Proponents", "highest scores", _strip(method.proponents, "proponent")),
                    ("Opponents", "lowest scores", _strip(method.opponents, "opponent")),
                ],
            }
            for method in one.methods
        ],
    }


def _strip(strip: Sequence[Neighbour], role: str) -> list[dict[str, Any]]:
    return [
        {
            "source": picture(one.image),
            "alt": f"{role} {one.rank}: training image {one.name}"
            + (f", label {one.label}" if one.label else ""),
            "rank": one.rank,
            "score": f"{one.score:+.3g}",
            "label": one.label,
            "name": one.name,
        }
        for one in strip
    ]


def duration(seconds: float) -> str:
    """Seconds as a person says them, e.g. `3 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
