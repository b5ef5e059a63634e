"""The answer for someone's own model: which training images speak for and against each query.

Positive scores are proponents: training on them lowers the loss on the query. Nothing is retrained,
so no linear datamodeling score says how far to trust them; instead the answer tells how stable each
top is, which of its images look alike, and how spread out the scores are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from attribution.figures import colour_last
from attribution.galleries import strongest
from attribution.images import Split
from attribution.report import duration, picture

TEMPLATE = Path(__file__).resolve().parents[1] / "report" / "answer.html.j2"
SIDES = ("proponent", "opponent")
ALIKE = 0.98  # correlation from which two images count as near-duplicates
THUMB = 16  # pixels a side, at which they are compared
# Overlap of tops of the two halves of the features, and what it means.
TRUST = (
    (0.7, "stable"),
    (0.4, "shaky: read the group, not the order"),
    (0.0, "not to be trusted: another projection would name other images"),
)


@dataclass(frozen=True)
class Answer:
    """What one method says of all queries.

    scores: [queries, training images]; self_influence: [training images], between 0 and 1, or None
    for a method without a kernel; stability: [queries], see `attribution.stability`, or None.
    """

    label: str
    scores: np.ndarray
    self_influence: np.ndarray | None = None
    stability: np.ndarray | None = None


def thumbnail(image: np.ndarray) -> np.ndarray:
    """An image [channels, height, width] uint8 as 16 x 16 grey values of mean 0 and length 1.

    Each value is the mean over its area. An image of one colour has none, and gives zeros.
    """
    grey = Image.fromarray(colour_last(image)).convert("L")
    small = np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX), np.float64).ravel()
    small -= small.mean()
    length = np.linalg.norm(small)
    return small / length if length > 1e-6 else np.zeros_like(small)


def first_alike(thumbnails: Sequence[np.ndarray]) -> list[int | None]:
    """For each image the position of the first earlier one that looks alike, or None."""
    found: list[int | None] = []
    for place, one in enumerate(thumbnails):
        alike = (earlier for earlier in range(place) if thumbnails[earlier] @ one >= ALIKE)
        found.append(next(alike, None))
    return found


def shares(scores: np.ndarray) -> np.ndarray:
    """Each score over the sum of the positive ones, [images]; zeros where none is positive."""
    total = scores[scores > 0].sum()
    return scores / total if total > 0 else np.zeros_like(scores)


def effective_proponents(scores: np.ndarray) -> float:
    """exp of the entropy of the positive shares: over how many images the credit is spread."""
    positive = shares(scores)[scores > 0]
    positive = positive[positive > 0]  # those that do not vanish in the division
    return float(np.exp(-(positive * np.log(positive)).sum())) if len(positive) else 0.0


def trust(stability: float) -> str:
    """A stability in words."""
    return next(words for least, words in TRUST if stability >= least)


def answer_table(
    train: Split, queries: Split, answers: Sequence[Answer], count: int
) -> pd.DataFrame:
    """One row for each query, method, side and rank: the training image, and what is to know of it.

    share: of the query's positive scores. near_duplicate_of: the rank of the first image of the
    same strip that looks alike. like_query: whether it looks like the query itself.

    Args:
        count: proponents, and opponents, of each query and method.
    """
    records = []
    for row in range(len(queries.ids)):
        asked = thumbnail(queries.images[row])
        for answer in answers:
            scores, parts = answer.scores[row], shares(answer.scores[row])
            for side, strip in zip(SIDES, strongest(scores, count), strict=True):
                thumbnails = [thumbnail(train.images[image]) for image in strip.tolist()]
                alike = first_alike(thumbnails)
                for place, image in enumerate(strip.tolist()):
                    records.append({
                        "query": queries.names[row],
                        "method": answer.label,
                        "side": side,
                        "rank": place + 1,
                        "file": train.names[image],
                        "label": _label(train, image),
                        "score": float(scores[image]),
                        "share": float(parts[image]),
                        "self_influence": _of(answer.self_influence, image),
                        "near_duplicate_of": None if alike[place] is None else alike[place] + 1,
                        "like_query": bool(thumbnails[place] @ asked >= ALIKE),
                        "query_row": row,
                        "row": image,
                    })  # fmt: skip
    table = pd.DataFrame(records)
    return table.astype({"near_duplicate_of": "Int64"})


def _of(values: np.ndarray | None, row: int) -> float | None:
    return None if values is None else float(values[row])


def _label(split: Split, row: int) -> str:
    label = int(split.labels[row])
    return split.label_names[label] if 0 <= label < len(split.label_names) else ""


def summary_table(queries: Split, answers: Sequence[Answer], table: pd.DataFrame) -> pd.DataFrame:
    """One row for each query and method.

    stability: of its top 10; top_share: of the shown proponents in all positive scores;
    effective_proponents; near_duplicates: among the shown proponents; like_query: proponents that
    look like the query.
    """
    records = []
    for row, name in enumerate(queries.names):
        for answer in answers:
            own = (table["query_row"] == row) & (table["method"] == answer.label)
            shown = table[own & (table["side"] == SIDES[0])]
            records.append({
                "query": name,
                "method": answer.label,
                "stability": _of(answer.stability, row),
                "top_share": shown["share"].clip(lower=0).sum(),
                "effective_proponents": effective_proponents(answer.scores[row]),
                "near_duplicates": int(shown["near_duplicate_of"].notna().sum()),
                "like_query": int(shown["like_query"].sum()),
            })  # fmt: skip
    return pd.DataFrame(records)


def write_answer(
    path: Path,
    *,
    train: Split,
    queries: Split,
    answers: Sequence[Answer],
    table: pd.DataFrame,
    summary: pd.DataFrame,
    facts: Mapping[str, str],
    stages: Sequence[tuple[str, float]],
    settings: str,
    template: Path = TEMPLATE,
) -> None:
    """Write the page: for each query its proponents and opponents, and how far to trust them.

    Args:
        table, summary: from `answer_table` and `summary_table`.
        facts: what was asked of what, name to value, in the order shown.
        stages: name and seconds of each stage.
        settings: as text.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures: dict[int, str] = {}  # each training image once, however often it is shown
    page = environment.get_template(template.name).render(
        facts=facts,
        overview=_overview(train, answers, summary),
        queries=[
            _query(row, train, queries, answers, table, summary, pictures)
            for row in range(len(queries.ids))
        ],
        pictures=pictures,
        most_influential=_most_influential(train, answers, pictures),
        stages=[(name, duration(seconds)) for name, seconds in stages],
        total=duration(sum(seconds for _, seconds in stages)),
        settings=settings,
        alike=ALIKE,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _overview(train: Split, answers: Sequence[Answer], summary: pd.DataFrame) -> list[str]:
    """What can be said of all queries at once."""
    lines = []
    for answer in answers:
        if answer.stability is None:
            continue
        median = float(np.median(answer.stability))
        lines.append(
            f"{answer.label}: two random halves of the features agree on {10 * median:.1f} of "
            f"their top 10 in the median query ({trust(median)}). By chance it would be "
            f"{100 / len(train.ids):.2g}."
        )
        own = summary[summary["method"] == answer.label]
        lines.append(
            f"{answer.label}: the credit of a query is spread over about "
            f"{own['effective_proponents'].median():,.0f} of {len(train.ids):,} training images; "
            f"the shown proponents hold {100 * own['top_share'].median():.1f} % of it."
        )
    copies = int(summary.groupby("query")["like_query"].max().gt(0).sum())
    if copies:
        what = "query looks" if copies == 1 else "queries look"
        lines.append(f"{copies} {what} nearly like a training image that is shown.")
    return lines


def _query(
    row: int,
    train: Split,
    queries: Split,
    answers: Sequence[Answer],
    table: pd.DataFrame,
    summary: pd.DataFrame,
    pictures: dict[int, str],
) -> dict[str, Any]:
    methods = []
    for answer in answers:
        own = table[(table["query_row"] == row) & (table["method"] == answer.label)]
        said = summary[
            (summary["query"] == queries.names[row]) & (summary["method"] == answer.label)
        ].iloc[0]
        methods.append({
            "name": answer.label,
            "trust": _trusted(answer, row, len(train.ids)),
            "spread": f"Credit spread over about {said['effective_proponents']:,.0f} images.",
            "sides": [
                (side, _strip(own[own["side"] == side], train, pictures)) for side in SIDES
            ],
        })  # fmt: skip
    return {"name": queries.names[row], "source": picture(queries.images[row]), "methods": methods}


def _trusted(answer: Answer, row: int, images: int) -> str:
    if answer.stability is None:
        return ""
    top = min(10, images // 2)
    value = float(answer.stability[row])
    return (
        f"Two random halves of the features agree on {top * value:.1f} of their top {top}: "
        f"{trust(value)}."
    )


def _strip(own: pd.DataFrame, train: Split, pictures: dict[int, str]) -> list[dict[str, Any]]:
    largest = own["share"].abs().max() or 1.0
    strip = []
    for one in own.itertuples():
        pictures.setdefault(one.row, picture(train.images[one.row]))
        marks = []
        if one.like_query:
            marks.append("looks like the query")
        if not pd.isna(one.near_duplicate_of):
            marks.append(f"looks like {one.near_duplicate_of}")
        strip.append({
            "image": one.row,
            "rank": one.rank,
            "name": one.file,
            "label": _unless_said(one.label, one.file),
            "score": f"{one.score:+.3g}",
            "share": f"{100 * one.share:.2g} %" if one.share > 0 else "",
            "bar": round(100 * abs(one.share) / largest) if largest else 0,
            "marks": marks,
        })  # fmt: skip
    return strip


def _unless_said(label: str, file: str) -> str:
    """The label, unless it is the folder that the file's name begins with."""
    return "" if file.startswith(f"{label}/") else label


def _most_influential(
    train: Split, answers: Sequence[Answer], pictures: dict[int, str], count: int = 10
) -> list[dict[str, Any]]:
    """The training images of highest self-influence, by the first method that has one."""
    values = next((one.self_influence for one in answers if one.self_influence is not None), None)
    if values is None:
        return []
    strip = []
    for rank, row in enumerate(np.argsort(-values, kind="stable")[:count].tolist(), start=1):
        pictures.setdefault(row, picture(train.images[row]))
        strip.append({
            "image": row,
            "rank": rank,
            "name": train.names[row],
            "label": _unless_said(_label(train, row), train.names[row]),
            "score": f"{values[row]:.3g}",
        })  # fmt: skip
    return strip
