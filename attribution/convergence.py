"""How small may the benchmark be? The LDS of all methods under cheaper protocols (study 13).

A benchmark retrains S seeds of M subsets and evaluates each model at T timesteps with N noises. A
protocol takes part of that: m random subsets, s seeds, n noises, g of the G groups of timesteps.
What it does to each method's LDS and to the methods' ranking is seen by evaluating that part alone.

Two things to know when reading the results. Fewer seeds (or noises) lower every LDS, because the
outputs themselves get noisier: the ceiling falls with them, so LDS / ceiling is told too, with the
ceiling of s seeds from the reliability of one seed (Spearman-Brown). And a random m of M subsets is
not independent of all M: the deviation from the full benchmark has the standard deviation
sigma sqrt(M / m - 1), with sigma that of the full LDS, so half of the subsets deviate by one sigma
whatever the method; against the truth they are off by sigma sqrt(M / m).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, rankdata

from attribution.lds import ceiling, score
from attribution.markup import both_forms
from attribution.randomness import generator
from attribution.tables import BLANK, split_name

VARIED = ("subsets", "seeds", "noises", "groups")


class Protocol(NamedTuple):
    """How much of a benchmark is used; in the order of the axes of its outputs."""

    subsets: int
    seeds: int
    noises: int
    groups: int


@dataclass(frozen=True)
class Costs:
    """Seconds that the full benchmark took: training its models, and evaluating their outputs."""

    training: float
    evaluation: float

    def of(self, protocol: Protocol, full: Protocol) -> float:
        """Seconds of a protocol: training is by model, evaluation by model, noise and timestep."""
        models = protocol.subsets * protocol.seeds / (full.subsets * full.seeds)
        passes = protocol.noises * protocol.groups / (full.noises * full.groups)
        return models * (self.training + self.evaluation * passes)


def protocols(full: Protocol, subsets: Sequence[int]) -> list[Protocol]:
    """All combinations of these numbers of subsets with any seeds, noises and groups of timesteps.

    Numbers of groups are the divisors of all, so that those kept are evenly spaced. Numbers of
    subsets above what there is, or too few to rank, are left out.
    """
    sizes = sorted({size for size in subsets if 3 <= size <= full.subsets} | {full.subsets})
    groups = [count for count in range(1, full.groups + 1) if full.groups % count == 0]
    return [
        Protocol(*one)
        for one in product(sizes, range(1, full.seeds + 1), range(1, full.noises + 1), groups)
    ]


def best_predictions(predictions: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """A method's predictions at the lambda that is best on the whole benchmark.

    Args:
        predictions: [lambdas, subsets, queries].
        outputs: [subsets, seeds, noises, groups, queries].

    Returns:
        [subsets, queries].
    """
    if len(predictions) == 1:
        return predictions[0]
    mean = outputs.astype(np.float64).mean((1, 2, 3))
    return predictions[int(np.argmax([score(one, mean) for one in predictions]))]


def evaluate(
    predictions: np.ndarray,
    outputs: np.ndarray,
    wanted: Sequence[Protocol],
    draws: int,
    seed: int = 0,
) -> Iterator[tuple[Protocol, int, np.ndarray, float]]:
    """Each draw of each protocol: the methods' LDS in per cent, [methods], and the ceiling.

    Protocols with as many subsets share their draws of subsets. A protocol that leaves nothing to
    chance is evaluated once.

    Args:
        predictions: [methods, subsets, queries].
        outputs: [subsets, seeds, noises, groups, queries].
        draws: random choices of subsets, seeds, noises and of where the groups begin.
    """
    full = Protocol(*outputs.shape[:4])
    outputs = outputs.astype(np.float64)
    for size in dict.fromkeys(one.subsets for one in wanted):
        same = [one for one in wanted if one.subsets == size]
        for draw in range(draws):
            random = generator("convergence", seed, size, draw)
            rows = np.sort(random.choice(full.subsets, size, replace=False))
            ranked = None
            for protocol in same:
                parts = _parts(random, protocol, full)
                if draw and protocol == full:
                    continue
                if ranked is None:
                    ranked = standard_ranks(predictions[:, rows])  # [methods, m, queries]
                part = outputs[rows][:, :, parts[1]][:, :, :, parts[2]].mean((2, 3))
                truth = standard_ranks(part[:, parts[0]].mean(1)[None])[0]  # [m, queries]
                lds = 100 * np.einsum("amq,mq->a", ranked, truth) / truth.shape[1]
                yield protocol, draw, lds, _ceiling(part, protocol.seeds)


def _parts(random: np.random.Generator, protocol: Protocol, full: Protocol) -> list[np.ndarray]:
    """Which seeds, noises and groups a draw takes; every draw of a protocol draws all three."""
    step = full.groups // protocol.groups
    return [
        np.sort(random.choice(full.seeds, protocol.seeds, replace=False)),
        np.sort(random.choice(full.noises, protocol.noises, replace=False)),
        np.arange(random.integers(step), full.groups, step),
    ]


def standard_ranks(values: np.ndarray) -> np.ndarray:
    """Mid-ranks along the subsets, centred and of norm 1, so that products are Spearman's rho.

    A constant becomes zeros: no order, no correlation. values: [..., subsets, queries].
    """
    ranks = rankdata(values, axis=-2)
    ranks -= ranks.mean(-2, keepdims=True)
    norms = np.linalg.norm(ranks, axis=-2, keepdims=True)
    return np.divide(ranks, norms, out=np.zeros_like(ranks), where=norms > 0)


def _ceiling(outputs: np.ndarray, seeds: int) -> float:
    """The ceiling of `seeds` seeds, from all seeds there are: outputs [subsets, seeds, queries]."""
    return ceiling_of(ceiling(outputs), outputs.shape[1], seeds)


def ceiling_of(known: float, known_seeds: int, seeds: int) -> float:
    """The ceiling in per cent with `seeds` seeds, from the one with `known_seeds`.

    With the squares as reliabilities this is Spearman-Brown there and back: the reliability of one
    seed is r = R / (S - (S - 1) R).
    """
    reliability = (known / 100) ** 2
    single = reliability / (known_seeds - (known_seeds - 1) * reliability)
    return 100 * float(np.sqrt(seeds * single / (1 + (seeds - 1) * single)))


def summarise(
    results: Sequence[tuple[Protocol, int, np.ndarray, float]],
    full: Protocol,
    errors: np.ndarray,
    costs: Costs,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What each protocol does, over all methods and to each.

    The deviation of a method is the root mean square over the draws of its LDS less that of the
    full benchmark: what one who runs the protocol once must expect. A protocol keeps a method if
    this is within the method's bootstrap standard deviation, and the ranking's agreement is
    Kendall's tau-b of the methods' LDS with the full one's.

    Args:
        results: from `evaluate`, the full protocol among them.
        errors: bootstrap standard deviations in per cent, [methods].

    Returns:
        one record a protocol: its numbers, cost (share of the full one's), draws, tau, tau_std,
        lds_ratio (mean LDS over that of the full one), ceiling, deviation_over_error (of the worst
        method), scaled_over_error (the same for LDS / ceiling, brought back to the full ceiling),
        keeps_all, keeps_all_scaled; and one a (protocol, method number): lds, lds_std,
        lds_over_ceiling, deviation, keeps.
    """
    truth, top = next((lds, limit) for one, _, lds, limit in results if one == full)
    whole, single = [], []
    for protocol in dict.fromkeys(one for one, *_ in results):
        mine = [(lds, limit) for one, _, lds, limit in results if one == protocol]
        values = np.array([lds for lds, _ in mine])  # [draws, methods]
        limits = np.array([limit for _, limit in mine])  # [draws]
        scaled = values / limits[:, None] * top
        deviation = _root_mean_square(values - truth)
        scaled_deviation = _root_mean_square(scaled - truth)
        taus = [_agreement(lds, truth) for lds in values]
        whole.append(
            {
                **protocol._asdict(),
                "cost": costs.of(protocol, full) / costs.of(full, full),
                "draws": len(values),
                "tau": np.mean(taus),
                "tau_std": np.std(taus),
                "lds_ratio": values.mean() / (truth.mean() or np.nan),
                "ceiling": limits.mean(),
                "deviation_over_error": _in_units(deviation, errors).max(),
                "scaled_over_error": _in_units(scaled_deviation, errors).max(),
                "keeps_all": bool((deviation <= errors).all()),
                "keeps_all_scaled": bool((scaled_deviation <= errors).all()),
            }
        )
        for number in range(len(truth)):
            single.append(
                {
                    **protocol._asdict(),
                    "method": number,
                    "lds": values[:, number].mean(),
                    "lds_std": values[:, number].std(),
                    "lds_over_ceiling": 100 * (values[:, number] / limits).mean(),
                    "deviation": deviation[number],
                    "keeps": bool(deviation[number] <= errors[number]),
                }
            )
    return pd.DataFrame(whole), pd.DataFrame(single)


