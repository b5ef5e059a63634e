"""Training: resumed runs equal undisturbed ones bit for bit, steps equal float64 ones by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from small_network import DIFFUSION, network_settings

from attribution.errors import NumericalError
from attribution.inputs import PixelSet
from attribution.training import Recipe, Trainer, batches, draws, learning_rate

torch.set_num_threads(1)
MODEL = network_settings(4)
TRAINING: dict[str, Any] = {
    "epochs": 4,
    "batch_size": 4,
    "learning_rate": 0.01,
    "betas": [0.9, 0.99],
    "epsilon": 1e-8,
    "weight_decay": 0.01,
    "warmup_fraction": 0.1,
    "gradient_clip": 1.0,
    "dropout": 0.2,
    "flip": True,
    "caption_dropout": 0.0,
    "accumulation": 1,
    "checkpoints": 12,
}
IMAGES = np.random.default_rng(0).integers(0, 256, (14, 1, 8, 8), dtype=np.uint8)
ROWS = np.array([0, 2, 3, 5, 6, 7, 9, 10, 12, 13])  # 10 rows: batches of 4, 4 and 2
SPEC = {"code": "1", "seed": 0}
CPU = torch.device("cpu")
NEVER = math.inf


def trainer(rows: np.ndarray = ROWS, seed: int = 0, images: np.ndarray = IMAGES, **more: Any):
    compute = {"precision": "fp32", "device": "cpu"}
    recipe = Recipe(MODEL, DIFFUSION, {**TRAINING, **more}, compute)
    return Trainer(PixelSet(images), rows, recipe, seed, CPU)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([values.detach().flatten() for values in model.state_dict().values()])


class Interrupted(Exception):
    """What stands for a kill: it leaves `run` at once, and the state file as it was."""


def interrupt_at(step: int) -> Callable[[int, UNet2DModel], None]:
    """A callback that stops at a checkpoint; with 12 checkpoints of 12 steps, at any step."""

    def stop(number: int, model: UNet2DModel) -> None:
        if number == step:
            raise Interrupted

    return stop


def undisturbed(tmp_path: Path, **more: Any) -> tuple[torch.Tensor, list[float]]:
    model, losses = trainer(**more).run(tmp_path / "undisturbed.pt", SPEC, NEVER)
    return weights(model), losses


# Step 6 and 9 close an epoch; the state before is one in the middle of it, or at its last but one.
@pytest.mark.parametrize("step", [2, 5, 6, 9, 12])
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(tmp_path: Path, step: int):
    state = tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        trainer().run(state, SPEC, 0, interrupt_at(step))
    resumed = trainer()
    torch.manual_seed(step)  # what the process drew before must not matter
    model, losses = resumed.run(state, SPEC, NEVER)
    expected, expected_losses = undisturbed(tmp_path)
    assert torch.equal(weights(model), expected)
    assert len(losses) == len(expected_losses) == 4
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)


@pytest.mark.parametrize("step", [2, 5, 6, 9, 12])
def test_a_resumed_run_reports_the_same_losses_bit_for_bit(tmp_path: Path, step: int):
    """They stand in the model's manifest."""
    state = tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        trainer().run(state, SPEC, 0, interrupt_at(step))
    assert trainer().run(state, SPEC, NEVER)[1] == undisturbed(tmp_path)[1]


def test_a_resumed_run_does_the_rest_and_not_all_again(tmp_path: Path):
    state, seen = tmp_path / "state.pt", []
    with pytest.raises(Interrupted):
        trainer().run(state, SPEC, 0, interrupt_at(6))
    trainer().run(state, SPEC, NEVER, lambda number, model: seen.append(number))
    assert seen == [6, 7, 8, 9, 10, 11, 12]  # the state was saved after step 5


def test_a_run_interrupted_twice_ends_the_same(tmp_path: Path):
    state = tmp_path / "state.pt"
    for step in (3, 9):
        with pytest.raises(Interrupted):
            trainer().run(state, SPEC, 0, interrupt_at(step))
    assert torch.equal(weights(trainer().run(state, SPEC, 0)[0]), undisturbed(tmp_path)[0])


def test_a_run_whose_epochs_are_one_step_is_saved_too(tmp_path: Path):
    """A batch as large as the training set, or a small set."""
    state = tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        trainer(batch_size=100, epochs=12).run(state, SPEC, 0, interrupt_at(8))
    assert state.is_file()


def test_the_state_is_removed_at_the_end(tmp_path: Path):
    trainer().run(tmp_path / "scratch" / "state.pt", SPEC, 0)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_state_of_another_spec_is_not_used(tmp_path: Path):
    state = tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        trainer(seed=1).run(state, {**SPEC, "seed": 1}, 0, interrupt_at(6))
    assert state.is_file()
    assert torch.equal(weights(trainer().run(state, SPEC, NEVER)[0]), undisturbed(tmp_path)[0])


