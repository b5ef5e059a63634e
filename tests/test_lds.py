"""The linear datamodeling score against scipy on rows that are really repeated, and by hand."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from attribution import lds
from attribution.predictions import predicted_outputs

SETTINGS: dict[str, Any] = {
    "bootstrap": {"resamples": 8, "interval_resamples": 20, "confidence": 0.9, "seed": 3},
    "heldout": {"splits": 3, "seed": 1},
}
RANDOM = np.random.default_rng(0)


def mean_spearman(predictions: np.ndarray, outputs: np.ndarray) -> float:
    """scipy's correlation of every query, 0 where one side is constant, and their mean."""
    values = []
    for query in range(outputs.shape[1]):
        a, b = predictions[:, query], outputs[:, query]
        constant = np.ptp(a) == 0 or np.ptp(b) == 0
        values.append(0.0 if constant else stats.spearmanr(a, b).statistic)
    return float(np.mean(values))


def example(
    subsets: int = 12, queries: int = 5, ties: bool = False, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Correlated predictions and outputs [subsets, queries]."""
    random = np.random.default_rng(seed)
    outputs = random.normal(size=(subsets, queries))
    predictions = outputs + random.normal(size=outputs.shape)
    return (np.round(predictions), np.round(outputs)) if ties else (predictions, outputs)


def benchmark_example(
    images: int = 30, subsets: int = 14, seeds: int = 3, queries: int = 4
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Masks, outputs [subsets, seeds, queries] and predictions of three lambdas."""
    random = np.random.default_rng(5)
    masks = random.random((subsets, images)) < 0.5
    truth = random.normal(size=(queries, images))
    outputs = -(masks @ truth.T)[:, None] + random.normal(size=(subsets, seeds, queries))
    predictions = [
        predicted_outputs(masks, truth + noise * random.normal(size=truth.shape))
        for noise in (1.5, 0.5, 1.0)
    ]
    return masks, outputs, predictions


def test_predicted_outputs_equal_a_double_loop():
    masks, scores = RANDOM.random((6, 9)) < 0.5, RANDOM.normal(size=(4, 9)).astype(np.float32)
    predictions = predicted_outputs(masks, scores)
    assert predictions.shape == (6, 4)
    assert predictions.dtype == np.float64
    for subset in range(6):
        for query in range(4):
            total = sum(float(scores[query, n]) for n in range(9) if masks[subset, n])
            assert predictions[subset, query] == pytest.approx(-total)


def test_a_tiny_lds_by_hand():
    # Scores 3, 1, -2 of three images. Subsets {0}, {1}, {2}, {0, 1} predict -3, -1, 2, -4: ranks
    # 2, 3, 4, 1. Outputs 0.1, 0.5, 0.4, 0.2 have ranks 1, 4, 3, 2. Differences 1, -1, 1, -1, so
    # that rho = 1 - 6 * 4 / (4 * 15) = 0.6.
    masks = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=bool)
    predictions = predicted_outputs(masks, np.array([[3.0, 1.0, -2.0]]))
    assert predictions[:, 0].tolist() == [-3, -1, 2, -4]
    assert lds.score(predictions, np.array([[0.1], [0.5], [0.4], [0.2]])) == pytest.approx(60)


def test_a_method_that_predicts_perfectly_gets_plus_100():
    """Outputs are losses, and positive scores belong to images that lower them."""
    masks, effect = RANDOM.random((20, 30)) < 0.5, RANDOM.random((3, 30))
    losses = 5 - masks @ effect.T  # training on image n lowers the loss by its effect
    assert lds.score(predicted_outputs(masks, effect), losses) == pytest.approx(100)
    assert lds.score(predicted_outputs(masks, -effect), losses) == pytest.approx(-100)


def test_only_the_order_counts():
    predictions, outputs = example()
    assert lds.score(np.exp(predictions), outputs**3) == lds.score(predictions, outputs)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("queries", [1, 5, 64, 65, 130])
def test_score_equals_scipy(ties: bool, queries: int):
    predictions, outputs = example(queries=queries, ties=ties)
    assert lds.score(predictions, outputs) == pytest.approx(
        100 * mean_spearman(predictions, outputs), abs=1e-9
    )


