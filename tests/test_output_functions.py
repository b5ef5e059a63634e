"""Output functions against numbers worked by hand."""

import pytest
import torch

from attribution.errors import ConfigurationError
from attribution.output_functions import OUTPUT_FUNCTIONS, elbo_weights, output_function

# Two pairs of one channel of 2 x 2.
PREDICTION = torch.tensor([[[[1.0, -2.0], [2.0, 4.0]]], [[[0.0, 3.0], [-4.0, 0.0]]]])
NOISE = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]], [[[0.0, 1.0], [0.0, 0.0]]]])
WEIGHT = torch.tensor([2.0, 0.5])

BY_HAND = {
    "simple": [(0 + 4 + 4 + 16) / 4, (0 + 4 + 16 + 0) / 4],
    "elbo": [2.0 * 6.0, 0.5 * 5.0],
    "square": [(1 + 4 + 4 + 16) / 4, (9 + 16) / 4],
    "average": [5 / 4, -1 / 4],
    "l1_norm": [9.0, 7.0],
    "l2_norm": [5.0, 5.0],
    "linf_norm": [4.0, 4.0],
}


def test_every_function_has_an_example():
    assert set(BY_HAND) == set(OUTPUT_FUNCTIONS)


@pytest.mark.parametrize("name", BY_HAND)
def test_values_by_hand(name):
    values = output_function(name)(PREDICTION, NOISE, WEIGHT)
    assert values.tolist() == pytest.approx(BY_HAND[name])


@pytest.mark.parametrize("name", BY_HAND)
def test_only_elbo_reads_the_weight(name):
    if OUTPUT_FUNCTIONS[name].needs_weight:
        with pytest.raises(ConfigurationError, match="elbo"):
            output_function(name)(PREDICTION, NOISE, None)
    else:
        values = output_function(name)(PREDICTION, NOISE, None)
        assert values.tolist() == pytest.approx(BY_HAND[name])


@pytest.mark.parametrize("name", BY_HAND)
def test_reduction_is_float32_for_half_inputs_under_autocast(name):
    prediction = torch.full((1, 1, 32, 32), 1.0 + 2**-7, dtype=torch.bfloat16)  # exact in bfloat16
    noise = torch.zeros_like(prediction)
    exact = output_function(name)(prediction.double().float(), noise.float(), torch.ones(1))
    with torch.autocast("cpu", torch.bfloat16):
        values = output_function(name)(prediction, noise, torch.ones(1))
    assert values.dtype == torch.float32
    assert torch.equal(values, exact)


def test_gradient_of_the_2_norm_is_zero_at_zero():
    prediction = torch.zeros(1, 1, 2, 2, requires_grad=True)
    output_function("l2_norm")(prediction, prediction.detach()).sum().backward()
    assert torch.equal(prediction.grad, torch.zeros(1, 1, 2, 2))


def test_elbo_weights_by_hand():
    # beta = 1/2, 1/2: alpha = 1/2, abar = 1/2, 1/4; w = (1/2) / (2 * 1/2 * (1/2, 3/4)).
    assert elbo_weights(torch.tensor([0.5, 0.5])).tolist() == pytest.approx([1.0, 2.0 / 3.0])


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"'mse'.*simple.*linf_norm"):
        output_function("mse")
