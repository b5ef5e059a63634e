"""Feature stores against autograd in a plain loop; shards write what one job would have written."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from small_network import DIFFUSION, network

from attribution.diffusion import NoiseBank
from attribution.errors import NumericalError
from attribution.features import FeatureExtractor, extract, layouts
from attribution.rows import FeatureRows
from attribution.stores import Writer, chunk_names

torch.set_num_threads(1)
SETTINGS: dict[str, Any] = {
    "function": "simple",
    "timesteps": 2,
    "strategy": "midpoints",
    "noises": 1,
    "noise": "per_timestep",
    "bank": 1,
    "seed": 0,
    "dtype": "float32",
    "projection": {"kind": "none", "dim": 1, "seed": 0},
}
COUNT = 7
IMAGES = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
IDS = np.array([11, 3, 8, 20, 5, 1, 9])
KEYS = [f"train:{i}" for i in IDS]
CPU = torch.device("cpu")


def extractor(**more: Any) -> FeatureExtractor:
    settings = {**SETTINGS, **more}
    return FeatureExtractor(network(4), settings, DIFFUSION, "fp32", (1, 8, 8), CPU)


def by_autograd(image: int, function: Any, settings: dict[str, Any]) -> np.ndarray:
    """The gradient of f at each (timestep, noise), one backward pass each, and their mean."""
    bank = NoiseBank(
        "feature noise",
        settings["seed"],
        settings["bank"],
        (1, 8, 8),
        settings["noise"] == "one_for_all",
    )
    model, total, pairs = network(4), 0.0, 0
    for step in (250, 750):
        for number in range(settings["noises"]):
            noise = torch.from_numpy(bank.noise(number, step, [KEYS[image]]))
            t = torch.tensor([step])
            noisy = DDPMScheduler(1000).add_noise(IMAGES[image][None], noise, t)
            value = function(model(noisy, t).sample, noise)
            gradients = torch.autograd.grad(value, list(model.parameters()))
            total = total + torch.cat([gradient.flatten() for gradient in gradients]).double()
            pairs += 1
    return (total / pairs).numpy()


FUNCTIONS = {
    "simple": lambda predicted, noise: ((predicted - noise) ** 2).mean(),
    "square": lambda predicted, noise: (predicted**2).mean(),
}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"function": "square"},
        {"bank": 4},
        {"bank": None, "noises": 2},
        {"noise": "one_for_all", "seed": 3},
    ],
    ids=str,
)
def test_unprojected_features_are_the_mean_of_autograd_s_gradients(more: dict[str, Any]):
    settings = {**SETTINGS, **more}
    computed = extractor(**more)(IMAGES[:3], KEYS[:3])
    assert computed.dtype == np.float32
    for image in range(3):
        expected = by_autograd(image, FUNCTIONS[settings["function"]], settings)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(computed[image], expected, atol=1e-5 * scale, rtol=1e-3)


def test_the_elbo_is_weighted_by_the_schedule():
    betas = np.linspace(1e-4, 0.02, 1000)
    weights = betas / (2 * (1 - betas) * (1 - np.cumprod(1 - betas)))
    both = [
        extractor(timesteps=1, function=name)(IMAGES[:2], KEYS[:2]) for name in ("simple", "elbo")
    ]
    scale = np.abs(both[1]).max()
    np.testing.assert_allclose(both[1], weights[500] * both[0], rtol=1e-3, atol=1e-5 * scale)


def test_projected_features_are_the_projection_of_the_mean_gradient():
    projection = {"kind": "count_sketch", "dim": 64, "seed": 5}
    sketched = extractor(projection=projection)
    plain = torch.from_numpy(extractor()(IMAGES[:3], KEYS[:3]))
    np.testing.assert_allclose(
        sketched(IMAGES[:3], KEYS[:3]),
        sketched.projector.project(plain).numpy(),
        rtol=1e-4,
        atol=1e-6,
    )


def test_an_image_does_not_depend_on_the_others():
    whole = extractor(bank=None)(IMAGES, KEYS)
    scale = np.abs(whole).max()
    for rows in (slice(2, 3), slice(4, 7)):
        alone = extractor(bank=None)(IMAGES[rows], KEYS[rows])
        np.testing.assert_allclose(alone, whole[rows], atol=1e-5 * scale)


def write(path: Path, shards: int = 1, batch: int = 2, only: int | None = None, **more: Any):
    """A feature store of chunks of 2 images, written shard by shard; the chunks of each shard."""
    one, settings = extractor(**more), {**SETTINGS, **more}
    writer = Writer(path, {"code": "1"}, layouts(COUNT, settings, one.projector.dim, 2))
    return [
        extract(one, writer, IMAGES, IDS, KEYS, (shard, shards), batch)
        for shard in (range(shards) if only is None else [only])
    ]


def finish(path: Path) -> FeatureRows:
    Writer.reopen(path).finish("features", "make it", projection={"kind": "none"})
    return FeatureRows(path)


def test_a_store_holds_the_features_and_the_ids_in_order(tmp_path: Path):
    assert write(tmp_path / "x.zarr", bank=None, batch=1) == [[0, 1, 2, 3]]
    rows = finish(tmp_path / "x.zarr")
    expected = extractor(bank=None)(IMAGES, KEYS)
    np.testing.assert_allclose(rows[slice(0, 7)], expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(rows.store.read("ids"), IDS)
    assert rows.shape == expected.shape
    assert len(rows) == 7
    np.testing.assert_array_equal(rows[slice(3, 5)], rows[slice(0, 7)][3:5])
    assert rows.identity == {"kind": "none"}


@pytest.mark.parametrize("shards", [2, 3, 6])
def test_shards_write_disjoint_chunks_that_together_are_the_whole(tmp_path: Path, shards: int):
    write(tmp_path / "whole.zarr")
    mine = write(tmp_path / "shards.zarr", shards)
    assert sorted(chunk for chunks in mine for chunk in chunks) == [0, 1, 2, 3]
    whole, shared = finish(tmp_path / "whole.zarr"), finish(tmp_path / "shards.zarr")
    assert whole.store.manifest["sha256"] == shared.store.manifest["sha256"]


def test_one_shard_alone_writes_its_chunks_and_no_others(tmp_path: Path):
    assert write(tmp_path / "x.zarr", shards=3, only=1) == [[1]]
    files = {
        str(file.relative_to(tmp_path / "x.zarr")) for file in tmp_path.glob("x.zarr/*/c/**/*")
    }
    assert {name for name in files if (tmp_path / "x.zarr" / name).is_file()} == {
        "features/c/1/0",
        "ids/c/1",
    }


def test_work_goes_on_with_the_chunks_that_are_missing_or_damaged(tmp_path: Path):
    write(tmp_path / "x.zarr")
    before = finish(tmp_path / "x.zarr").store.manifest["sha256"]
    (tmp_path / "x.zarr" / "features/c/1/0").unlink()
    file = tmp_path / "x.zarr" / "ids/c/2"
    file.write_bytes(file.read_bytes()[:-1])
    times = {n: file.stat().st_mtime_ns for n, file in files_of(tmp_path / "x.zarr").items()}
    write(tmp_path / "x.zarr")
    after = {n: file.stat().st_mtime_ns for n, file in files_of(tmp_path / "x.zarr").items()}
    kept = {name for name in after if after[name] == times.get(name)}
    assert kept == {f"{a}/c/{c}" for a, c in (("features", "0/0"), ("features", "3/0"))} | {
        "ids/c/0",
        "ids/c/3",
    }
    assert finish(tmp_path / "x.zarr").store.manifest["sha256"] == before


def files_of(path: Path) -> dict[str, Path]:
    names = chunk_names(layouts(COUNT, SETTINGS, extractor().projector.dim, 2))
    return {name: path / name for name in names if (path / name).exists()}


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_batch_changes_roundings_only(tmp_path: Path, batch: int):
    write(tmp_path / "a.zarr", batch=2, bank=None)
    write(tmp_path / "b.zarr", batch=batch, bank=None)
    a, b = (finish(tmp_path / name)[slice(0, 7)] for name in ("a.zarr", "b.zarr"))
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(a).max())


def test_half_precision_keeps_small_gradients_by_a_scale_a_row(tmp_path: Path):
    write(tmp_path / "full.zarr")
    write(tmp_path / "half.zarr", dtype="float16")
    full, half = finish(tmp_path / "full.zarr"), finish(tmp_path / "half.zarr")
    expected, computed = full[slice(0, 7)], half[slice(0, 7)]
    assert half.store.array("features").dtype == np.float16
    assert computed.dtype == np.float32
    # Half precision has 11 significant bits, and the largest number of a row is stored as 1.
    largest = np.abs(expected).max(1, keepdims=True)
    assert (np.abs(computed - expected) <= np.abs(expected) * 2.0**-11 + largest * 2.0**-24).all()
    np.testing.assert_allclose(half.store.read("scale"), largest[:, 0])
    np.testing.assert_array_equal(half[slice(2, 5)], computed[2:5])


def test_gradients_too_small_for_half_precision_survive(tmp_path: Path):
    """1e-9 is below half precision's smallest number, 6e-8."""

    class Tiny:
        """Stands for an extractor whose gradients are tiny."""

        def __call__(self, images: torch.Tensor, keys: list[str]) -> np.ndarray:
            return np.array([[1e-9, -3e-9, 2e-12]] * len(images), np.float32)

    settings = {**SETTINGS, "dtype": "float16"}
    writer = Writer(tmp_path / "x.zarr", {}, layouts(COUNT, settings, 3, 2))
    extract(Tiny(), writer, IMAGES, IDS, KEYS, (0, 1), 2)
    values = finish(tmp_path / "x.zarr")[slice(0, 7)]
    np.testing.assert_allclose(values, [[1e-9, -3e-9, 2e-12]] * 7, rtol=1e-3)