@pytest.mark.parametrize("content", ["empty", "truncated", "rubbish", "flipped"])
def test_a_state_that_cannot_be_read_starts_training_anew(tmp_path: Path, content: str):
    state = tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        trainer().run(state, SPEC, 0, interrupt_at(6))
    whole = bytearray(state.read_bytes())
    if content == "flipped":
        whole[100:110] = bytes(10)
    replaced = {"empty": b"", "truncated": whole[: len(whole) // 2], "rubbish": b"no state" * 99}
    state.write_bytes(replaced.get(content, whole))
    assert torch.equal(weights(trainer().run(state, SPEC, NEVER)[0]), undisturbed(tmp_path)[0])


def test_saving_changes_nothing(tmp_path: Path):
    model, losses = trainer().run(tmp_path / "state.pt", SPEC, 0)
    assert (weights(model).numpy().tobytes(), losses) == (
        undisturbed(tmp_path)[0].numpy().tobytes(),
        undisturbed(tmp_path)[1],
    )


@pytest.mark.parametrize(("epochs", "checkpoints"), [(4, 4), (4, 3), (4, 12), (4, 5), (1, 3)])
def test_checkpoints_are_evenly_spaced_and_the_last_is_the_final_model(
    tmp_path: Path, epochs: int, checkpoints: int
):
    seen, one = [], trainer(epochs=epochs, checkpoints=checkpoints)

    def keep(number: int, model: UNet2DModel) -> None:
        seen.append((number, one.step, weights(model)))

    model, _ = one.run(tmp_path / "state.pt", SPEC, NEVER, keep)
    assert [number for number, _, _ in seen] == list(range(1, checkpoints + 1))
    for number, step, _ in seen:
        assert abs(step - 3 * epochs * number / checkpoints) <= 0.5
    assert torch.equal(seen[-1][2], weights(model))


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("steps", [7, 40])
def test_the_learning_rate_is_diffusers_cosine_schedule(steps: int, warmup: float):
    settings = {"learning_rate": 3e-4, "warmup_fraction": warmup}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=3e-4)
    reference = get_cosine_schedule_with_warmup(optimizer, math.ceil(warmup * steps), steps)
    for step in range(steps):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(step, steps, settings) == pytest.approx(expected, rel=1e-9, abs=1e-15)
        optimizer.step()
        reference.step()


def test_the_learning_rate_by_hand():
    settings = {"learning_rate": 1.0, "warmup_fraction": 0.2}
    # 10 steps, 2 of warm-up: 0, 1/2, then (1 + cos(pi n / 8)) / 2 for n = 0 … 7.
    rates = [learning_rate(step, 10, settings) for step in range(10)]
    assert rates[:3] == [0, 0.5, 1]
    assert rates[6] == pytest.approx(0.5)  # n = 4
    assert rates[4] == pytest.approx((1 + 0.5**0.5) / 2)  # n = 2


@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_the_first_two_steps_equal_adamw_by_hand_in_float64(tmp_path: Path, clip: float):
    """The large epsilon keeps the step from being the sign of a gradient that rounding decides."""
    settings = {
        "dropout": 0.0,
        "warmup_fraction": 0.0,
        "epsilon": 0.01,
        "gradient_clip": clip,
        "batch_size": 10,
        "epochs": 2,
    }
    one = trainer(**settings)
    model = trainer(**settings).model.double().train()
    parameters = list(model.parameters())
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    abar = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
    images, expected_losses = torch.from_numpy(IMAGES).double() / 255 * 2 - 1, []
    for step in range(2):
        (rows,) = batches(ROWS, 10, 0, epoch=step)
        steps, flips, noise = draws(0, step, 10, (1, 8, 8), 1000)
        noise, t = torch.from_numpy(noise).double(), torch.from_numpy(steps)
        clean = torch.stack(
            [
                images[row].flip(-1) if flip else images[row]
                for row, flip in zip(rows, flips, strict=True)
            ]
        )
        kept = abar[t][:, None, None, None]
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        loss = ((model(noisy, t).sample - noise) ** 2).mean()
        expected_losses.append(loss.item())
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        assert (norm > clip) == (clip < 1)  # one case clips and the other does not
        rate = 0.01 * (1 + math.cos(math.pi * step / 2)) / 2  # 0.01, then 0.005
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                g = g * min(1, clip / norm)
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.99).add_(0.01 * g**2)
                p.mul_(1 - rate * 0.01)  # decoupled weight decay
                m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.99 ** (step + 1))
                p.sub_(rate * m_hat / (v_hat.sqrt() + 0.01))
    trained, losses = one.run(tmp_path / "state.pt", SPEC, NEVER)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    torch.testing.assert_close(weights(trained).double(), weights(model), rtol=0, atol=2e-5)
    moved = (weights(trained) - weights(trainer(**settings).model)).abs().max()
    assert moved > 2e-3  # a hundred times the tolerance


