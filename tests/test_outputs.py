"""Model outputs against a plain loop over noises, timesteps and queries, one pair at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scripted import assembled, run_script, save_images, save_network
from small_network import DIFFUSION, network

from attribution.diffusion import NoiseBank
from attribution.errors import NumericalError
from attribution.images import read_split, to_model_range
from attribution.outputs import OutputEvaluator
from attribution.stores import Reader

torch.set_num_threads(1)
SETTINGS: dict[str, Any] = {
    "function": "simple",
    "timesteps": 4,
    "strategy": "midpoints",
    "noises": 2,
    "bank": 1,
    "seed": 0,
    "groups": 2,
    "others": [],
}
STEPS = [125, 375, 625, 875]
KEYS = ["validation:7", "validation:2", "validation:12"]
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
CPU = torch.device("cpu")


def evaluate(batch: int = 5, model: Any = None, images: torch.Tensor = IMAGES, **more: Any):
    evaluator = OutputEvaluator(
        images, KEYS[: len(images)], {**SETTINGS, **more}, DIFFUSION, "fp32", batch, CPU
    )
    values = evaluator(model or network(8))
    assert list(values) == [evaluator.settings["function"], *evaluator.settings["others"]]
    return next(iter(values.values())) if len(values) == 1 else values


@torch.no_grad()
def by_loop(function: Any = None, bank: int | None = 1, seed: int = 0) -> np.ndarray:
    """[noises, timesteps, queries] in float64 from single predictions; `simple` by default."""
    function = function or (lambda eps, noise, t: ((eps - noise) ** 2).mean())
    noises = NoiseBank("output noise", seed, bank, (1, 8, 8))
    values = np.zeros((2, 4, 3))
    for index in range(2):
        for place, t in enumerate(STEPS):
            for query, key in enumerate(KEYS):
                noise = torch.from_numpy(noises.noise(index, t, [key]))
                step = torch.tensor([t])
                noisy = DDPMScheduler(1000).add_noise(IMAGES[query][None], noise, step)
                predicted = network(8)(noisy, step).sample
                values[index, place, query] = function(
                    predicted.double().numpy(), noise.double().numpy(), t
                )
    return values


def in_groups(values: np.ndarray) -> np.ndarray:
    """Timesteps 0 and 2 in the first group, 1 and 3 in the second."""
    return np.stack([(values[:, 0] + values[:, 2]) / 2, (values[:, 1] + values[:, 3]) / 2], 1)


@pytest.mark.parametrize("bank", [1, 2, None])
def test_outputs_equal_a_plain_loop(bank: int | None):
    computed = evaluate(bank=bank)
    assert computed.shape == (2, 2, 3)
    assert computed.dtype == np.float32
    np.testing.assert_allclose(computed, in_groups(by_loop(bank=bank)), rtol=2e-5)


def test_the_elbo_weighs_every_timestep():
    betas = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - betas)

    def elbo(predicted: np.ndarray, noise: np.ndarray, t: int) -> float:
        weight = betas[t] / (2 * (1 - betas[t]) * (1 - abar[t]))
        return weight * ((predicted - noise) ** 2).mean()

    np.testing.assert_allclose(evaluate(function="elbo"), in_groups(by_loop(elbo)), rtol=5e-5)


def test_a_function_that_forgets_the_noise():
    expected = by_loop(lambda predicted, noise, t: (predicted**2).mean())
    np.testing.assert_allclose(evaluate(function="square"), in_groups(expected), rtol=2e-5)


class Counting(torch.nn.Module):
    """Counts the forward passes of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, images: torch.Tensor, steps: torch.Tensor) -> Any:
        self.passes += 1
        return network(8)(images, steps)


@pytest.mark.parametrize("bank", [1, None])
def test_all_functions_come_from_one_forward_pass(bank: int | None):
    names = ["square", "elbo", "average", "l1_norm", "l2_norm", "linf_norm"]
    counting = Counting()
    together = evaluate(batch=6, model=counting, bank=bank, others=names)
    assert counting.passes == 2 * 4 * 3 / 6
    for name in ["simple", *names]:
        np.testing.assert_array_equal(together[name], evaluate(batch=6, bank=bank, function=name))
    expected = {
        "square": lambda predicted, noise, t: (predicted**2).mean(),
        "average": lambda predicted, noise, t: predicted.mean(),
        "l1_norm": lambda predicted, noise, t: np.abs(predicted).sum(),
        "l2_norm": lambda predicted, noise, t: np.sqrt((predicted**2).sum()),
        "linf_norm": lambda predicted, noise, t: np.abs(predicted).max(),
    }
    for name, function in expected.items():
        values = in_groups(by_loop(function, bank))
        np.testing.assert_allclose(together[name], values, rtol=1e-4, atol=1e-5)
        assert together[name].dtype == np.float32


