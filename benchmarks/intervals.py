"""Do the intervals of the LDS hold what they promise? Simulated benchmarks whose truth is known.

    python benchmarks/intervals.py --threads 2 --json intervals.json

A world has images that add up to the outputs of models, as a datamodel says, with the noise of
training; queries share most of their influences, as real ones do. A method knows the influences
with an error that depends smoothly on lambda, and a second method with other errors. Subsets are
halves of the images. Hundreds of fresh draws tell what a benchmark of M subsets is expected to say;
then `lds.Benchmark` evaluates other draws, and it is counted how often its interval of 95 % holds
that truth, and on which side it misses. Beside it stands the plain percentile interval of the same
resamples.

The truth of a held-out row is the expected LDS, with M subsets, of lambdas that are chosen on M / 2
other subsets. Its error is compared with that of the best lambda here, and with that of plainly
reporting the other half's LDS.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from attribution.differences import paired
from attribution.lds import Benchmark, Evaluation, score
from attribution.randomness import generator

IMAGES, QUERIES, FACTORS, LAMBDAS = 400, 40, 3, 9
SHARED = 0.6  # of the spread of influences: what queries have in common
NOISE = 0.7  # of training, in standard deviations of the expected outputs
SETTINGS: dict[str, Any] = {
    "bootstrap": {"resamples": 64, "interval_resamples": 400, "confidence": 0.95, "seed": 42},
    "heldout": {"splits": 5, "seed": 0},
}
KINDS = ("one method", "best λ here", "λ held out", "difference of two methods")


class World(NamedTuple):
    """True influences [images, queries], and what two methods think they are."""

    truth: np.ndarray
    by_lambda: np.ndarray  # [lambdas, images, queries]
    other: np.ndarray  # [images, queries]

    @classmethod
    def drawn(cls, number: int) -> "World":
        """The world of a number: the same one in every run."""
        random = generator("benchmark world", number)

        def influences() -> np.ndarray:
            common = random.normal(size=(IMAGES, FACTORS)) @ random.normal(size=(FACTORS, QUERIES))
            own = random.normal(size=(IMAGES, QUERIES))
            mixed = SHARED * common / FACTORS**0.5 + (1 - SHARED) * own
            return mixed / mixed.std()

        truth, error, turned, third = (influences() for _ in range(4))
        # Like a real curve: flat around its top, where neighbours make nearly the same errors.
        places = np.arange(LAMBDAS) - LAMBDAS // 2
        quality = 0.6 - 0.01 * np.abs(places)
        angles = 0.3 * places
        by_lambda = np.stack(
            [
                q * truth + (1 - q**2) ** 0.5 * (np.cos(angle) * error + np.sin(angle) * turned)
                for q, angle in zip(quality, angles, strict=True)
            ]
        )
        return cls(truth, by_lambda, 0.55 * truth + (1 - 0.55**2) ** 0.5 * third)

    def benchmark(
        self, subsets: int, random: np.random.Generator
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Outputs [subsets, queries], predictions of each lambda, and those of the other method."""
        halves = np.argsort(random.random((subsets, IMAGES)), axis=1) < IMAGES // 2
        masks = halves.astype(np.float64) - 0.5  # the mean of a query changes no rank
        outputs = masks @ self.truth
        outputs += NOISE * outputs.std() * random.normal(size=outputs.shape)
        return outputs, [masks @ scores for scores in self.by_lambda], masks @ self.other

    def expected(
        self, subsets: int, draws: int, random: np.random.Generator
    ) -> tuple[np.ndarray, float]:
        """The expected LDS with this many subsets: of each lambda, and of the other method."""
        own, other = np.zeros(LAMBDAS), 0.0
        for _ in range(draws):
            outputs, predictions, others = self.benchmark(subsets, random)
            own += [score(one, outputs) for one in predictions]
            other += score(others, outputs)
        return own / draws, other / draws


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The plain percentile interval of resampled values."""
    tail = 50 * (1 - SETTINGS["bootstrap"]["confidence"])
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def both(found: Evaluation) -> dict[str, tuple[float, float]]:
    """Our interval of a row, and the percentile one."""
    return {
        "ours": (found.uncertainty.low, found.uncertainty.high),
        "percentile": percentiles(found.resampled),
    }


def one_world(number: int, subsets: int, draws: int, repeats: int) -> tuple[list[dict], list[dict]]:
    """Intervals with the truth they should hold, and errors of the rules for lambda."""
    world = World.drawn(number)
    random = generator("benchmark draws", number, subsets)
    own, other = world.expected(subsets, draws, random)
    middle = LAMBDAS // 2
    found, picked = [], np.zeros(LAMBDAS)
    for _ in range(repeats):
        outputs, predictions, others = world.benchmark(subsets, random)
        benchmark = Benchmark(outputs[:, None], SETTINGS)
        oracle = benchmark.evaluate(predictions, "oracle")
        heldout = benchmark.heldout(predictions, oracle)
        single = benchmark.evaluate([predictions[middle]], "none")
        second = benchmark.evaluate([others], "none")
        halves = [
            score(predictions[best_on(predictions, outputs, tuned)], outputs, reported)
            for tuned, reported in benchmark.halves
        ]
        picked += heldout.chosen
        found.append((single, oracle, heldout, second, float(np.mean(halves))))
    by_choice = float(picked @ own / picked.sum())  # what held-out lambdas are worth
    truths = dict(zip(KINDS, (own[middle], own.max(), by_choice, own[middle] - other), strict=True))
    intervals, errors = [], []
    for single, oracle, heldout, second, halves in found:
        rows = dict(zip(KINDS, (both(single), both(oracle), both(heldout)), strict=False))
        apart = paired(single.resampled, second.resampled, single.lds, second.lds)
        rows[KINDS[3]] = {
            "ours": (apart.low, apart.high),
            "percentile": percentiles(single.resampled - second.resampled),
        }
        for kind, each in rows.items():
            for way, (low, high) in each.items():
                below, above = high < truths[kind], low > truths[kind]
                intervals.append(
                    {"subsets": subsets, "kind": kind, "way": way, "below": below, "above": above,
                     "width": high - low}
                )  # fmt: skip
        errors.append(
            {"subsets": subsets, "best here": oracle.lds - by_choice,
             "held out": heldout.lds - by_choice, "other half": halves - by_choice}
        )  # fmt: skip
    return intervals, errors


def best_on(predictions: list[np.ndarray], outputs: np.ndarray, rows: np.ndarray) -> int:
    """The number of the lambda with the best LDS on some subsets."""
    return int(np.argmax([score(one, outputs, rows) for one in predictions]))


def mean(records: list[dict], key: str, **place: Any) -> float:
    """The mean of one number over the records of a place."""
    return float(
        np.mean([one[key] for one in records if all(one[k] == v for k, v in place.items())])
    )


def tables(intervals: list[dict], errors: list[dict], sizes: list[int]) -> str:
    """Both tables as Markdown, in per cent and percentage points."""
    lines = [
        "| subsets | row | holds the truth, ours (percentile), % | too low, % | too high, % |"
        " width, points |",
        "|---|---|---|---|---|---|",
    ]
    for subsets in sizes:
        for kind in KINDS:
            numbers = {
                way: [
                    mean(intervals, key, subsets=subsets, kind=kind, way=way)
                    for key in ("below", "above", "width")
                ]
                for way in ("ours", "percentile")
            }
            (below, above, width), (below_p, above_p, _) = numbers["ours"], numbers["percentile"]
            lines.append(
                f"| {subsets} | {kind} | {100 * (1 - below - above):.1f} "
                f"({100 * (1 - below_p - above_p):.1f}) | {100 * below:.1f} ({100 * below_p:.1f}) "
                f"| {100 * above:.1f} ({100 * above_p:.1f}) | {width:.1f} |"
            )
    lines += [
        "",
        "| subsets | mean error of “λ best here” | of “λ held out” | of the other half's LDS |",
        "|---|---|---|---|",
    ]
    for subsets in sizes:
        row = [
            mean(errors, key, subsets=subsets) for key in ("best here", "held out", "other half")
        ]
        lines.append(f"| {subsets} | " + " | ".join(f"{value:+.2f}" for value in row) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--subsets", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--worlds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=40, help="benchmarks of each world")
    parser.add_argument("--draws", type=int, default=500, help="for the truth of each world")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    intervals, errors = [], []
    for subsets in options.subsets:
        for number in range(options.worlds):
            more = one_world(number, subsets, options.draws, options.repeats)
            intervals += more[0]
            errors += more[1]
    print(
        f"{options.worlds * options.repeats} simulated benchmarks a line, {QUERIES} queries; "
        "intervals of 95 %.\n\n" + tables(intervals, errors, options.subsets)
    )
    if options.json:
        options.json.write_text(
            json.dumps({"intervals": intervals, "errors": errors}, default=float)
        )


if __name__ == "__main__":
    main()