@pytest.mark.parametrize("ties", [False, True])
def test_score_of_some_subsets_equals_scipy_on_those(ties: bool):
    predictions, outputs = example(ties=ties)
    rows = np.array([0, 3, 4, 7, 9, 11])
    assert lds.score(predictions, outputs, rows) == pytest.approx(
        100 * mean_spearman(predictions[rows], outputs[rows]), abs=1e-9
    )


@pytest.mark.parametrize("ties", [False, True])
def test_weights_are_repetitions(ties: bool):
    predictions, outputs = example(queries=70, ties=ties)
    weights = np.random.default_rng(1).integers(0, 4, size=(6, 12)).astype(float)
    computed = lds.spearman(predictions, outputs, weights)
    assert computed.shape == (6,)
    for value, row in zip(computed, weights.astype(int), strict=True):
        repeated = mean_spearman(np.repeat(predictions, row, 0), np.repeat(outputs, row, 0))
        assert value == pytest.approx(repeated, abs=1e-12)


def test_a_correlation_of_constants_counts_as_zero():
    outputs = RANDOM.normal(size=(7, 2))
    half_constant = np.stack([np.full(7, 0.1), outputs[:, 1]], 1)
    assert lds.score(half_constant, outputs) == pytest.approx(50)  # (0 + 100) / 2
    assert lds.score(outputs, half_constant) == pytest.approx(50)
    alone = np.zeros((1, 7))
    alone[0, 3] = 5  # one subset, five times
    assert lds.spearman(outputs, outputs, alone).tolist() == [0]


def test_resamples_draw_as_many_subsets_as_there_are_and_uniformly():
    weights = lds.resamples(32, 2000, 42)
    assert weights.shape == (2000, 32)
    assert (weights.sum(1) == 32).all()
    np.testing.assert_array_equal(weights[:64], lds.resamples(32, 64, 42))
    assert not np.array_equal(weights, lds.resamples(32, 2000, 43))
    # Each count is Binomial(32, 1/32): mean 1, variance 31/32; over 2,000 the mean is off by 0.022.
    assert np.abs(weights.mean(0) - 1).max() < 0.1
    assert weights.var() == pytest.approx(31 / 32, abs=0.03)


def test_uncertainty_is_that_of_numpy_in_per_cent():
    values = np.array([1.0, 2.0, 4.0, 9.0, 9.0, 9.0])
    settings = {"resamples": 3, "confidence": 0.8}
    result = lds.uncertainty(values, 6.0, settings)
    # Mean of 1, 2, 4 is 7/3; variance with ddof 0 is (1 + 4 + 16) / 3 - 49 / 9 = 14 / 9.
    assert result.mean == pytest.approx(7 / 3)
    assert result.std == pytest.approx((14 / 9) ** 0.5)
    # Percentiles 10 and 90 of six values lie at positions 0.5 and 4.5; all move by 6 - 34 / 6.
    assert (result.low, result.high) == (pytest.approx(1.5 + 1 / 3), pytest.approx(9 + 1 / 3))


def test_the_oracle_takes_the_best_lambda_on_the_reported_subsets():
    _, outputs, predictions = benchmark_example()
    benchmark = lds.Benchmark(outputs, SETTINGS)
    mean = outputs.mean(1)
    points = [100 * mean_spearman(one, mean) for one in predictions]
    np.testing.assert_allclose(benchmark.curve(predictions), points)
    result = benchmark.evaluate(predictions, "oracle")
    assert (result.rule, result.lds) == ("oracle", pytest.approx(max(points)))
    assert result.chosen.tolist() == [int(points[i] == max(points)) for i in range(3)]


