"""Every gradient engine against plain autograd, one image and one timestep at a time."""

import functools

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import nn

from attribution.errors import ConfigurationError, NumericalError
from attribution.gradients import GradientEngine, _row_norms, choose_engine
from attribution.output_functions import OUTPUT_FUNCTIONS, elbo_weights, output_function

BETAS = torch.linspace(1e-4, 0.02, 1000)
ALPHAS_CUMPROD = (1 - BETAS).cumprod(0)
TIMESTEPS = torch.tensor([3, 400, 900])
ENGINES = ["batched_backward", "hooks", "vmap"]


@functools.cache
def unet(attention: bool = True, scale_shift: bool = False) -> UNet2DModel:
    torch.manual_seed(1)
    kind = "Attn" if attention else ""
    return UNet2DModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", f"{kind}DownBlock2D"),
        up_block_types=(f"{kind}UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        add_attention=attention,
        downsample_padding=0,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
    )


def draws(images: int = 3, shared: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(images, 2, 8, 8, generator=generator)
    noise = torch.randn(1 if shared else images, 3, 2, 8, 8, generator=generator)
    return pixels, noise, TIMESTEPS


def plain_autograd(
    model,
    name,
    images,
    noise,
    timesteps,
    accepts=lambda name: True,
    normalise=False,
    **conditioning,
):
    """g_i by the formula, without any batch. images: [images, (timesteps,) C, H, W]."""
    # All trainable ones: torch 2.13 crashes on some subsets, see attribution.gradients.
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    noise = noise.expand(len(images), *noise.shape[1:])
    weights = elbo_weights(BETAS)
    model.eval()
    rows = []
    for i in range(len(images)):
        total = 0
        for k, t in enumerate(timesteps):
            abar = ALPHAS_CUMPROD[t]
            picture = images[i : i + 1] if images.ndim == 4 else images[i : i + 1, k]
            noisy = abar.sqrt() * picture + (1 - abar).sqrt() * noise[i : i + 1, k]
            own = {key: value[i : i + 1] for key, value in conditioning.items()}
            prediction = model(noisy, t[None], **own).sample
            value = output_function(name)(prediction, noise[i : i + 1, k], weights[t][None]).sum()
            gradient = torch.autograd.grad(
                value, list(parameters.values()), allow_unused=True, materialize_grads=True
            )
            chosen = [g.flatten() for n, g in zip(parameters, gradient, strict=True) if accepts(n)]
            one = torch.cat(chosen)
            total = total + (one / one.double().norm() if normalise else one)
        rows.append(total / len(timesteps))
    return torch.stack(rows)


def assert_same(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 2e-5) -> None:
    assert actual.shape == expected.shape and actual.dtype == torch.float32
    error = (actual - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < tolerance, error


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("attention, scale_shift", [(True, False), (True, True), (False, False)])
def test_engines_equal_plain_autograd(engine, attention, scale_shift):
    model = unet(attention, scale_shift)
    compute = GradientEngine(model, ALPHAS_CUMPROD, "simple", engine=engine)
    assert compute.name == engine
    assert list(compute.parameter_names) == [name for name, _ in model.named_parameters()]
    assert compute.dimension == sum(p.numel() for p in model.parameters())
    assert_same(compute(*draws()), plain_autograd(model, "simple", *draws()))


@pytest.mark.parametrize("name", OUTPUT_FUNCTIONS)
def test_every_output_function(name):
    model = unet(attention=False)
    expected = plain_autograd(model, name, *draws(images=2))
    for engine in ENGINES:
        compute = GradientEngine(model, ALPHAS_CUMPROD, name, engine=engine)
        # abar_t / abar_{t-1} of float32 products gives beta_t to about 1e-4.
        assert_same(compute(*draws(images=2)), expected, 1e-3 if name == "elbo" else 2e-5)


def test_elbo_weight_can_be_given():
    weights = elbo_weights(BETAS)
    compute = GradientEngine(
        unet(attention=False), ALPHAS_CUMPROD, "elbo", engine="hooks", elbo_weight=weights
    )
    assert_same(compute(*draws()), plain_autograd(unet(attention=False), "elbo", *draws()))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("part", ["up_blocks", "bias", "to_k.weight"])
def test_subsets_of_parameters(engine, part):
    def accepts(name: str) -> bool:
        return part in name

    compute = GradientEngine(unet(), ALPHAS_CUMPROD, "square", engine=engine, parameters=accepts)
    assert all(part in name for name in compute.parameter_names)
    expected = plain_autograd(unet(), "square", *draws(images=2), accepts=accepts)
    assert_same(compute(*draws(images=2)), expected, 2e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_parameters_are_left_out(engine):
    model = unet(attention=False)
    model.conv_in.requires_grad_(False)
    try:
        compute = GradientEngine(model, ALPHAS_CUMPROD, "simple", engine=engine)
        assert not any(name.startswith("conv_in") for name in compute.parameter_names)
        assert_same(compute(*draws()), plain_autograd(model, "simple", *draws()))
        assert not model.conv_in.weight.requires_grad
    finally:
        model.conv_in.requires_grad_(True)


@pytest.mark.parametrize("engine", ["batched_backward", "hooks"])
def test_bf16_is_close_to_fp32(engine):
    full = GradientEngine(unet(), ALPHAS_CUMPROD, "simple", engine=engine)(*draws())
    half = GradientEngine(unet(), ALPHAS_CUMPROD, "simple", engine=engine, precision="bf16")(
        *draws()
    )
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    assert nn.functional.cosine_similarity(half, full).min() > 0.99


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("pairs", [1, 2, 4, 6])
def test_results_do_not_depend_on_the_size_of_passes(engine, pairs):
    model = unet(attention=False)
    whole = GradientEngine(model, ALPHAS_CUMPROD, "simple", engine=engine)(*draws())
    parts = GradientEngine(model, ALPHAS_CUMPROD, "simple", engine=engine, pairs_per_pass=pairs)(
        *draws()
    )
    assert_same(parts, whole)


@pytest.mark.parametrize("engine", ENGINES)
def test_results_do_not_depend_on_the_other_images(engine):
    compute = GradientEngine(unet(), ALPHAS_CUMPROD, "simple", engine=engine)
    images, noise, timesteps = draws()
    alone = torch.cat([compute(images[i, None], noise[i, None], timesteps) for i in range(3)])
    assert_same(alone, compute(images, noise, timesteps))


@pytest.mark.parametrize("engine", ENGINES)
def test_shared_noise_equals_the_same_noise_repeated(engine):
    compute = GradientEngine(unet(attention=False), ALPHAS_CUMPROD, "simple", engine=engine)
    images, noise, timesteps = draws(shared=True)
    repeated = noise.repeat(len(images), 1, 1, 1, 1)
    assert_same(compute(images, noise, timesteps), compute(images, repeated, timesteps))


def paths(images: int = 3) -> torch.Tensor:
    """Another picture at every timestep: [images, timesteps, C, H, W]."""
    return torch.randn(images, 3, 2, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("pairs", [None, 2])
def test_another_picture_at_each_timestep(engine, shared, normalise, pairs):
    model, (_, noise, timesteps) = unet(attention=False), draws(shared=shared)
    compute = GradientEngine(
        model, ALPHAS_CUMPROD, "simple", engine, pairs_per_pass=pairs, normalise=normalise
    )
    expected = plain_autograd(model, "simple", paths(), noise, timesteps, normalise=normalise)
    assert_same(compute(paths(), noise, timesteps), expected)
    first = paths()[:, :1].expand(-1, 3, -1, -1, -1)  # one picture three times is that picture
    assert_same(compute(first, noise, timesteps), compute(paths()[:, 0], noise, timesteps))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("pairs", [None, 1, 2])
def test_normalised_gradients_are_the_mean_of_unit_gradients(engine, attention, pairs):
    model = unet(attention)
    compute = GradientEngine(
        model, ALPHAS_CUMPROD, "square", engine, pairs_per_pass=pairs, normalise=True
    )
    expected = plain_autograd(model, "square", *draws(), normalise=True)
    assert_same(compute(*draws()), expected)
    plain = plain_autograd(model, "square", *draws())
    apart = nn.functional.normalize(expected) - nn.functional.normalize(plain)
    assert (apart.norm(dim=1) > 1e-3).all()  # the timesteps' norms differ, so the directions do


@pytest.mark.parametrize("engine", ENGINES)
def test_one_normalised_pair_has_norm_one_however_small_its_gradient(engine):
    """The weights of the last layer are so small that squares of gradients vanish in float32."""
    model = Small("once")
    with torch.no_grad():
        model.last.weight.mul_(1e-25)
        model.last.bias.zero_()
    images, noise, timesteps = draws()
    arguments = (images, noise[:, :1], timesteps[:1])
    compute = GradientEngine(model, ALPHAS_CUMPROD, "square", engine, normalise=True)
    plain = GradientEngine(model, ALPHAS_CUMPROD, "square", engine)(*arguments)
    assert (plain.square().sum(1) == 0).all() and plain.any()
    torch.testing.assert_close(compute(*arguments).norm(dim=1), torch.ones(3))


def test_norms_of_long_rows_are_those_of_float64():
    rows = torch.randn(4, 150_000, generator=torch.Generator().manual_seed(0))
    rows *= torch.tensor([[1.0], [1e-30], [0.0], [1e15]])
    expected = rows.double().norm(dim=1)
    torch.testing.assert_close(_row_norms(rows), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_zero_gradient_has_no_direction_and_its_row_is_named(engine):
    """With x_t = 0 in one pair and no biases, the network predicts 0 and nothing moves it."""
    model = Small("once")
    with torch.no_grad():
        model.first.bias.zero_()
        model.last.bias.zero_()
    images, noise, timesteps = draws()
    images[2], noise[2, 1] = 0.0, 0.0
    compute = GradientEngine(model, ALPHAS_CUMPROD, "square", engine, normalise=True)
    with pytest.raises(NumericalError, match=r"rows \[2\].*timestep 400.*zero") as raised:
        compute(images, noise, timesteps)
    assert raised.value.rows == [2]
    images[2] = float("nan")
    with pytest.raises(NumericalError, match=r"\[2\].*not finite"):
        compute(images, noise, timesteps)


@pytest.mark.parametrize("pairs", [None, 1, 2, 4])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("along", [False, True])
def test_residuals_are_root_mean_squares_of_single_predictions(pairs, shared, along):
    model, (images, noise, timesteps) = unet(attention=False), draws(shared=shared)
    images = paths() if along else images
    expected = []
    for i in range(3):
        roots = []
        for k, t in enumerate(timesteps):
            abar = ALPHAS_CUMPROD[t].double()
            eps = noise[0 if shared else i, k]
            picture = images[i, k] if along else images[i]
            noisy = (abar.sqrt() * picture + (1 - abar).sqrt() * eps).float()
            with torch.no_grad():
                error = model.eval()(noisy[None], t[None]).sample[0] - eps
            roots.append(float(error.double().square().mean()) ** 0.5)
        expected.append(sum(roots) / len(roots))
    compute = GradientEngine(model, ALPHAS_CUMPROD, "square", pairs_per_pass=pairs)
    residuals = compute.residuals(images, noise, timesteps)
    assert residuals.dtype == torch.float32
    torch.testing.assert_close(residuals, torch.tensor(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_dropout_is_off_and_the_model_is_left_as_it_was(engine):
    model = unet(attention=False)
    expected = plain_autograd(model, "simple", *draws(images=2))
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    kept_gradient = torch.ones_like(model.conv_in.weight)
    model.train()
    model.mid_block.eval()
    model.conv_in.weight.grad = kept_gradient
    flags = [module.training for module in model.modules()]
    try:
        for dropout in dropouts:
            dropout.p = 0.5
        compute = GradientEngine(model, ALPHAS_CUMPROD, "simple", engine=engine)
        assert_same(compute(*draws(images=2)), expected)
        assert [module.training for module in model.modules()] == flags
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert model.conv_in.weight.grad is kept_gradient
        assert torch.equal(kept_gradient, torch.ones_like(kept_gradient))
        assert model.conv_out.weight.grad is None
        assert not any(module._forward_hooks for module in model.modules())
    finally:
        for dropout in dropouts:
            dropout.p = 0.0
        model.conv_in.weight.grad = None
        model.eval()


@pytest.mark.parametrize("engine", ENGINES)
def test_no_grad_around_the_call_changes_nothing(engine):
    compute = GradientEngine(unet(attention=False), ALPHAS_CUMPROD, "simple", engine=engine)
    expected = compute(*draws())
    with torch.no_grad():
        assert torch.equal(compute(*draws()), expected)


def test_same_call_same_bytes():
    compute = GradientEngine(unet(), ALPHAS_CUMPROD, "simple", engine="hooks")
    assert torch.equal(compute(*draws()), compute(*draws()))


@pytest.mark.parametrize("engine", ENGINES)
def test_no_images_give_no_rows(engine):
    compute = GradientEngine(unet(attention=False), ALPHAS_CUMPROD, "simple", engine=engine)
    images, noise, timesteps = draws(shared=True)
    assert compute(images[:0], noise, timesteps).shape == (0, compute.dimension)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_that_are_not_finite_are_named(engine):
    compute = GradientEngine(unet(attention=False), ALPHAS_CUMPROD, "simple", engine=engine)
    images, noise, timesteps = draws()
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"\[1\]") as raised:
        compute(images, noise, timesteps)
    assert raised.value.rows == [1]


def test_conditioning_goes_with_its_image_and_lora_is_supported():
    from peft import LoraConfig

    torch.manual_seed(3)
    model = UNet2DConditionModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=6,
        attention_head_dim=4,
    )
    model.requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    states = torch.randn(3, 5, 6)
    expected = plain_autograd(model, "simple", *draws(), encoder_hidden_states=states)
    for engine in ENGINES:
        compute = GradientEngine(model, ALPHAS_CUMPROD, "simple", engine=engine)
        assert all("lora" in name for name in compute.parameter_names)
        assert_same(compute(*draws(), {"encoder_hidden_states": states}), expected, 1e-4)


class Prediction:
    def __init__(self, sample: torch.Tensor) -> None:
        self.sample = sample


class Small(nn.Module):
    """A model that the hook engine can or cannot do, by the way it uses its convolution."""

    def __init__(self, use: str) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.use = use
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 2, 1)
        if use == "other type":
            self.odd = nn.ConvTranspose2d(2, 2, 3, padding=1)
        if use == "unused":
            self.idle = nn.Linear(3, 3)

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> Prediction:
        hidden = self.last(self.first(noisy).tanh()) * (1 + timesteps.view(-1, 1, 1, 1) / 1000)
        if self.use == "twice":
            hidden = self.last(self.first(hidden).tanh())
        if self.use == "other type":
            hidden = self.odd(hidden)
        if self.use == "functional":
            hidden = hidden + self.last.weight.mean() * noisy
        return Prediction(hidden)


@pytest.mark.parametrize(
    "use, named", [("twice", "first"), ("other type", "odd"), ("functional", "last.weight")]
)
def test_models_that_hooks_cannot_do(use, named):
    expected = plain_autograd(Small(use), "simple", *draws())
    with pytest.raises(ConfigurationError, match=rf"'{named}'.*batched_backward"):
        GradientEngine(Small(use), ALPHAS_CUMPROD, "simple", engine="hooks")(*draws())
    compute = GradientEngine(Small(use), ALPHAS_CUMPROD, "simple")
    assert_same(compute(*draws()), expected)
    assert compute.name == "batched_backward"


@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_that_the_output_does_not_depend_on_have_gradient_zero(engine):
    model = Small("unused")
    expected = plain_autograd(model, "simple", *draws())
    assert_same(GradientEngine(model, ALPHAS_CUMPROD, "simple", engine=engine)(*draws()), expected)


def test_auto_follows_the_rule():
    compute = GradientEngine(unet(attention=False), ALPHAS_CUMPROD, "simple")
    assert compute.name == choose_engine(compute.dimension, "cpu")
    assert_same(compute(*draws()), plain_autograd(unet(attention=False), "simple", *draws()))


def test_wrong_settings_are_refused():
    build = functools.partial(GradientEngine, unet(attention=False), ALPHAS_CUMPROD)
    with pytest.raises(ConfigurationError, match=r"'mse'.*simple"):
        build("mse")
    with pytest.raises(ConfigurationError, match=r"'fast'.*hooks"):
        build("simple", engine="fast")
    with pytest.raises(ConfigurationError, match=r"'fp8'.*bf16"):
        build("simple", precision="fp8")
    with pytest.raises(ConfigurationError, match="trainable"):
        build("simple", parameters=lambda name: False)
    with pytest.raises(ConfigurationError, match="pairs_per_pass"):
        build("simple", pairs_per_pass=0)
    with pytest.raises(ConfigurationError, match="float32"):
        GradientEngine(Small("once").half(), ALPHAS_CUMPROD, "simple")


def test_shapes_that_do_not_fit_are_refused():
    compute = GradientEngine(unet(attention=False), ALPHAS_CUMPROD, "simple")
    images, noise, timesteps = draws()
    for wrong in (noise[:2], noise[:, :2], noise[..., :4]):
        with pytest.raises(ConfigurationError, match="does not fit"):
            compute(images, wrong, timesteps)
    for wrong in (paths()[:, :2], paths()[0, 0]):
        with pytest.raises(ConfigurationError, match="does not fit"):
            compute(wrong, noise, timesteps)
    with pytest.raises(ConfigurationError, match="2 rows for 3 images"):
        compute(images, noise, timesteps, {"class_labels": torch.zeros(2)})
