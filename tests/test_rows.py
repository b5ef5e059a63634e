"""Row sources over small hand-made stores: what they read, combine, shrink and refuse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attribution.errors import ConfigurationError, StoreError
from attribution.projection import build_projector
from attribution.rows import CombinedRows, FeatureRows, open_rows
from attribution.stores import write_store

COUNT = 5
A = np.arange(20, dtype=np.float32).reshape(COUNT, 4) + 1
B = np.array([[3, -1, 4, 1]], np.float32) * np.array([[2], [7], [1], [8], [2]], np.float32)
SKETCH = {"kind": "count_sketch", "source_dim": 40, "dim": 4, "seed": 0}


def store(
    experiment: Path,
    name: str,
    features: np.ndarray,
    identity: dict[str, Any] = SKETCH,
    ids: tuple[int, ...] = (4, 9, 2, 0, 7),
    residuals: np.ndarray | None = None,
) -> Path:
    path = experiment / "features" / name / "train.zarr"
    arrays = {"features": (("images", "k"), features), "ids": (("images",), np.array(ids))}
    if residuals is not None:
        arrays["residuals"] = (("images",), residuals)
    write_store(path, "features", {"name": name}, arrays, "make it", projection=identity)
    return path


def both(experiment: Path, **more: Any) -> list[FeatureRows]:
    first = store(experiment, "a", A, **{k: v for k, v in more.items() if k == "residuals"})
    return [FeatureRows(first), FeatureRows(store(experiment, "b", B, **more))]


def test_a_combination_is_the_weighted_sum(tmp_path: Path):
    rows = CombinedRows(both(tmp_path), [0.25, -2])
    assert rows.shape == (5, 4)
    assert len(rows) == 5
    whole = rows[slice(0, 5)]
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, A / 4 - 2 * B)
    np.testing.assert_array_equal(rows[slice(1, 4)], whole[1:4])
    np.testing.assert_array_equal(rows[slice(3, 99)], whole[3:])
    np.testing.assert_array_equal(rows.ids, [4, 9, 2, 0, 7])
    assert rows.identity == SKETCH


def test_a_sketch_is_folded_after_the_sum(tmp_path: Path):
    rows = CombinedRows(both(tmp_path), [1, 1], dim=2)
    assert rows.shape == (5, 2)
    total = A + B
    expected = np.stack([total[:, 0] + total[:, 2], total[:, 1] + total[:, 3]], 1)
    np.testing.assert_array_equal(rows[slice(0, 5)], expected)
    np.testing.assert_array_equal(rows[slice(2, 3)], expected[2:3])
    assert rows.identity == {**SKETCH, "dim": 2, "folded_from": 4}


def test_a_dense_projection_is_cut_and_scaled(tmp_path: Path):
    dense = {"kind": "normal", "source_dim": 40, "dim": 4, "seed": 0, "scale": "1/sqrt(dim)"}
    one = FeatureRows(store(tmp_path, "a", A, dense))
    rows = CombinedRows([one], [3], dim=1)
    np.testing.assert_allclose(rows[slice(0, 5)], 3 * 2 * A[:, :1])
    assert rows.identity == {**dense, "dim": 1}


@pytest.mark.parametrize("kind", ["count_sketch", "normal"])
def test_the_combination_is_the_projection_of_the_combined_gradients(tmp_path: Path, kind: str):
    gradients = torch.randn(2, 5, 900, generator=torch.Generator().manual_seed(0))
    wide = build_projector(kind, 900, 400, seed=3)
    parts = [
        FeatureRows(store(tmp_path, name, wide.project(one).numpy(), wide.identity))
        for name, one in zip("ab", gradients, strict=True)
    ]
    rows = CombinedRows(parts, [0.3, 0.7], dim=400)
    mixed = 0.3 * gradients[0] + 0.7 * gradients[1]
    np.testing.assert_allclose(rows[slice(0, 5)], wide.project(mixed).numpy(), rtol=1e-4, atol=1e-4)
    narrow = CombinedRows(parts, [0.3, 0.7], dim=200)
    if kind == "normal":  # the first columns of a dense projection are the smaller projection
        direct = build_projector(kind, 900, 200, seed=3)
        np.testing.assert_allclose(
            narrow[slice(0, 5)], direct.project(mixed).numpy(), rtol=1e-4, atol=1e-4
        )
        assert narrow.identity == direct.identity
    squares = (narrow[slice(0, 5)] ** 2).sum(1)
    np.testing.assert_allclose(squares, mixed.square().sum(1).numpy(), rtol=0.5)


def test_parts_of_another_projection_or_of_other_images_are_refused(tmp_path: Path):
    a = FeatureRows(store(tmp_path, "a", A))
    other_seed = FeatureRows(store(tmp_path, "b", B, {**SKETCH, "seed": 1}))
    with pytest.raises(StoreError, match=r"a/train.zarr and .*b/train.zarr .*seed: 0 \| 1"):
        CombinedRows([a, other_seed], [1, 1])
    shuffled = FeatureRows(store(tmp_path, "c", B, ids=(9, 4, 2, 0, 7)))
    with pytest.raises(StoreError, match="different images"):
        CombinedRows([a, shuffled], [1, 1])
    fewer = FeatureRows(store(tmp_path, "d", B[:4], ids=(4, 9, 2, 0)))
    with pytest.raises(StoreError, match="different images"):
        CombinedRows([a, fewer], [1, 1])


def test_sizes_that_cannot_be_are_refused_before_any_row_is_read(tmp_path: Path):
    a = FeatureRows(store(tmp_path, "a", A))
    with pytest.raises(ConfigurationError, match="do not fold to 3"):
        CombinedRows([a], [1], dim=3)
    with pytest.raises(ConfigurationError, match="do not fold to 8"):
        CombinedRows([a], [1], dim=8)
    for weights in ([], [1, 2]):
        with pytest.raises(ConfigurationError, match="1 feature sets cannot be combined"):
            CombinedRows([a], weights)
    with pytest.raises(ConfigurationError, match="0 feature sets"):
        CombinedRows([], [])
    clip = {"kind": "clip", "model": "x", "dim": 4}
    embeddings = FeatureRows(store(tmp_path, "clip", A, clip))
    with pytest.raises(ConfigurationError, match="'clip' are no projection"):
        CombinedRows([embeddings], [1], dim=2)


def test_residuals_belong_to_one_set(tmp_path: Path):
    residuals = np.linspace(0.1, 0.5, COUNT, dtype=np.float32)
    a, b = both(tmp_path, residuals=residuals)
    np.testing.assert_array_equal(a.residuals, residuals)
    np.testing.assert_array_equal(CombinedRows([a], [1], dim=2).residuals, residuals)
    assert CombinedRows([a, b], [1, 1]).residuals is None
    assert FeatureRows(store(tmp_path, "plain", A)).residuals is None
    assert CombinedRows([FeatureRows(store(tmp_path, "plain", A))], [1]).residuals is None


def test_sets_are_opened_by_their_entry(tmp_path: Path):
    both(tmp_path)
    features: dict[str, dict[str, Any]] = {
        "a": {"function": "simple"},
        "b": {"function": "square"},
        "half": {"combine": {"a": 0.5, "b": 0.5}},
        "small": {"combine": {"a": 1}, "dim": 2},
    }
    assert isinstance(open_rows(tmp_path, "a", "train", features), FeatureRows)
    np.testing.assert_array_equal(open_rows(tmp_path, "a", "train", features)[slice(0, 5)], A)
    half = open_rows(tmp_path, "half", "train", features)
    np.testing.assert_array_equal(half[slice(0, 5)], (A + B) / 2)
    small = open_rows(tmp_path, "small", "train", features)
    np.testing.assert_array_equal(small[slice(0, 5)], A[:, :2] + A[:, 2:])
    with pytest.raises(StoreError, match=r"a/validation.zarr"):
        open_rows(tmp_path, "half", "validation", features)
