"""Galleries: who stands where, by examples worked by hand."""

import numpy as np
import pytest
from reporting_data import lds_frame, split, whole_frame

from attribution.errors import StoreError
from attribution.galleries import (
    best_lambdas,
    gallery,
    plot_gallery,
    read_galleries,
    read_scores,
    spread_rows,
    strongest,
)
from attribution.stores import write_store


def test_strongest_first_on_both_sides():
    proponents, opponents = strongest(np.array([0.1, -2.0, 3.0, 0.5, -0.4]), 2)
    assert proponents.tolist() == [2, 3]
    assert opponents.tolist() == [1, 4]


def test_equal_scores_stand_in_the_order_of_their_rows():
    proponents, opponents = strongest(np.array([1.0, 0.0, 1.0, 0.0, 1.0]), 4)
    assert proponents.tolist() == [0, 2, 4, 1]
    assert opponents.tolist() == [1, 3, 0, 2]


def test_fewer_images_than_asked_for_gives_all():
    assert [side.tolist() for side in strongest(np.array([1.0, 2.0]), 8)] == [[1, 0], [0, 1]]


def test_a_gallery_carries_ranks_scores_labels_and_ids():
    queries, train = split(3, labelled=False), split(4)
    scores = np.array([[0, 0, 0, 0], [5, 7, -1, 2], [0, 0, 0, 0]], dtype=np.float32)
    one = gallery(queries, train, {"TRAK": scores, "other": -scores}, row=1, count=2)
    assert (one.id, one.label) == (10, "")
    trak, other = one.methods
    assert [(n.rank, n.row, n.id, n.label, n.score) for n in trak.proponents] == [
        (1, 1, 10, "1", 7.0),
        (2, 0, 3, "0", 5.0),
    ]
    assert [n.row for n in trak.opponents] == [2, 3]
    assert [n.row for n in other.proponents] == [2, 3]
    assert np.array_equal(trak.opponents[0].image, train.images[2])


def test_queries_are_spread_over_the_split():
    assert spread_rows(11, 3) == [0, 5, 10]
    assert spread_rows(2, 6) == [0, 1]


def test_lambdas_of_the_table_find_their_scores(tmp_path):
    lambdas = np.array([1.0, 10 / 3, 10.0])
    scores = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 4)
    dimensions = ("lambdas", "queries", "images")
    arrays = {"scores": (dimensions, scores), "lambdas": (("lambdas",), lambdas)}
    write_store(tmp_path / "s.zarr", "scores", {"code": "x"}, arrays, "make it again")
    # 3.33333 is what a table with six digits says of 10/3.
    assert np.array_equal(read_scores(tmp_path / "s.zarr", 3.33333), scores[1])
    with pytest.raises(StoreError, match=r"no scores at lambda 5; it has 1, 3\.33333, 10"):
        read_scores(tmp_path / "s.zarr", 5.0)


def test_a_method_without_lambda_has_its_one_layer(tmp_path):
    scores = np.ones((1, 2, 4), dtype=np.float32)
    dimensions = ("lambdas", "queries", "images")
    arrays = {"scores": (dimensions, scores), "lambdas": (("lambdas",), np.array([np.nan]))}
    write_store(tmp_path / "s.zarr", "scores", {"code": "x"}, arrays, "make it again")
    assert read_scores(tmp_path / "s.zarr", float("nan")).shape == (2, 4)


def test_galleries_are_read_at_each_methods_best_lambda(tmp_path):
    train, queries = split(4), split(3)
    weak, best = np.zeros((3, 4)), np.tile([1.0, 4.0, 2.0, 3.0], (3, 1))
    dimensions = ("lambdas", "queries", "images")
    for method, layers, lambdas in (
        ("trak_10", [weak, best], [1, 12.5]),
        ("random", [best], [np.nan]),
    ):
        values = {
            "scores": (dimensions, np.array(layers, dtype=np.float32)),
            "lambdas": (("lambdas",), np.array(lambdas, dtype=np.float64)),
        }
        store = tmp_path / f"{method}.zarr"
        write_store(store, "scores", {}, values, "again", method=method, split="validation")
    stores = [tmp_path / "trak_10.zarr", tmp_path / "random.zarr"]
    galleries = read_galleries(stores, lds_frame(), queries, train, shown=2, count=2)
    assert [one.row for one in galleries] == [0, 2]
    assert [method.method for method in galleries[0].methods] == ["TRAK, 10 timesteps", "Random"]
    assert [[n.row for n in method.proponents] for method in galleries[0].methods] == [[1, 3]] * 2


def test_best_lambdas_are_those_of_the_oracle():
    frame = lds_frame()
    frame.loc[frame["lambda_rule"] == "heldout", "lambda"] = 1.0
    chosen = best_lambdas(frame, "generation")
    assert chosen["trak_10"] == 12.5
    assert np.isnan(chosen["random"])
    assert list(chosen) == list(dict.fromkeys(frame["method"]))


def test_lambdas_are_those_of_each_method_s_own_readout():
    frame = whole_frame()
    frame.loc[~frame["own_readout"], "lambda"] = 1.0
    chosen = best_lambdas(frame, "validation")
    assert chosen["trak_10"] == chosen["das_10"] == 12.5
    assert "datamodel" not in chosen
    assert "journey_trak_10" not in chosen
    assert "journey_trak_10" in best_lambdas(frame, "generation")


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32)])
def test_a_gallery_is_drawn_without_blur_and_with_its_ids(channels, side):
    queries, train = split(2, channels, side), split(6, channels, side)
    scores = {"TRAK": np.random.default_rng(0).standard_normal((2, 6))}
    figure = plot_gallery([gallery(queries, train, scores, row, 3) for row in (0, 1)], "Title")
    (axes,) = figure.axes
    assert len(axes.images) == 2 * (1 + 3 + 3)
    assert {image.get_interpolation() for image in axes.images} == {"nearest"}
    shown = "\n".join(text.get_text() for text in axes.texts)
    best = scores["TRAK"][0].argmax()
    assert f"#{train.ids[best]}" in shown
    assert "Query #3" in shown