def test_the_bootstrap_equals_a_plain_loop_over_repeated_subsets():
    _, outputs, predictions = benchmark_example()
    result = lds.Benchmark(outputs, SETTINGS).evaluate(predictions[1:2], "none")
    mean, values = outputs.mean(1), []
    for weights in lds.resamples(14, 20, 3).astype(int):
        rows = [subset for subset in range(14) for _ in range(weights[subset])]
        values.append(100 * mean_spearman(predictions[1][rows], mean[rows]))
    spread = result.uncertainty
    assert result.lds == pytest.approx(100 * mean_spearman(predictions[1], mean))
    assert spread.mean == pytest.approx(np.mean(values[:8]))
    assert spread.std == pytest.approx(np.std(values[:8], ddof=0))
    moved = np.percentile(values, [5, 95]) + result.lds - np.mean(values)
    assert (spread.low, spread.high) == pytest.approx(moved)
    assert result.chosen.tolist() == [1]


def test_halvings_use_both_halves_both_ways():
    halves = list(lds.halvings(9, 4, 0))
    assert len(halves) == 8
    for index in range(0, 8, 2):
        (tuned, reported), (tuned_again, reported_again) = halves[index : index + 2]
        assert len(tuned) == 4
        assert sorted([*tuned, *reported]) == list(range(9))
        np.testing.assert_array_equal(tuned, reported_again)
        np.testing.assert_array_equal(reported, tuned_again)
    assert len({tuned.tobytes() for tuned, _ in halves[::2]}) == 4


def test_heldout_equals_a_plain_loop_over_the_halves():
    _, outputs, predictions = benchmark_example()
    benchmark = lds.Benchmark(outputs, SETTINGS)
    result = benchmark.heldout(predictions, benchmark.evaluate(predictions, "oracle"))
    mean, optimism, chosen = outputs.mean(1), [], [0, 0, 0]
    whole = [mean_spearman(one, mean) for one in predictions]
    oracle = whole.index(max(whole))
    resampled = np.zeros((6, 20))
    for half, (tuned, reported) in enumerate(lds.halvings(14, 3, 1)):
        on_tuned = [mean_spearman(one[tuned], mean[tuned]) for one in predictions]
        best = on_tuned.index(max(on_tuned))
        chosen[best] += 1

        def gap(rows, best=best):
            """How much more the oracle's lambda reaches there than the half's own."""
            both = [mean_spearman(predictions[one][rows], mean[rows]) for one in (oracle, best)]
            return 100 * (both[0] - both[1])

        optimism.append(gap(reported))
        for draw, weights in enumerate(lds.resamples(14, 20, 3).astype(int)):
            rows = [subset for subset in reported for _ in range(weights[subset])]
            everywhere = np.repeat(np.arange(14), weights)
            known = 100 * mean_spearman(predictions[oracle][everywhere], mean[everywhere])
            resampled[half, draw] = known - gap(rows)
    assert result.rule == "heldout"
    assert result.chosen.tolist() == chosen
    assert len(np.flatnonzero(chosen)) > 1  # or there is nothing to see
    assert result.lds == pytest.approx(100 * max(whole) - np.mean(optimism))
    values = resampled.mean(0)
    assert result.uncertainty.mean == pytest.approx(values[:8].mean())
    assert result.uncertainty.std == pytest.approx(values[:8].std())
    moved = np.percentile(values, 5) + result.lds - values.mean()
    assert result.uncertainty.low == pytest.approx(moved)


def test_heldout_is_the_oracle_where_every_half_chooses_its_lambda():
    """Fewer subsets alone take nothing from it: one lambda leaves no choice to be optimistic by."""
    _, outputs, predictions = benchmark_example()
    benchmark = lds.Benchmark(outputs, SETTINGS)
    oracle = benchmark.evaluate(predictions[:1], "oracle")
    result = benchmark.heldout(predictions[:1], oracle)
    assert (result.lds, result.uncertainty) == (oracle.lds, oracle.uncertainty)
    np.testing.assert_array_equal(result.resampled, oracle.resampled)


