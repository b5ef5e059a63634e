"""Figures: the same bytes every time, what is marked where it must be, and nothing left behind."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from reporting_data import lambda_frame, lds_frame, loss_frame, split, whole_frame

from attribution.figures import (
    mosaic,
    plot_generated,
    plot_lds_by_lambda,
    plot_lds_by_method,
    plot_training_loss,
    save,
)


def texts(figure) -> str:
    found = figure.findobj(matplotlib.text.Text)
    return "\n".join(text.get_text() for text in found)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    first, second = (
        save(plot_lds_by_method(lds_frame()), tmp_path / name) for name in ("a.b", "second")
    )
    assert [file.name for file in first] == ["a.b.svg", "a.b.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    svg = first[0].read_text()
    assert "dc:date" not in svg
    with Image.open(first[1]) as image:
        assert image.width > 800
        assert "Software" not in image.info


def test_drawing_leaves_nothing_behind(tmp_path):
    assert plt.get_backend()  # pyplot settles on one when it is first asked
    before = matplotlib.rcParams.copy()
    save(plot_training_loss(loss_frame()), tmp_path / "loss")
    assert plt.get_fignums() == []
    assert matplotlib.rcParams == before


def test_every_value_by_method_is_a_dot_in_the_panel_of_its_split():
    frame = lds_frame()
    figure = plot_lds_by_method(frame)
    assert [axes.get_title() for axes in figure.axes] == ["Validation images", "Generated images"]
    for axes, name in zip(figure.axes, ("validation", "generation"), strict=True):
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "None"]
        assert sorted(dots) == sorted(frame.loc[frame["split"] == name, "lds"])
    shown = texts(figure)
    for part in ("ceiling 62 %", "ceiling 48 %", "held out", "oracle", "TRAK, 100 timesteps"):
        assert part in shown


def test_without_a_ceiling_or_a_second_split_the_figure_still_stands():
    frame = lds_frame().assign(ceiling=np.nan)
    figure = plot_lds_by_method(frame[frame["split"] == "generation"])
    assert len(figure.axes) == 1
    assert "ceiling" not in texts(figure)


def test_the_chosen_lambdas_are_marked():
    frame = lambda_frame()
    figure = plot_lds_by_lambda(frame)
    for axes, name in zip(figure.axes, ("validation", "generation"), strict=True):
        assert axes.get_xscale() == "log"
        best = frame[(frame["split"] == name) & frame["oracle"]]
        stars = [line for line in axes.lines if line.get_marker() == "*"]
        marked = sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in stars)
        assert marked == sorted(zip(best["lambda_over_mean_eigenvalue"], best["lds"], strict=True))
        for rings in axes.collections:
            sizes = rings.get_sizes()
            assert sizes[sizes > 0] == pytest.approx([0.3 * 350, 0.7 * 350])


def test_without_a_lambda_the_figure_says_so():
    assert "No method of this experiment has a λ" in texts(plot_lds_by_lambda(lambda_frame()[:0]))


def test_methods_differ_in_more_than_colour():
    lines = [
        line
        for line in plot_lds_by_lambda(lambda_frame()).axes[0].lines
        if line.get_label()[0] != "_"
    ]
    assert len(lines) == 4
    assert len({(line.get_marker(), line.get_linestyle()) for line in lines}) == 4


def test_a_mosaic_repeats_pixels_and_never_blends_them():
    images = split(5).images
    sheet = mosaic(images, columns=3)
    assert sheet.shape == (2 * 34 - 2, 3 * 34 - 2, 3)
    assert np.array_equal(sheet[:32, 34:66, 0], np.kron(images[1, 0], np.ones((4, 4), np.uint8)))
    assert (sheet[34:, 68:] == 255).all()  # the place of the sixth


def test_generated_images_of_either_kind_are_drawn_without_blur():
    for channels, side in ((1, 8), (3, 32)):
        figure = plot_generated(split(4, channels, side).images, split(9, channels, side).images)
        assert [axes.images[0].get_interpolation() for axes in figure.axes] == ["nearest"] * 2


def test_only_each_method_s_own_readout_is_drawn_and_rows_without_a_number_are_not():
    frame = whole_frame()
    figure = plot_lds_by_method(frame)
    assert "DAS, squared, 10 timesteps" in texts(figure)
    assert "Datamodel" not in texts(figure)
    kept = frame[frame["own_readout"] & frame["lds"].notna()]
    for axes, name in zip(figure.axes, ("validation", "generation"), strict=True):
        dots = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "None"]
        assert sorted(dots) == sorted(kept.loc[kept["split"] == name, "lds"])


def test_the_curves_of_lambda_are_those_of_the_linear_readout():
    linear = lambda_frame().assign(readout="linear")
    other = linear.assign(readout="square", lds=99.0)
    figure = plot_lds_by_lambda(pd.concat([linear, other], ignore_index=True))
    drawn = [line for line in figure.axes[0].lines if line.get_label()[0] != "_"]
    assert len(drawn) == 4
    assert max(line.get_ydata().max() for line in drawn) == pytest.approx(31.6, abs=0.5)