def test_models_of_one_seed_and_different_subsets_share_initialisation_and_draws():
    assert torch.equal(weights(trainer(ROWS).model), weights(trainer(ROWS[:5]).model))
    assert not torch.equal(weights(trainer(ROWS).model), weights(trainer(seed=1).model))
    for a, b in zip(draws(0, 7, 4, (1, 8, 8), 1000), draws(0, 7, 4, (1, 8, 8), 1000), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_larger_learning_set_does_not_change_a_subset_s_model(tmp_path: Path):
    """The images that are not trained on do not matter."""
    others = IMAGES.copy()
    others[[1, 4, 8, 11]] = 255
    assert torch.equal(undisturbed(tmp_path)[0], undisturbed(tmp_path, images=others)[0])


def test_the_seed_and_the_subset_change_the_model(tmp_path: Path):
    first = undisturbed(tmp_path)[0]
    assert torch.equal(undisturbed(tmp_path)[0], first)
    assert not torch.equal(undisturbed(tmp_path, seed=1)[0], first)
    assert not torch.equal(undisturbed(tmp_path, rows=ROWS[:8])[0], first)


def test_every_epoch_meets_every_row_once_in_another_order():
    epochs = [batches(ROWS[::-1], 4, 0, epoch) for epoch in range(3)]
    for parts in epochs:
        assert [len(part) for part in parts] == [4, 4, 2]
        assert sorted(np.concatenate(parts)) == ROWS.tolist()
    assert len({np.concatenate(parts).tobytes() for parts in epochs}) == 3
    for a, b in zip(epochs[0], batches(ROWS, 4, 0, 0), strict=True):
        np.testing.assert_array_equal(a, b)  # the order in which the rows are given is nothing


def test_draws_are_uniform_timesteps_fair_flips_and_normal_noise():
    steps, flips, noise = draws(0, 0, 20_000, (1, 2), 10)
    # Each timestep 2,000 times, give or take 42; flips 10,000 +- 71; the noise's mean 0 +- 0.005.
    assert np.abs(np.bincount(steps, minlength=10) - 2000).max() < 200
    assert abs(flips.sum() - 10_000) < 350
    assert abs(noise.mean()) < 0.025
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert not np.array_equal(draws(0, 1, 4, (1, 2), 1000)[2], draws(0, 0, 4, (1, 2), 1000)[2])
    assert not np.array_equal(draws(1, 0, 4, (1, 2), 1000)[2], draws(0, 0, 4, (1, 2), 1000)[2])


def test_flips_mirror_images_and_can_be_switched_off(tmp_path: Path):
    mirrored = np.concatenate([IMAGES, IMAGES[..., ::-1]], axis=-1)  # equal to their mirror images
    mirrored = np.ascontiguousarray(mirrored[..., 4:12])
    np.testing.assert_array_equal(mirrored, mirrored[..., ::-1])
    both = [undisturbed(tmp_path, images=mirrored, flip=flip)[0] for flip in (True, False)]
    assert torch.equal(*both)
    both = [undisturbed(tmp_path, flip=flip)[0] for flip in (True, False)]
    assert not torch.equal(*both)


def test_dropout_is_set_and_changes_training(tmp_path: Path):
    layers = [m for m in trainer().model.modules() if isinstance(m, torch.nn.Dropout)]
    assert {layer.p for layer in layers} == {0.2}
    assert not torch.equal(undisturbed(tmp_path)[0], undisturbed(tmp_path, dropout=0.0)[0])


def dropped(tmp_path: Path, **more: Any) -> list[bytes]:
    """What the first dropout layer drops in each step of a run with batches of 5."""
    one, masks = trainer(batch_size=5, dropout=0.5, **more), []
    layer = next(m for m in one.model.modules() if isinstance(m, torch.nn.Dropout))
    layer.register_forward_hook(
        lambda module, inputs, output: masks.append((output == 0).numpy().tobytes())
    )
    one.run(tmp_path / "state.pt", SPEC, NEVER)
    return masks


def test_dropout_differs_by_step_and_seed_and_not_by_subset(tmp_path: Path):
    masks = dropped(tmp_path)
    assert len(set(masks)) == len(masks) == 8
    assert dropped(tmp_path, rows=np.arange(10)) == masks
    assert not set(dropped(tmp_path, seed=1)) & set(masks)


def test_the_model_comes_back_in_evaluation_mode_and_the_global_generator_untouched(tmp_path: Path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model, _ = trainer().run(tmp_path / "state.pt", SPEC, NEVER)
    assert not model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_training_lowers_the_loss(tmp_path: Path):
    losses = undisturbed(tmp_path, epochs=40)[1]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.7 * losses[0]


def test_a_loss_that_is_not_finite_stops_with_the_way_out(tmp_path: Path):
    one = trainer(seed=3)
    with torch.no_grad():
        one.model.conv_in.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"nan in epoch 1 \(seed 3\).*learning_rate"):
        one.run(tmp_path / "state.pt", SPEC, NEVER)