def test_intervals_cover_what_another_draw_of_subsets_gives():
    """16 subsets of a world in which 2,000 others tell the truth: about 95 of 100 intervals hold.

    Plain percentile intervals would miss it nearly always on one side: they lie too low.
    """
    random = np.random.default_rng(3)
    settings = {
        "bootstrap": {"resamples": 2, "interval_resamples": 200, "confidence": 0.95, "seed": 0},
        "heldout": {"splits": 1, "seed": 0},
    }

    def drawn(subsets):
        shared = random.normal(size=(subsets, 1))  # queries rise and fall together
        signal = shared + random.normal(size=(subsets, 12))
        return signal, signal + shared + random.normal(size=(subsets, 12))

    truth = np.mean([lds.score(*drawn(16)) for _ in range(2000)])
    below = above = low_percentile = 0
    for _ in range(300):
        predictions, outputs = drawn(16)
        found = lds.Benchmark(outputs[:, None], settings).evaluate([predictions], "none")
        below += found.uncertainty.high < truth
        above += found.uncertainty.low > truth
        low_percentile += np.percentile(found.resampled, 97.5) < truth
    assert below + above < 0.1 * 300
    assert abs(below - above) < 0.05 * 300
    assert low_percentile > below


def test_heldout_does_not_profit_from_many_useless_lambdas():
    """The oracle finds the best of 200 random predictions; held out, they are worth nothing."""
    random = np.random.default_rng(2)
    outputs = random.normal(size=(16, 1, 3))
    useless = [random.normal(size=(16, 3)) for _ in range(200)]
    settings = {**SETTINGS, "heldout": {"splits": 20, "seed": 0}}
    benchmark = lds.Benchmark(outputs, settings)
    oracle = benchmark.evaluate(useless, "oracle")
    assert oracle.lds > 30
    assert abs(benchmark.heldout(useless, oracle).lds) < 15


def test_the_benchmark_averages_the_seeds():
    _, outputs, predictions = benchmark_example()
    once = lds.Benchmark(outputs.mean(1, keepdims=True), SETTINGS)
    assert once.evaluate(predictions, "oracle").lds == pytest.approx(
        lds.Benchmark(outputs, SETTINGS).evaluate(predictions, "oracle").lds
    )


@pytest.mark.parametrize(("seeds", "noise"), [(2, 0.5), (3, 1.0), (5, 1.0)])
def test_the_ceiling_is_what_the_expected_output_reaches(seeds: int, noise: float):
    """Outputs are a signal plus the noise of the seed: the signal itself is the best prediction."""
    random = np.random.default_rng(0)
    signal = random.normal(size=(400, 60))
    outputs = signal[:, None] + noise * random.normal(size=(400, seeds, 60))
    reached = lds.score(signal, outputs.mean(1))
    # In theory: signal and mean of S seeds are normal with correlation 1 / sqrt(1 + noise^2 / S),
    # and the rank correlation of normals of correlation c is (6 / pi) arcsin(c / 2).
    theory = 100 * 6 / np.pi * np.arcsin(0.5 / np.sqrt(1 + noise**2 / seeds))
    assert reached == pytest.approx(theory, abs=0.5)
    assert lds.ceiling(outputs) == pytest.approx(reached, abs=2)


def test_the_ceiling_by_hand():
    # Two seeds, four subsets, ranks 1 2 3 4 and 2 1 4 3: rho = 1 - 6 * 4 / 60 = 0.6. Two seeds have
    # the reliability 2 * 0.6 / 1.6 = 0.75, and the ceiling is sqrt(0.75) = 86.60 per cent.
    outputs = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 4.0], [4.0, 3.0]])[:, :, None]
    assert lds.ceiling(outputs) == pytest.approx(100 * 0.75**0.5)
    # A third seed equal to the first: pairs 0.6, 1 and 0.6, mean 2.2 / 3; 3 r / (1 + 2 r) = 0.8919.
    outputs = np.concatenate([outputs, outputs[:, :1]], 1)
    assert lds.ceiling(outputs) == pytest.approx(100 * (2.2 / (1 + 2 * 2.2 / 3)) ** 0.5)


def test_there_is_no_ceiling_of_one_seed_or_of_noise():
    assert np.isnan(lds.ceiling(RANDOM.normal(size=(10, 1, 4))))
    opposed = np.arange(10.0)[:, None, None] * np.array([1.0, -1.0])[None, :, None]
    assert np.isnan(lds.ceiling(opposed))
    assert lds.ceiling(np.repeat(RANDOM.normal(size=(10, 1, 4)), 3, 1)) == pytest.approx(100)
