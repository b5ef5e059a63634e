"""The scalar output functions whose parameter gradients are the features of an image.

Each maps the network's prediction for one (image, timestep) pair, and the noise that was added, to
one number f(eps_theta, eps, t). Plain TRAK differentiates the training loss; D-TRAK differentiates
the mean square of the prediction, which forgets the noise and yet attributes better (paper Section
3.2, Table 1). With D the number of elements of one sample, sums and means over channels, height and
width:

    simple      (1/D) sum (eps_theta - eps)^2          L_Simple, the training loss (TRAK)
    elbo        w_t (1/D) sum (eps_theta - eps)^2      L_ELBO, w_t of `elbo_weights`
    square      (1/D) sum eps_theta^2                  L_Square (D-TRAK)
    average     (1/D) sum eps_theta                    L_Avg
    l1_norm     sum |eps_theta|                        L_1-norm
    l2_norm     sqrt(sum eps_theta^2)                  L_2-norm
    linf_norm   max |eps_theta|                        L_inf-norm

The norms are sums and not means, as in the authors' code: their gradients are larger, and so is the
lambda that suits them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attribution.errors import ConfigurationError


@dataclass(frozen=True)
class OutputFunction:
    """One output function: `function(prediction, noise, weight)` gives one number a pair.

    prediction, noise: [pairs, channels, height, width], any floating type; the reduction is
    computed in float32, under autocast too. weight: [pairs], the ELBO weight of each pair's
    timestep, read only where `needs_weight`; None elsewhere. Returns float32 [pairs].

    Errors: ConfigurationError if a weight is needed and None was given.
    """

    name: str
    needs_noise: bool
    needs_weight: bool
    reduce: Callable[[Tensor, Tensor, Tensor | None], Tensor]

    def __call__(self, prediction: Tensor, noise: Tensor, weight: Tensor | None = None) -> Tensor:
        if self.needs_weight and weight is None:
            raise ConfigurationError(
                f"output function {self.name!r} needs the weight of each pair's timestep, "
                "but no weights were given: pass those of elbo_weights(betas)."
            )
        flat_prediction = prediction.float().flatten(1)  # [pairs, elements]
        flat_noise = noise.float().flatten(1) if self.needs_noise else flat_prediction
        with torch.autocast(prediction.device.type, enabled=False):
            return self.reduce(flat_prediction, flat_noise, weight)  # [pairs]


def _simple(prediction: Tensor, noise: Tensor, weight: Tensor | None) -> Tensor:
    return (prediction - noise).square().mean(1)  # [pairs]


def _elbo(prediction: Tensor, noise: Tensor, weight: Tensor | None) -> Tensor:
    assert weight is not None  # OutputFunction.__call__ has asked for it
    return weight.float() * (prediction - noise).square().mean(1)  # [pairs]


def _square(prediction: Tensor, noise: Tensor, weight: Tensor | None) -> Tensor:
    return prediction.square().mean(1)  # [pairs]


def _average(prediction: Tensor, noise: Tensor, weight: Tensor | None) -> Tensor:
    return prediction.mean(1)  # [pairs]


def _l1_norm(prediction: Tensor, noise: Tensor, weight: Tensor | None) -> Tensor:
    return prediction.abs().sum(1)  # [pairs]


def _l2_norm(prediction: Tensor, noise: Tensor, weight: Tensor | None) -> Tensor:
    # vector_norm has gradient 0 at 0, where that of sqrt(sum of squares) is not a number.
    return torch.linalg.vector_norm(prediction, dim=1)  # [pairs]


def _linf_norm(prediction: Tensor, noise: Tensor, weight: Tensor | None) -> Tensor:
    return prediction.abs().amax(1)  # [pairs]


OUTPUT_FUNCTIONS: dict[str, OutputFunction] = {
    function.name: function
    for function in (
        OutputFunction("simple", needs_noise=True, needs_weight=False, reduce=_simple),
        OutputFunction("elbo", needs_noise=True, needs_weight=True, reduce=_elbo),
        OutputFunction("square", needs_noise=False, needs_weight=False, reduce=_square),
        OutputFunction("average", needs_noise=False, needs_weight=False, reduce=_average),
        OutputFunction("l1_norm", needs_noise=False, needs_weight=False, reduce=_l1_norm),
        OutputFunction("l2_norm", needs_noise=False, needs_weight=False, reduce=_l2_norm),
        OutputFunction("linf_norm", needs_noise=False, needs_weight=False, reduce=_linf_norm),
    )
}


def output_function(name: str) -> OutputFunction:
    """The output function called `name`. Errors: ConfigurationError if there is none of that
    name."""
    if name not in OUTPUT_FUNCTIONS:
        known = ", ".join(OUTPUT_FUNCTIONS)
        raise ConfigurationError(f"unknown output function {name!r}: choose one of {known}.")
    return OUTPUT_FUNCTIONS[name]


def elbo_weights(betas: Tensor) -> Tensor:
    """w_t = beta_t / (2 alpha_t (1 - abar_t)), the weight of each timestep in the variational
    bound.

    alpha_t = 1 - beta_t, abar_t = alpha_0 ... alpha_t, and the variance of the reverse step taken
    as beta_t (Ho et al. 2020, Equation 12). betas: [timesteps], the variances of the forward steps.
    Returns float32 [timesteps]; the products are taken in float64.
    """
    betas = betas.double()
    alphas = 1.0 - betas
    return (betas / (2.0 * alphas * (1.0 - alphas.cumprod(0)))).float()  # [timesteps]
