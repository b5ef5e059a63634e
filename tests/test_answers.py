"""The answer's numbers, worked out by hand, and what its page says."""

from pathlib import Path

import numpy as np
import pytest

from attribution.answers import (
    Answer,
    answer_table,
    effective_proponents,
    first_alike,
    shares,
    summary_table,
    thumbnail,
    trust,
    write_answer,
)
from attribution.images import Split


def picture(seed: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, size, size), dtype=np.uint8)


def split(images: list[np.ndarray], label_names: list[str], names: list[str]) -> Split:
    labels = np.array([row % len(label_names) if label_names else -1 for row in range(len(images))])
    return Split(np.stack(images), labels, np.arange(len(images)), names, label_names)


def test_look_alikes():
    one, other = picture(0), picture(1)
    darker = (one // 2).astype(np.uint8)
    flipped = np.ascontiguousarray(one[:, :, ::-1])
    plain = np.full_like(one, 7)
    images = [one, other, darker, flipped, plain, plain, one]
    assert first_alike([thumbnail(image) for image in images]) == [
        None,
        None,
        0,
        None,
        None,
        None,
        0,
    ]


def test_thumbnails_average_areas():
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64), dtype=np.uint8)
    means = image[0].reshape(16, 4, 16, 4).mean((1, 3)).ravel()
    assert np.corrcoef(means, thumbnail(image))[0, 1] > 0.999


def test_shares_and_spread():
    scores = np.array([3.0, 1.0, -5.0, 0.0])
    np.testing.assert_allclose(shares(scores), [0.75, 0.25, -1.25, 0])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert effective_proponents(scores) == pytest.approx(np.exp(entropy))
    assert effective_proponents(np.ones(50)) == pytest.approx(50)
    assert effective_proponents(-np.ones(3)) == 0
    assert (shares(-np.ones(3)) == 0).all()


def test_trust_in_words():
    assert [trust(value).split()[0] for value in (1.0, 0.7, 0.69, 0.4, 0.39, 0.0)] == [
        "stable", "stable", "shaky:", "shaky:", "not", "not"
    ]  # fmt: skip


TRAIN = split([picture(row) for row in range(4)], ["cat", "dog"], ["cat/a", "dog/b", "c", "d"])
QUERIES = split([picture(1), picture(9)], [], ["copy of b", "new <&> name"])
ANSWERS = [
    Answer(
        "D-TRAK",
        np.array([[0.1, 0.5, -0.2, 0.3], [-1.0, 2.0, 3.0, -4.0]]),
        np.array([0.1, 0.9, 0.3, 0.2]),
        np.array([0.9, 0.1]),
    ),
    Answer("Raw pixel", np.array([[0.0, 1.0, 0.5, 0.25], [1.0, 2.0, 3.0, 4.0]])),
]


def test_the_table_by_hand():
    table = answer_table(TRAIN, QUERIES, ANSWERS, 2)
    own = table[(table["query"] == "copy of b") & (table["method"] == "D-TRAK")]
    assert own["file"].tolist() == ["dog/b", "d", "c", "cat/a"]
    assert own["side"].tolist() == ["proponent"] * 2 + ["opponent"] * 2
    assert own["rank"].tolist() == [1, 2, 1, 2]
    np.testing.assert_allclose(own["share"], np.array([0.5, 0.3, -0.2, 0.1]) / 0.9)
    np.testing.assert_allclose(own["self_influence"], [0.9, 0.2, 0.3, 0.1])
    assert own["like_query"].tolist() == [True, False, False, False]
    assert own["label"].tolist() == ["dog", "dog", "cat", "cat"]
    summary = summary_table(QUERIES, ANSWERS, table)
    assert summary["stability"].tolist()[:1] == [0.9]
    assert np.isnan(summary["stability"].tolist()[1])
    assert summary["like_query"].tolist() == [1, 1, 0, 0]
    assert summary["top_share"].iloc[0] == pytest.approx(0.8 / 0.9)


def test_the_page_shows_every_query_and_says_how_far_to_trust_it(tmp_path: Path):
    table = answer_table(TRAIN, QUERIES, ANSWERS, 2)
    write_answer(
        tmp_path / "answer.html",
        train=TRAIN,
        queries=QUERIES,
        answers=ANSWERS,
        table=table,
        summary=summary_table(QUERIES, ANSWERS, table),
        facts={"Model": "mine"},
        stages=[("extract_gradients", 75.0)],
        settings="{}",
    )
    page = (tmp_path / "answer.html").read_text()
    assert "new &lt;&amp;&gt; name" in page
    assert "Two random halves of the features agree on 1.8 of their top 2: stable." in page
    assert "agree on 0.2 of their top 2: not to be trusted" in page
    assert page.count("<li>") == 2 * 2 * 4 + 4  # strips, and the ends of self-influence
    assert page.count("looks like the query") == 2
    assert "1 query looks nearly like a training image that is shown." in page
    assert "1 min 15 s" in page
    assert "http" not in page.replace("http-equiv", "")
