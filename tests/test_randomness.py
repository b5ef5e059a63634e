"""Draws depend on their key alone: not on order, global state, process or shape of the run."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from attribution import randomness

KEY = ("training noise", 3, None, 250, "train:17")


def test_the_same_key_gives_the_same_draws_whatever_was_drawn_before():
    first = randomness.normal((5, 2), *KEY)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    randomness.generator("something else", 0).random(1000)
    randomness.generator(*KEY).random(7)
    np.testing.assert_array_equal(randomness.normal((5, 2), *KEY), first)


def test_draws_leave_the_global_generators_alone():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    randomness.normal((100,), "a", 1)
    randomness.seed("a", 1)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_another_process_draws_the_same():
    program = (
        "from attribution import randomness as r;"
        f"print(r.normal((4,), *{KEY!r}).tobytes().hex(), r.seed(*{KEY!r}))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert outputs == {
        f"{randomness.normal((4,), *KEY).tobytes().hex()} {randomness.seed(*KEY)}",
    }


@pytest.mark.parametrize(
    "other",
    [
        ("training noises", 3, None, 250, "train:17"),
        ("training noise", 4, None, 250, "train:17"),
        ("training noise", 3, 0, 250, "train:17"),
        ("training noise", 3, "None", 250, "train:17"),
        ("training noise", "3", None, 250, "train:17"),
        ("training noise", 3, None, "train:17", 250),
        ("training noise", 3, None, 250),
        ("training noise", 3, None, 250, "train:1", "7"),
        ("training noise", 3, None, 25, "0train:17"),
        (*KEY, None),
        (*KEY, ""),
    ],
)
def test_every_part_of_the_key_its_type_and_its_place_matter(other: tuple):
    assert randomness.digest(*other) != randomness.digest(*KEY)
    assert not np.array_equal(randomness.normal((3,), *other), randomness.normal((3,), *KEY))
    assert randomness.seed(*other) != randomness.seed(*KEY)


def test_draws_are_standard_normal_float32():
    draws = randomness.normal((200, 100), "normality", 0)
    assert draws.dtype == np.float32
    # 20,000 draws: 1.63 / sqrt(20000) = 0.0115 is the 1 % critical value of the test.
    assert stats.kstest(draws.ravel(), "norm").statistic < 0.0115


def test_neighbouring_keys_are_uncorrelated():
    draws = np.stack([randomness.normal((5000,), "correlation", i) for i in range(12)])
    off_diagonal = np.corrcoef(draws)[np.triu_indices(12, k=1)]
    # One correlation has a deviation of 1 / sqrt(5000) = 0.014; 66 stay below 4.5 of those.
    assert np.abs(off_diagonal).max() < 0.064


def test_seeds_fit_torch_and_fill_63_bits():
    seeds = [randomness.seed("fill", i) for i in range(200)]
    assert all(0 <= one < 2**63 for one in seeds)
    assert len(set(seeds)) == 200
    assert max(seeds) > 2**62  # 1 in 2^200 not to happen
    torch.Generator().manual_seed(max(seeds))
