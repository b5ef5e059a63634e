"""Figures of studies: what is drawn is what the frame says, and nothing is drawn twice or lost."""

import numpy as np
import pandas as pd
import pytest
from reporting_data import split
from study_data import curve, evaluation

from attribution import convergence
from attribution.cost import FAMILIES
from attribution.figures import save
from attribution.self_influence import ends, ranked
from attribution.studies import STUDIES
from attribution.study_figures import (
    FAMILY_STYLES,
    plot_convergence,
    plot_cost,
    plot_lambda_curves,
    plot_self_influence,
    plot_study,
    spread_names,
)
from attribution.study_tables import study_frame


def drawn(figure) -> str:
    """All text of a figure."""
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    labels = [axes.get_title() + axes.get_xlabel() for axes in figure.axes]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join([*texts, *labels, *legends])


def test_numbers_make_lines_with_intervals_and_a_ceiling():
    rows = [
        (f"{function}-{dim}", {"function": function, "timesteps": 10, "dim": dim})
        for function in ("simple", "square")
        for dim in (128, 1024, 8192)
    ]
    evaluations = {row: evaluation(10.0 + place) for place, (row, _) in enumerate(rows)}
    figure = plot_study(
        study_frame("projection_dimension", rows, evaluations), STUDIES["projection_dimension"]
    )
    validation, generation = figure.axes
    lines = {line.get_label(): line for line in validation.lines}
    trak = lines["simple (TRAK), 10 timesteps"]
    assert trak.get_xdata().tolist() == [128, 1024, 8192]
    assert trak.get_ydata().tolist() == [10, 11, 12]  # the oracle's values
    assert validation.get_xscale() == "log"
    assert [text.get_text() for text in validation.get_xticklabels()] == ["128", "1,024", "8,192"]
    segments = [s for c in validation.collections for s in c.get_segments()]
    assert sorted(round(float(s[0][1]), 6) for s in segments)[0] == pytest.approx(10 - 2.2)
    assert "ceiling 62 %" in drawn(figure)
    assert "ceiling 48 %" in drawn(figure)
    low, high = validation.get_ylim()
    assert low < 0 < 62 < high
    assert generation.get_title() == "Generated images"
    styles = {(line.get_color(), line.get_marker()) for line in lines.values()}
    assert len({colour for colour, marker in styles if marker in "os"}) == 2


def test_categories_make_dots_and_the_paper_its_crosses():
    rows = [
        (f"{function}-{count}", {"function": function, "timesteps": count})
        for function in ("simple", "elbo", "square")
        for count in (10, 100)
    ]
    evaluations = {row: evaluation(20.0 + place) for place, (row, _) in enumerate(rows)}
    figure = plot_study(
        study_frame("output_functions", rows, evaluations, "cifar2"), STUDIES["output_functions"]
    )
    validation = figure.axes[0]
    dots = [line for line in validation.lines if line.get_marker() in ("o", "s")]
    assert [float(line.get_xdata()[0]) for line in dots] == [20, 22, 24, 21, 23, 25]
    heights = [float(line.get_ydata()[0]) for line in dots]
    assert len(set(heights)) == 6  # none hides another
    crosses = [line for line in validation.lines if line.get_marker() == "x"]
    assert {float(line.get_xdata()[0]) for line in crosses} == {
        10.66,
        19.5,
        8.46,
        9.07,
        24.78,
        30.81,
    }
    names = [text.get_text() for text in validation.get_yticklabels()]
    assert names == ["simple (TRAK)", "ELBO", "square (D-TRAK)"]
    assert "in the paper" in drawn(figure)


def test_a_method_is_drawn_under_its_own_readout_and_only_where_it_ran():
    rows = [
        ("das", {"label": "DAS", "timesteps": 10}),
        ("x", {"label": "Pixels", "timesteps": None}),
    ]
    evaluations = {
        "das": evaluation(20.0, readouts=("linear", "signed_square")),
        "x": evaluation(5.0, rules=("none",), readouts=("linear",), splits=["validation"]),
    }
    frame = study_frame(
        "methods", rows, evaluations, methods={"das": {"readout": "signed_square"}},
        missing={"x": {"generation": "reason"}},
    )  # fmt: skip
    validation, generation = plot_study(frame, STUDIES["methods"]).axes
    points = [float(line.get_xdata()[0]) for line in validation.lines if line.get_marker() in "oD"]
    assert points == [24.0, 5.0] or sorted(points) == [5.0, 24.0]
    assert [line.get_marker() for line in generation.lines].count("D") == 0


