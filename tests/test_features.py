"""Feature stores against autograd in a plain loop; shards write what one job would have written."""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scripted import assembled, run_script, save_images, save_network
from small_network import DIFFUSION, network

from attribution.diffusion import NoiseBank
from attribution.errors import ConfigurationError, NumericalError
from attribution.features import FeatureExtractor, extract, layouts
from attribution.images import read_split, to_model_range
from attribution.rows import FeatureRows
from attribution.stores import Writer, chunk_names, write_store

torch.set_num_threads(1)
SETTINGS: dict[str, Any] = {
    "function": "simple",
    "timesteps": 2,
    "strategy": "midpoints",
    "noises": 1,
    "noise": "per_timestep",
    "bank": 1,
    "seed": 0,
    "along": "images",
    "at": None,
    "normalise": False,
    "residuals": False,
    "dtype": "float32",
    "projection": {"kind": "none", "dim": 1, "seed": 0},
}
COUNT = 7
IMAGES = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
IDS = np.array([11, 3, 8, 20, 5, 1, 9])
KEYS = [f"train:{i}" for i in IDS]
CPU = torch.device("cpu")


def extractor(trajectory_steps: np.ndarray | None = None, **more: Any) -> FeatureExtractor:
    settings = {**SETTINGS, **more}
    if trajectory_steps is not None:
        settings["along"] = "trajectory"
    return FeatureExtractor(
        network(4), settings, DIFFUSION, "fp32", (1, 8, 8), CPU, trajectory_steps=trajectory_steps
    )


def single_pairs(image: int, settings: dict[str, Any], path: Any = None) -> Any:
    """(prediction, noise) of each timestep and noise, from one forward pass each.

    path: {timestep: picture} of a trajectory; the image at timesteps 250 and 750 without one.
    """
    bank = NoiseBank(
        "feature noise",
        settings["seed"],
        settings["bank"],
        (1, 8, 8),
        settings["noise"] == "one_for_all",
    )
    pictures = path or {250: IMAGES[image], 750: IMAGES[image]}
    for step, picture in pictures.items():
        for number in range(settings["noises"]):
            noise = torch.from_numpy(bank.noise(number, step, [KEYS[image]]))
            t = torch.tensor([step])
            noisy = DDPMScheduler(1000).add_noise(picture[None], noise, t)
            yield network(4)(noisy, t).sample, noise


def by_autograd(
    image: int, function: Any, settings: dict[str, Any], path: Any = None
) -> np.ndarray:
    """The gradient of f at each (timestep, noise), one backward pass each, and their mean."""
    rows = []
    for predicted, noise in single_pairs(image, settings, path):
        value = function(predicted, noise)
        gradients = torch.autograd.grad(value, list(network(4).parameters()))
        row = torch.cat([gradient.flatten() for gradient in gradients]).double().numpy()
        rows.append(row / np.linalg.norm(row) if settings["normalise"] else row)
    return np.mean(rows, 0)


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
        {"normalise": True},
        {"normalise": True, "bank": None, "noises": 2, "function": "square"},
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


STEPS = np.array([666, 333, 0])  # of a sampler, in its order
PATHS = torch.rand(COUNT, 3, 1, 8, 8, generator=torch.Generator().manual_seed(8)) * 2 - 1


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"bank": None, "noises": 2},
        {"normalise": True, "noises": 2},
        {"noise": "one_for_all", "function": "square"},
    ],
    ids=str,
)
def test_features_along_a_trajectory_noise_each_step_s_picture_to_that_step(more: dict[str, Any]):
    settings = {**SETTINGS, **more}
    computed = extractor(STEPS, **more)(PATHS[:3], KEYS[:3])
    for image in range(3):
        path = dict(zip(STEPS.tolist(), PATHS[image], strict=True))
        expected = by_autograd(image, FUNCTIONS[settings["function"]], settings, path)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(computed[image], expected, atol=1e-5 * scale, rtol=1e-3)


