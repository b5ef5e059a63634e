"""report.html: it answers first, needs no network, and says everything in words too."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure
from reporting_data import NO_PATH, lds_frame, loss_frame, pair_frame, split, whole_frame

from attribution.figures import plot_lds_by_method, plot_training_loss, save
from attribution.galleries import gallery
from attribution.report import answers, duration, embed, picture, table_records, write_report

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects tags and text, and checks that every tag is closed in turn."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)

    def all(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("report")
    save(plot_lds_by_method(lds_frame()), folder / "lds_by_method")
    save(plot_training_loss(loss_frame()), folder / "training_loss")
    scores = {"TRAK, 10 timesteps": np.random.default_rng(0).standard_normal((3, 9))}
    galleries = {
        name: [gallery(split(3, labelled=labelled), split(9), scores, row, 2) for row in (0, 2)]
        for name, labelled in (("validation", True), ("generation", False))
    }
    write_report(
        folder / "report.html",
        lds=lds_frame(),
        pairs=pair_frame(lds_frame()),
        figures={name: folder / f"{name}.svg" for name in ("lds_by_method", "training_loss")},
        galleries=galleries,
        settings={"data": {"path": "</script><b>x"}, "seed": 42},
        versions={"torch": "2.13.0", "traker": None},
        commit="0123abc+changes",
        stages=[("train base", 65.0), ("evaluate lds", 2.25)],
    )
    return (folder / "report.html").read_text()


def test_html_is_well_formed(written):
    page = Page(written)
    assert page.open == []
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    for link in page.all("a"):
        assert link["href"].removeprefix("#") in identifiers


def test_nothing_is_fetched_from_elsewhere(written):
    assert not re.search(r"https?://", written)
    for tag, attributes in Page(written).tags:
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith(("data:image/", "#")), tag
    assert "@import" not in written
    assert "url(" not in written
    assert len(written) < 10_000_000


def test_every_image_says_in_words_what_it_shows(written):
    images = Page(written).all("img")
    assert len(images) == 2 + 4 * (1 + 2 + 2)
    assert all(image["alt"].strip() for image in images)


def test_the_answer_comes_first(written):
    words = re.sub(r"\s+", " ", " ".join(Page(written).words))
    first = "For validation images, D-TRAK, 100 timesteps predicts best what retraining does"
    assert words.index(first) < words.index("Linear datamodeling score of every method")


def test_the_table_can_be_sorted_by_keyboard(written):
    page = Page(written)
    heads = [attributes for tag, attributes in page.tags if tag == "th" and "scope" in attributes]
    assert len([head for head in heads if head["scope"] == "col"]) == 8 + 5 + 2
    assert len(page.all("button")) == 8
    assert "aria-sort" in written
    values = [cell["data-sort"] for cell in page.all("td") if "data-sort" in cell]
    assert "31.6" in values


def test_the_choice_offers_every_split_and_method(written):
    assert [option["value"] for option in Page(written).all("option")] == [
        "validation", "generation", "", "TRAK, 10 timesteps"
    ]  # fmt: skip
    assert [one["data-split"] for one in Page(written).all("article")] == [
        "validation", "validation", "generation", "generation"
    ]  # fmt: skip


def test_settings_versions_and_times_are_shown_and_escaped(written):
    words = Page(written).words
    settings = json.loads(next(text for text in words if text.startswith("{")))
    assert settings == {"data": {"path": "</script><b>x"}, "seed": 42}
    shown = " ".join(words)
    for part in ("2.13.0", "not installed", "0123abc+changes", "1 min 05 s", "2.2 s", "1 min 07 s"):
        assert part in shown


def test_the_same_content_gives_the_same_page(written, tmp_path):
    pages = []
    for name in ("a.html", "b.html"):
        write_report(
            tmp_path / name, lds=lds_frame(), pairs=pair_frame(lds_frame()), figures={},
            galleries={}, settings={}, versions={}, commit=None, stages=[],
        )  # fmt: skip
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]
    assert Page(pages[0].decode()).all("article") == []


def test_the_answer_is_the_best_without_knowing_the_answer():
    frame = lds_frame()
    trak = (frame["method"] == "trak_10") & (frame["lambda_rule"] == "oracle")
    frame.loc[trak, "lds"] = 90.0  # of the oracle only: does not count
    validation, generation = answers(frame, pair_frame(frame))
    assert validation.startswith(
        "For validation images, D-TRAK, 100 timesteps predicts best what retraining does: its "
        "LDS is 31.3 % (interval 29.7 to 32.9), 50 % of the estimated ceiling of 62.0 %; random "
        "scores reach 0.2 %. Its lead over every other method is more than chance in the subsets "
        "explains; the second, D-TRAK, 10 timesteps, is 6.9 points behind ("
    )
    assert generation.startswith("For generated images, D-TRAK, 100 timesteps")


def test_the_answer_warns_where_nothing_is_certain():
    frame = lds_frame()
    unsure = answers(frame, pair_frame(frame, spread=6))[0]
    assert unsure.endswith(
        "These subsets do not tell it from D-TRAK, 10 timesteps and TRAK, 100 timesteps."
    )
    lost = answers(frame, pair_frame(frame, spread=60))[0]
    assert re.search("do not tell it from ([^;]+; ){4}and [^;]+[.]$", lost)
    alone = frame[frame["method"] == "trak_10"]
    assert answers(alone, pair_frame(alone))[0].endswith("no other method to compare it with.")
    low = answers(frame.assign(ceiling=20.0), pair_frame(frame))[0]
    assert "above the estimated ceiling of 20.0 %" in low
    hopeless = frame.assign(ci_low=-1.0)
    assert "no method is clearly better than chance" in answers(hopeless, pair_frame(frame))[0]
    first = frame["method"] == "dtrak_100"
    shaky = frame.assign(ci_low=frame["ci_low"].where(~first, -1.0))
    told = answers(shaky, pair_frame(frame))[0]
    assert "D-TRAK, 100 timesteps comes first, but its LDS is 31.3 % (interval -1.0 to" in told
    assert "Clearly better than chance are D-TRAK, 10 timesteps; TRAK, 100 timesteps; " in told


def test_blank_values_of_the_table_sort_as_blanks():
    rows = table_records(lds_frame())
    pixels = rows[0]
    assert [cell["text"] for cell in pixels[:5]] == [
        "Validation",
        "Raw pixel (cosine)",
        "–",
        "–",
        "7.9",
    ]
    assert pixels[2]["sort"] is None
    assert {row[4]["text"] for row in rows if row[4]["best"]} == {"31.6", "31.3", "20.0", "19.2"}


def test_large_pictures_are_made_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 512, 512), dtype=np.uint8)
    assert picture(noise[:, :32, :32]).startswith("data:image/png")
    assert picture(noise).startswith("data:image/jpeg")
    assert len(picture(noise)) < 20_000
    figure = Figure(figsize=(12, 12))
    figure.add_axes((0, 0, 1, 1)).imshow(np.moveaxis(noise, 0, -1).repeat(3, 0).repeat(3, 1))
    svg, _ = save(figure, tmp_path / "large")
    assert svg.stat().st_size > 1_000_000
    assert embed(svg).startswith("data:image/jpeg")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(2.34, "2.3 s"), (59.6, "1 min 00 s"), (45, "45 s"), (3700, "1 h 01 min")],
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def words_of(frame, folder) -> tuple[str, Page]:
    """The words of a page of this table, and the page."""
    write_report(
        folder / "page.html", lds=frame, pairs=pair_frame(frame), figures={}, galleries={},
        settings={}, versions={}, commit=None, stages=[],
    )  # fmt: skip
    page = Page((folder / "page.html").read_text())
    assert page.open == []
    return re.sub(r"\s+", " ", " ".join(page.words)), page


def test_methods_without_a_number_are_listed_with_the_reason(tmp_path):
    words, page = words_of(whole_frame(), tmp_path)
    assert "Without a number:" in words
    assert f"Journey TRAK, 10 timesteps, validation split: {NO_PATH}." in words
    assert words.count("timesteps, validation split:") == words.count("Datamodel:") == 1
    plain, other = words_of(lds_frame(), tmp_path)
    assert "Without a number:" not in plain
    assert len(page.all("li")) == len(other.all("li")) + 2


def test_the_page_leads_with_each_method_s_own_readout(tmp_path):
    words, page = words_of(whole_frame(), tmp_path)
    # DAS under its square has the highest held-out value of generated images, TRAK's square none.
    assert "For generated images, DAS, squared, 10 timesteps predicts best" in words
    values = [cell["data-sort"] for cell in page.all("td") if "data-sort" in cell]
    assert "33.0" in values and "15.7" not in values
    assert "nan" not in words.lower().split()