def test_groups_interleave_the_timesteps():
    """Timestep j is in group j mod groups, so that each group spans the whole schedule."""
    single = evaluate(groups=4)  # [noises, timesteps, queries]
    np.testing.assert_allclose(single, by_loop(), rtol=2e-5)
    np.testing.assert_allclose(evaluate(groups=2), in_groups(single), rtol=1e-6)
    np.testing.assert_allclose(evaluate(groups=1)[:, 0], single.mean(1), rtol=1e-6)
    thirds = np.stack([(single[:, 0] + single[:, 3]) / 2, single[:, 1], single[:, 2]], 1)
    np.testing.assert_allclose(evaluate(groups=3), thirds, rtol=1e-6)


@pytest.mark.parametrize("bank", [1, None])
def test_the_batch_size_changes_roundings_only(bank: int | None):
    whole = evaluate(batch=100, bank=bank)
    for batch in (1, 3, 4, 12):
        np.testing.assert_allclose(evaluate(batch=batch, bank=bank), whole, rtol=2e-5)


def test_one_noise_is_shared_by_all_queries_and_null_gives_each_its_own():
    twins = IMAGES[:1].expand(3, -1, -1, -1)
    shared, own = evaluate(images=twins), evaluate(images=twins, bank=None)
    np.testing.assert_allclose(shared, shared[:, :, :1].repeat(3, 2), rtol=2e-5)
    assert (np.abs(own - own[:, :, :1]) > 1e-3)[:, :, 1:].all()
    assert not np.allclose(shared[0], shared[1], rtol=1e-3)  # the two noises differ


def test_a_query_does_not_depend_on_the_others():
    for bank in (1, 2, None):
        alone = evaluate(images=IMAGES[:1], bank=bank)
        np.testing.assert_allclose(alone, evaluate(bank=bank)[:, :, :1], rtol=2e-5)


def test_the_same_model_gives_the_same_bytes_and_another_seed_other_values():
    first = evaluate()
    torch.manual_seed(99)
    assert evaluate().tobytes() == first.tobytes()
    assert not np.allclose(evaluate(seed=1), first, rtol=1e-3)


class Diverged(torch.nn.Module):
    """A network that predicts NaN for one of the queries at one timestep."""

    def forward(self, images: torch.Tensor, steps: torch.Tensor) -> Any:
        prediction = images.clone()
        prediction[steps == 625] = float("nan")
        return type("Output", (), {"sample": prediction})


def test_an_output_that_is_not_finite_stops_the_job():
    with pytest.raises(NumericalError, match="not finite"):
        evaluate(model=Diverged())


IDS = np.array([7, 2, 12])


def run_evaluation(tmp_path: Path, models: str, settings: dict[str, Any], **outputs: Any) -> Reader:
    """Outputs of two models, numbers 1 and 2 of a seed, by the workflow's scripts."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    queries = save_images(tmp_path / "data/validation.zarr", pixels, IDS)
    folder = tmp_path / "models" / models / "seed-0"
    for number, channels in enumerate((4, 8)):
        save_network(folder / f"subset-{number:04d}", network(channels))
    place = tmp_path / "outputs" / models
    part = place / "validation.parts/seed-0-0-1.json"
    run_script(
        "evaluate_outputs",
        {"diffusion": DIFFUSION, "outputs": {**SETTINGS, **outputs}, **settings},
        {"models": [str(folder / "0-1.json")], "queries": str(queries)},
        {"part": part},
        models=models,
        split="validation",
        seed="0",
        first="0",
        last="1",
    )
    assembled(part, place / "validation.zarr")
    return Reader(place / "validation.zarr")


def evaluated(tmp_path: Path, function: str, channels: int) -> np.ndarray:
    images = to_model_range(read_split(tmp_path / "data/validation.zarr")[0].images)
    return evaluate(model=network(channels), images=images, function=function)


def test_the_script_writes_an_array_for_each_function(tmp_path: Path):
    settings = {"subsets": {"count": 2}, "retraining": {"seeds": 1}}
    store = run_evaluation(tmp_path, "subsets", settings, others=["square", "elbo"])
    assert set(store.manifest["arrays"]) == {
        "outputs",
        "outputs_square",
        "outputs_elbo",
        "models",
        "ids",
    }
    names = {"outputs": "simple", "outputs_square": "square", "outputs_elbo": "elbo"}
    for array, function in names.items():
        values = store.read(array)
        assert values.shape == (2, 1, 2, 2, 3)
        for number, channels in enumerate((4, 8)):
            np.testing.assert_array_equal(
                values[number, 0], evaluated(tmp_path, function, channels)
            )
    assert store.read("ids").tolist() == IDS.tolist()


def test_the_pool_has_one_seed_and_f_alone(tmp_path: Path):
    store = run_evaluation(tmp_path, "pool", {"pool": {"count": 2}}, others=["square"])
    assert set(store.manifest["arrays"]) == {"outputs", "models", "ids"}
    values = store.read("outputs")
    assert values.shape == (2, 1, 2, 2, 3)
    np.testing.assert_array_equal(values[1, 0], evaluated(tmp_path, "simple", 8))