def _root_mean_square(deviations: np.ndarray) -> np.ndarray:
    """Over the draws: [draws, methods] to [methods]."""
    return np.sqrt((deviations**2).mean(0))


def _in_units(deviations: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Deviations over errors, [methods] both; without any error only no deviation is none."""
    nothing = np.where(deviations == 0, 0.0, np.inf)
    return np.divide(deviations, errors, out=nothing, where=errors > 0)


def _agreement(lds: np.ndarray, truth: np.ndarray) -> float:
    """Kendall's tau-b of two rankings of methods; 1 where there is but one method."""
    return 1.0 if len(truth) < 2 else float(kendalltau(lds, truth).statistic)


def cheapest(frame: pd.DataFrame, kept: str = "keeps_all") -> pd.Series | None:
    """The cheapest protocol that keeps all methods on every split, or None.

    Args:
        frame: records of one or more splits, with `split`.
        kept: `keeps_all`, or `keeps_all_scaled` for LDS / ceiling.
    """
    together = frame.groupby(list(VARIED)).agg(cost=("cost", "first"), kept=(kept, "all"))
    fit = together[together["kept"]].sort_values("cost", kind="stable")
    return fit.reset_index().iloc[0] if len(fit) else None


def convergence_table(whole: pd.DataFrame, steps: int, title: str) -> tuple[str, str]:
    """The full protocol, savings on one thing at a time, and the cheapest that keep all methods.

    Args:
        whole: from `summarise`, with `split`.
        steps: timesteps of the full outputs, which the groups share evenly.

    Returns:
        Markdown and LaTeX.
    """
    full = whole[list(VARIED)].max()
    fits = {
        "keeps all": cheapest(whole),
        "keeps all of LDS ÷ ceiling": cheapest(whole, "keeps_all_scaled"),
    }
    chosen = [("full", Protocol(*full))]
    for name in VARIED:
        for value in sorted(set(whole[name]) - {full[name]}, reverse=True):
            chosen.append((f"fewer {VARIED_NAMES[name]}", Protocol(**{**full, name: value})))
    for name, one in fits.items():
        if one is not None:
            chosen.append((f"cheapest that {name}", Protocol(*one[list(VARIED)])))
    splits = list(dict.fromkeys(whole["split"]))
    places = whole.set_index([*VARIED, "split"]).sort_index()
    lines = []
    for name, one in chosen:
        at = [places.loc[(*one, split)] for split in splits]
        lines.append([name, *_numbers(one, full, steps, at[0]["cost"])])
        for record in at:
            columns = ("lds_ratio", "deviation_over_error", "scaled_over_error", "tau")
            lines[-1] += [_shown(record[column], 2) for column in columns]
            lines[-1].append(_shown(record["ceiling"], 1))
    heads = ["Protocol", "Subsets", "Seeds", "Noises", "Timesteps", "Cost (%)"]
    for split in splits:
        heads += [f"{split_name(split)}: {head}" for head in COLUMN_HEADS]
    found = " ".join(_finding(name, one, full, steps) for name, one in fits.items())
    draws = int(whole["draws"].max())
    return both_forms(title, heads, lines, 1, f"{found} {NOTE.format(draws=draws)}")


VARIED_NAMES = {
    "subsets": "subsets", "seeds": "seeds", "noises": "noises", "groups": "timesteps",
}  # fmt: skip
COLUMN_HEADS = ("LDS ÷ full", "worst method", "worst, LDS ÷ ceiling", "τ", "ceiling (%)")
NOTE = (
    "LDS ÷ full: mean over the methods. Worst method: the largest deviation of a method's LDS from "
    "the full benchmark's (root mean square over {draws} random draws), in units of the method's "
    "bootstrap standard deviation there; up to 1 counts as kept. The same for LDS ÷ ceiling, which "
    "allows for outputs that fewer seeds make noisier. τ: Kendall's agreement of the ranking of "
    "methods. Half of the subsets deviate by about 1 by the nature of sampling. Cost: training "
    "and evaluation, in the seconds they took here."
)


def _shown(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else BLANK


def _numbers(one: Protocol, full: pd.Series, steps: int, cost: float) -> list[str]:
    timesteps = one.groups * steps / full["groups"]
    parts = (one.subsets, one.seeds, one.noises, timesteps)
    return [*(f"{part:g}" for part in parts), f"{100 * cost:.1f}"]


def _finding(name: str, one: pd.Series | None, full: pd.Series, steps: int) -> str:
    if one is None:
        return f"No cheaper protocol {name}."
    protocol = Protocol(*(int(one[axis]) for axis in VARIED))
    subsets, seeds, noises, timesteps, cost = _numbers(protocol, full, steps, one["cost"])
    return (
        f"The cheapest protocol that {name}: {subsets} subsets x {seeds} seeds, {timesteps} "
        f"timesteps x {noises} noises, at {cost} % of the cost."
    )
