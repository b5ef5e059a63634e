"""The forward process against diffusers' own, timesteps by hand, and what noises are shared."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from attribution.diffusion import NoiseBank, add_noise, schedule, timesteps

torch.set_num_threads(1)
SETTINGS = {
    "timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "clip_sample": True,
}
SHAPE = (2, 3, 3)


def test_the_linear_schedule_is_that_of_the_formula():
    betas = np.linspace(1e-4, 0.02, 1000)
    expected = np.cumprod(1 - betas)
    scheduler = schedule(SETTINGS)
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), expected, rtol=2e-5)
    assert scheduler.config.prediction_type == "epsilon"
    assert scheduler.config.clip_sample


def test_the_scaled_linear_schedule_is_linear_in_the_roots():
    settings = {**SETTINGS, "beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "timesteps": 50}
    expected = np.cumprod(1 - np.linspace(8.5e-4**0.5, 0.02**0.5, 50) ** 2)
    np.testing.assert_allclose(schedule(settings).alphas_cumprod.numpy(), expected, rtol=1e-5)


def test_add_noise_equals_diffusers():
    generator = torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, 5, 3, 4, 4, generator=generator)
    steps = torch.tensor([0, 1, 500, 998, 999])
    expected = DDPMScheduler(1000).add_noise(images, noise, steps)
    computed = add_noise(images, noise, schedule(SETTINGS).alphas_cumprod[steps])
    torch.testing.assert_close(computed, expected, rtol=1e-6, atol=1e-6)


def test_add_noise_by_hand_and_with_one_noise_for_all():
    # abar 0.64 keeps 0.8 of the image and 0.6 of the noise: 0.8 * 0.5 + 0.6 * 2 = 1.6;
    # abar 0.36 the other way round: 0.6 * 0.5 + 0.8 * 2 = 1.9.
    noisy = add_noise(
        torch.full((2, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 2.0), torch.tensor([0.64, 0.36])
    )
    torch.testing.assert_close(noisy.flatten(), torch.tensor([1.6, 1.9]))


@pytest.mark.parametrize(
    ("count", "strategy", "whole", "expected"),
    [
        (10, "uniform", 1000, [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]),
        (10, "midpoints", 1000, [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]),
        (10, "cumulative", 1000, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (1, "uniform", 1000, [0]),
        (1, "midpoints", 1000, [500]),
        (4, "midpoints", 10, [1, 3, 6, 8]),  # the middles 1.25, 3.75, 6.25 and 8.75, rounded down
        (3, "midpoints", 1000, [166, 500, 833]),
    ],
)
def test_timesteps_by_hand(count: int, strategy: str, whole: int, expected: list[int]):
    chosen = timesteps(count, strategy, whole)
    assert chosen.tolist() == expected
    assert chosen.dtype == np.int64


@pytest.mark.parametrize("strategy", ["uniform", "midpoints", "cumulative"])
def test_as_many_timesteps_as_there_are_is_all_of_them(strategy: str):
    np.testing.assert_array_equal(timesteps(1000, strategy, 1000), np.arange(1000))


@pytest.mark.parametrize("count", [1, 7, 10, 100, 333, 999])
def test_midpoints_are_ascending_and_the_middle_of_each_interval_rounded_down(count: int):
    chosen = timesteps(count, "midpoints", 1000)
    length = Fraction(1000, count)
    middles = [(start * length + (start + 1) * length) / 2 for start in range(count)]
    assert chosen.tolist() == [math.floor(middle) for middle in middles]
    assert (np.diff(chosen) > 0).all()


def bank(rows: int | None, purpose: str = "feature noise", seed: int = 0, **more) -> NoiseBank:
    return NoiseBank(purpose, seed, rows, SHAPE, **more)


def test_one_row_is_one_noise_for_all_images_of_all_splits():
    one = bank(1).noise(0, 50, ["train:0", "train:7", "validation:3"])
    assert one.shape == (1, *SHAPE)
    assert one.dtype == np.float32
    np.testing.assert_array_equal(bank(1).noise(0, 50, ["generation:12"]), one)


def test_rows_are_shared_by_images_that_are_equal_modulo_their_number():
    noise = bank(3).noise(0, 50, ["train:1", "train:4", "validation:7", "train:2", "train:3"])
    assert noise.shape == (5, *SHAPE)
    np.testing.assert_array_equal(noise[0], noise[1])
    np.testing.assert_array_equal(noise[0], noise[2])
    assert len({row.tobytes() for row in noise}) == 3


def test_the_rows_of_a_bank_do_not_depend_on_its_size():
    """So the one shared noise is the first row of a larger bank."""
    np.testing.assert_array_equal(
        bank(1).noise(0, 50, [0])[0], bank(52).noise(0, 50, ["train:52"])[0]
    )


def test_without_rows_every_image_of_every_split_has_its_own():
    keys = [f"{split}:{image}" for split in ("train", "validation") for image in range(4)]
    noise = bank(None).noise(0, 50, keys)
    assert len({row.tobytes() for row in noise}) == 8
    alone = np.concatenate([bank(None).noise(0, 50, [key]) for key in reversed(keys)])
    np.testing.assert_array_equal(alone[::-1], noise)


@pytest.mark.parametrize("rows", [1, 4, None])
def test_purpose_seed_index_and_timestep_each_give_other_noises(rows: int | None):
    keys = ["train:0"]
    draws = [
        bank(rows).noise(0, 50, keys),
        bank(rows, purpose="output noise").noise(0, 50, keys),
        bank(rows, seed=1).noise(0, 50, keys),
        bank(rows).noise(1, 50, keys),
        bank(rows).noise(0, 51, keys),
    ]
    assert len({draw.tobytes() for draw in draws}) == 5


@pytest.mark.parametrize("rows", [1, 4, None])
def test_one_for_all_shares_the_noise_among_timesteps_and_nothing_else(rows: int | None):
    shared, keys = bank(rows, one_for_all=True), ["train:0"]
    np.testing.assert_array_equal(shared.noise(0, 50, keys), shared.noise(0, 950, keys))
    assert not np.array_equal(shared.noise(0, 50, keys), shared.noise(1, 50, keys))
    assert not np.array_equal(shared.noise(0, 50, keys), bank(rows).noise(0, 50, keys))


def test_the_type_of_the_timestep_does_not_matter():
    np.testing.assert_array_equal(
        bank(1).noise(0, np.int64(50), [0]), bank(1).noise(0, 50, [0])
    )  # the timesteps come from an array


@pytest.mark.parametrize("rows", [1, 2, None])
def test_noises_are_ordered_by_timestep_and_then_by_number(rows: int | None):
    keys, steps = ["train:0", "train:1", "train:5"], np.array([3, 9])
    drawn = bank(rows).noises(steps, 2, keys)
    assert drawn.shape == (1 if rows == 1 else 3, 4, *SHAPE)
    for image, key in enumerate(keys[: len(drawn)]):
        for place, (step, number) in enumerate([(3, 0), (3, 1), (9, 0), (9, 1)]):
            np.testing.assert_array_equal(
                drawn[image, place], bank(rows).noise(number, step, [key])[0]
            )


def test_noises_are_standard_normal():
    drawn = NoiseBank("feature noise", 0, None, (1, 32, 32)).noises(
        np.arange(5), 2, list(range(10))
    )  # 102,400 numbers: the mean is off by about 0.003, the deviation by about 0.002
    assert abs(drawn.mean()) < 0.015
    assert abs(drawn.std() - 1) < 0.01