def test_trajectories_go_with_their_timesteps_and_images_without():
    settings = {**SETTINGS, "along": "trajectory"}
    with pytest.raises(ConfigurationError, match="'trajectory' need timesteps"):
        FeatureExtractor(network(4), settings, DIFFUSION, "fp32", (1, 8, 8), CPU)
    with pytest.raises(ConfigurationError, match="'images' take no timesteps"):
        FeatureExtractor(
            network(4), SETTINGS, DIFFUSION, "fp32", (1, 8, 8), CPU, trajectory_steps=STEPS
        )


@pytest.mark.parametrize("more", [{}, {"bank": None, "noises": 2, "normalise": True}], ids=str)
@pytest.mark.parametrize("trajectory", [False, True])
def test_residuals_are_the_mean_root_mean_square_error(more: dict[str, Any], trajectory: bool):
    settings = {**SETTINGS, **more}
    one = extractor(STEPS if trajectory else None, **more)
    computed = one.residuals(PATHS[:3] if trajectory else IMAGES[:3], KEYS[:3])
    assert computed.dtype == np.float32
    for image in range(3):
        path = dict(zip(STEPS.tolist(), PATHS[image], strict=True)) if trajectory else None
        roots = [
            np.sqrt(np.mean((predicted - noise).detach().double().numpy() ** 2))
            for predicted, noise in single_pairs(image, settings, path)
        ]
        np.testing.assert_allclose(computed[image], np.mean(roots), rtol=1e-5)


def test_residuals_are_stored_beside_the_features(tmp_path: Path):
    write(tmp_path / "x.zarr", residuals=True)
    write(tmp_path / "plain.zarr")
    rows, plain = finish(tmp_path / "x.zarr"), finish(tmp_path / "plain.zarr")
    np.testing.assert_allclose(rows.residuals, extractor().residuals(IMAGES, KEYS), rtol=1e-5)
    assert plain.residuals is None
    np.testing.assert_array_equal(rows[slice(0, 7)], plain[slice(0, 7)])


def test_a_store_of_trajectories_is_read_by_slices(tmp_path: Path):
    """As from a store: arrays of NumPy that only slices give."""

    class Stored:
        def __len__(self) -> int:
            return COUNT

        def __getitem__(self, rows: slice) -> np.ndarray:
            return PATHS[rows].numpy()

    one = extractor(STEPS, bank=None)
    settings = {**SETTINGS, "bank": None, "along": "trajectory"}
    writer = Writer(tmp_path / "x.zarr", {}, layouts(COUNT, settings, one.projector.dim, 3))
    extract(one, writer, Stored(), IDS, KEYS, (0, 1), 2)
    expected = extractor(STEPS, bank=None)(PATHS, KEYS)
    np.testing.assert_allclose(
        finish(tmp_path / "x.zarr")[slice(0, 7)], expected, atol=1e-5 * np.abs(expected).max()
    )


def test_time_is_told_apart():
    one = extractor(projection={"kind": "count_sketch", "dim": 64, "seed": 0})
    assert (one.seconds_gradients, one.seconds_projection) == (0, 0)
    engine, project = one.engine, one.projector.project
    one.engine = lambda *pairs: (time.sleep(0.05), engine(*pairs))[1]
    one.projector.project = lambda gradients: (time.sleep(0.02), project(gradients))[1]
    start = time.perf_counter()
    one(IMAGES[:2], KEYS[:2])
    assert one.seconds_gradients > 0.05
    assert one.seconds_projection > 0.02
    assert one.seconds_gradients + one.seconds_projection <= time.perf_counter() - start
    before = one.seconds_gradients
    one(IMAGES[:2], KEYS[:2])
    assert one.seconds_gradients > before + 0.05


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


def test_an_image_whose_residual_is_not_finite_is_named():
    images = IMAGES.clone()
    images[1, 0, 2, 2] = float("nan")
    with pytest.raises(NumericalError, match=r"residual.*\(image id train:3\)"):
        extractor().residuals(images, KEYS)