@pytest.mark.parametrize("kind", ["none", "count_sketch"])
def test_an_image_whose_gradient_is_not_finite_is_named(kind: str):
    images = IMAGES.clone()
    images[1, 0, 2, 2] = float("nan")
    with pytest.raises(NumericalError) as caught:
        extractor(projection={"kind": kind, "dim": 64, "seed": 0})(images, KEYS)
    named = re.search(r"image id (.*)\)", str(caught.value)).group(1)
    assert named == "train:3"
    assert "not finite" in str(caught.value)


class Constant(torch.nn.Module):
    """A network whose prediction depends on no weight where the image is all -1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor, steps: torch.Tensor) -> Any:
        dark = (images < -5).all((1, 2, 3), keepdim=True)
        sample = torch.where(dark, torch.zeros_like(images), self.weight * images)
        return type("Output", (), {"sample": sample})


def test_an_image_whose_gradient_is_zero_is_named():
    images = IMAGES.clone()
    images[[2, 4]] = -1e6
    one = FeatureExtractor(
        Constant(), {**SETTINGS, "function": "square"}, DIFFUSION, "fp32", (1, 8, 8), CPU, "vmap"
    )
    with pytest.raises(NumericalError, match=r"zero.*\(image id train:8, train:5\)"):
        one(images, KEYS)