def test_a_study_without_results_says_so():
    frame = study_frame(
        "methods", [("x", {"label": "CLIP", "timesteps": None})], {},
        missing={"x": {"validation": "no weights"}},
    )  # fmt: skip
    frame = frame.assign(lds=np.nan)
    figure = plot_study(frame, STUDIES["methods"])
    assert "No row" in figure.texts[0].get_text()


def test_lambda_curves_have_a_panel_a_method_with_both_choices_marked():
    labels = ("TRAK", "D-TRAK", "Relative IF", "Renorm. IF", "DAS")
    frame = pd.concat(
        [curve(20.0 + k / 50).assign(label=name, timesteps=k) for name in labels for k in (10, 100)]
    )
    figure = plot_lambda_curves(frame, "Title")
    titled = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in titled] == list(labels)
    assert len(figure.axes) == 6  # two rows of three
    for axes in titled:
        stars = [line for line in axes.lines if line.get_marker() == "*"]
        assert [float(star.get_xdata()[0]) for star in stars] == pytest.approx([0.1] * 4)
        assert len(axes.collections) == 4  # rings of the held-out choices
    assert "held-out λ" in drawn(figure)
    empty = plot_lambda_curves(frame.iloc[:0], "Title")
    assert "No method" in empty.texts[0].get_text()


def test_names_cover_neither_each_other_nor_points():
    random = np.random.default_rng(0)
    for _ in range(20):
        left, middle = random.uniform(0, 100, 15), random.uniform(0, 60, 15)
        width, points = random.uniform(20, 60, 15), random.uniform(0, 100, (15, 2))
        placed = spread_names(left, middle, width, 9.0, points)
        for a in range(15):
            meets = (left < left[a] + width[a]) & (left[a] < left + width)
            assert all(
                abs(placed[b] - placed[a]) >= 9 - 1e-6 for b in np.flatnonzero(meets) if b != a
            )
            over = (points[:, 0] > left[a]) & (points[:, 0] < left[a] + width[a])
            assert (np.abs(points[over, 1] - placed[a]) >= 9 - 1e-6).all()


def test_a_lone_name_stays_where_it_belongs():
    placed = spread_names(
        np.array([8.0]), np.array([50.0]), np.array([40.0]), 9.0, np.zeros((1, 2))
    )
    assert placed.tolist() == [50.0]


def test_cost_names_each_method_once_a_split():
    assert set(FAMILY_STYLES) == set(FAMILIES)
    rows = [
        (f"{label}{k}", {"label": label, "timesteps": k}) for label in ("A", "B") for k in (1, 2)
    ]
    frame = study_frame("cost", rows, {row: evaluation(20.0, rules=("none",)) for row, _ in rows})
    frame = frame[frame["own_readout"]].assign(
        family="gradients", measured=[1, 1, 9, 9, 2, 2, 5, 5]
    )
    figure = plot_cost(frame, FAMILIES, "Title")
    for axes in figure.axes:
        names = [text.get_text() for text in axes.texts if "ceiling" not in text.get_text()]
        assert sorted(names) == ["A", "B"]
        assert axes.get_xscale() == "log"
    assert FAMILIES["gradients"] in drawn(figure)


def test_convergence_varies_one_thing_at_a_time():
    random = np.random.default_rng(0)
    outputs = random.normal(size=(12, 2, 1, 4, 20)) + random.normal(size=(12, 1, 1, 1, 20))
    predictions = random.normal(size=(7, 12, 20))
    full = convergence.Protocol(12, 2, 1, 4)
    results = convergence.evaluate(predictions, outputs, convergence.protocols(full, [6]), 3)
    whole, single = convergence.summarise(
        list(results), full, np.ones(7), convergence.Costs(10.0, 10.0)
    )
    whole, single = whole.assign(split="validation"), single.assign(split="validation")
    labels = [f"method {number}" for number in range(7)]
    figure = plot_convergence(whole, single, labels, 40, "Title")
    assert len(figure.axes) == 2 * 3  # noises cannot vary
    below = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert below == ["subsets", "seeds a subset", "timesteps of the outputs"]
    ticks = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    assert ticks == ["10", "20", "40"]
    assert "ceiling" in drawn(figure)


def test_self_influence_shows_both_ends(tmp_path):
    train = split(20)
    table = ranked(train, np.arange(20.0)[::-1] / 20)
    highest, lowest = ends(train, table, 5)
    figure = plot_self_influence(highest, lowest, "Title", across=3)
    (axes,) = figure.axes
    assert len(axes.images) == 10
    shown = drawn(figure)
    assert f"#{train.ids[0]}" in shown
    assert f"#{train.ids[19]}" in shown
    files = save(figure, tmp_path / "self")
    assert [file.suffix for file in files] == [".svg", ".png"]