class Constant(torch.nn.Module):
    """A network whose prediction depends on no weight where the image is all -1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor, steps: torch.Tensor) -> Any:
        dark = (images < -5).all((1, 2, 3), keepdim=True)
        sample = torch.where(dark, torch.zeros_like(images), self.weight * images)
        return type("Output", (), {"sample": sample})


@pytest.mark.parametrize("normalise", [False, True])
def test_an_image_whose_gradient_is_zero_is_named(normalise: bool):
    images = IMAGES.clone()
    images[[2, 4]] = -1e6
    settings = {**SETTINGS, "function": "square", "normalise": normalise}
    one = FeatureExtractor(Constant(), settings, DIFFUSION, "fp32", (1, 8, 8), CPU, "vmap")
    with pytest.raises(NumericalError, match=r"zero.*\(image id train:8, train:5\)"):
        one(images, KEYS)


def run_extraction(tmp_path: Path, trained: Path, images: Path, split: str, **more: Any) -> Any:
    """One feature store by the workflow's scripts: its rows and the part's record."""
    entry = {**SETTINGS, "model": "base", "checkpoint": "final", **more}
    folder = tmp_path / "features" / "x"
    run_script(
        "extract_gradients",
        {"diffusion": DIFFUSION, "features": {"x": entry}},
        {"model": str(trained), "images": str(images)},
        {"part": folder / f"{split}.parts/0-of-1.json"},
        features="x",
        split=split,
        shard="0",
        shards="1",
    )
    part = assembled(folder / f"{split}.parts/0-of-1.json", folder / f"{split}.zarr")
    return FeatureRows(folder / f"{split}.zarr"), part


@pytest.fixture
def pixels(tmp_path: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 1, 8, 8), dtype=np.uint8)
    return save_images(tmp_path / "data/train.zarr", images, IDS)


def test_the_script_writes_residuals_and_timings(tmp_path: Path, pixels: Path):
    model = save_network(tmp_path / "models/base", network(4))
    rows, part = run_extraction(tmp_path, model, pixels, "train", residuals=True)
    images = to_model_range(read_split(pixels.parent)[0].images)
    expected = extractor()(images, KEYS)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(rows[slice(0, COUNT)], expected, atol=1e-5 * largest)
    np.testing.assert_allclose(rows.residuals, extractor().residuals(images, KEYS), rtol=1e-5)
    assert set(part["timings"]) == {"gradients", "projection"}
    assert 0 < part["timings"]["gradients"] <= part["seconds"]
    assert 0 <= part["timings"]["projection"] <= part["seconds"]
    assert "timings" not in part["manifest"]


@pytest.mark.parametrize(
    "more, place",
    [
        ({}, "base"),
        ({"checkpoint": 2}, "base/checkpoint-2"),
        ({"model": {"pool": 3}}, "pool/seed-0/subset-0003"),
    ],
    ids=str,
)
def test_the_script_finds_the_model_of_a_set(
    tmp_path: Path, pixels: Path, more: dict[str, Any], place: str
):
    """Only the wanted model is there, so that no other can have been read."""
    models = tmp_path / "models"
    save_network(models / place, network(4))
    given = "pool/seed-0/2-4.json" if "model" in more else "base/manifest.json"
    rows, _ = run_extraction(tmp_path, models / given, pixels, "train", **more)
    expected = extractor()(to_model_range(read_split(pixels.parent)[0].images), KEYS)
    np.testing.assert_allclose(rows[slice(0, COUNT)], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "noises, at, taken", [(1, None, [0, 1, 2]), (2, None, [0, 1, 2]), (3, 400, [1])]
)
def test_the_script_reads_trajectories(tmp_path: Path, noises: int, at: Any, taken: list[int]):
    arrays = {
        "trajectories": (("images", "steps", "channels", "height", "width"), PATHS.numpy()),
        "timesteps": (("steps",), STEPS),
        "ids": (("images",), np.arange(COUNT)),
    }
    path = tmp_path / "generated/trajectories.zarr"
    write_store(path, "trajectories", {}, arrays, "make it")
    model = save_network(tmp_path / "models/base", network(4))
    more = {"along": "trajectory", "at": at, "bank": None, "noises": noises}
    rows, _ = run_extraction(tmp_path, model, path / "manifest.json", "generation", **more)
    keys = [f"generation:{i}" for i in range(COUNT)]
    expected = extractor(STEPS[taken], bank=None, noises=noises)(PATHS[:, taken], keys)
    np.testing.assert_allclose(rows[slice(0, COUNT)], expected, atol=1e-5 * np.abs(expected).max())
    assert rows.ids.tolist() == list(range(COUNT))
