"""Throughput and memory of the gradient engines, against plain training of the same model.

    python benchmarks/gradients.py [--size digits|cifar|all] [--repeats N] [--threads N]
                                   [--json PATH]

For the digits model (160 thousand parameters, 8x8, 32 images) and the CIFAR DDPM (35.7 million,
32x32, 2 images), each with K = 10 timesteps: (image, timestep) pairs a second of every engine, and
of training (forward and backward of the mean loss, no optimiser) at several batch sizes. The
repeats of all candidates are interleaved (A, B, C, A, B, C, ...), speeds are medians, and ratios
are medians of the ratios within one round, so that a machine that slows down midway slows all
alike. Peak memory is what one candidate's first call adds to the resident size of a process of its
own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
import torch
from diffusers import UNet2DModel
from torch import Tensor

from attribution.gradients import GradientEngine, choose_engine

TIMESTEPS = 10
MIB = 2**20


@dataclass(frozen=True)
class Size:
    """One model with the images, repeats and training batches of its measurement."""

    settings: dict
    images: int
    repeats: int
    batches: tuple[int, ...]


SIZES = {
    "digits": Size(
        {
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 1,
            "layers_per_block": 1,
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            "norm_num_groups": 8,
            "add_attention": False,
        },
        images=32,
        repeats=15,
        batches=(10, 64, 320),
    ),
    "cifar": Size(
        {
            "sample_size": 32,
            "layers_per_block": 2,
            "block_out_channels": (128, 256, 256, 256),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "act_fn": "silu",
            "norm_num_groups": 32,
            "norm_eps": 1e-6,
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
        },
        images=2,
        repeats=2,
        batches=(10, 20),
    ),
}
ENGINES = ("hooks", "batched_backward", "vmap")


@dataclass(frozen=True)
class Candidate:
    """Something to time: `run` works through `pairs` pairs, at most `pairs_per_pass` at once."""

    name: str
    pairs: int
    pairs_per_pass: int
    run: Callable[[], object]


def build(size: str) -> tuple[UNet2DModel, dict[str, Candidate]]:
    """The model of a size and its candidates: every engine, and training at every batch size."""
    torch.manual_seed(0)
    model = UNet2DModel(**SIZES[size].settings)
    images = torch.randn(
        SIZES[size].images, model.config.in_channels, *(model.config.sample_size,) * 2
    )
    candidates = [engine_candidate(model, engine, images) for engine in ENGINES]
    candidates += [training_candidate(model, batch, images) for batch in SIZES[size].batches]
    return model, {candidate.name: candidate for candidate in candidates}


def engine_candidate(model: UNet2DModel, engine: str, images: Tensor) -> Candidate:
    """Gradients of the training loss of all images, with one noise a timestep."""
    noise = torch.randn(1, TIMESTEPS, *images.shape[1:])  # [1, timesteps, C, H, W]
    timesteps = torch.arange(50, 1000, 100)
    alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)
    compute = GradientEngine(model, alphas_cumprod, "simple", engine=engine)
    pairs = len(images) * TIMESTEPS
    a_pass = {"hooks": pairs, "batched_backward": TIMESTEPS, "vmap": len(images)}[engine]
    return Candidate(engine, pairs, a_pass, lambda: compute(images, noise, timesteps))


def training_candidate(model: UNet2DModel, batch: int, images: Tensor) -> Candidate:
    """Forward and backward passes of the mean loss over about as many pairs as the engines do."""
    passes = max(1, len(images) * TIMESTEPS // batch)
    noisy = torch.randn(batch, *images.shape[1:])  # [batch, C, H, W]
    noise = torch.randn_like(noisy)
    timesteps = torch.randint(0, 1000, (batch,))

    def run() -> None:
        model.train()
        for _ in range(passes):
            model.zero_grad(set_to_none=True)
            (model(noisy, timesteps).sample - noise).square().mean().backward()
        model.zero_grad(set_to_none=True)

    return Candidate(f"training, batch {batch}", passes * batch, batch, run)


def interleaved(candidates: dict[str, Candidate], repeats: int) -> dict[str, list[float]]:
    """Pairs a second of each candidate in each round, after one round that does not count."""
    speeds: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats + 1):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            candidate.run()
            seconds = time.perf_counter() - start
            if repeat > 0:
                speeds[name].append(candidate.pairs / seconds)
    return speeds


def peak_memory(size: str, name: str, threads: int) -> float:
    """MiB that one candidate adds to a fresh process."""
    command = [sys.executable, __file__, "--size", size, "--threads", str(threads)]
    output = subprocess.run(
        [*command, "--memory-of", name], check=True, capture_output=True, text=True
    )
    return float(output.stdout.split()[-1])


def added_memory(size: str, name: str) -> float:
    """MiB by which this process grows at most while it runs a candidate, sampled every 2 ms."""
    _, candidates = build(size)
    process = psutil.Process()
    before = peak = process.memory_info().rss
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        candidates[name].run()
    finally:
        done.set()
        sampler.join()
    return (peak - before) / MIB


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over rounds of the ratio of two speeds of the same round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def measure(
    size: str, repeats: int | None = None, threads: int | None = None, memory: bool = True
) -> list[dict]:
    """One row a candidate of a size (`digits` or `cifar`).

    repeats: rounds that count, the size's own number if None. threads: of torch, all cores if None.
    Each row: size, candidate, auto (is it what engine `auto` takes), parameters, images, timesteps,
    threads, pairs_per_pass, pairs_per_second, slowest, fastest (pairs a second of single rounds),
    of_vmap, of_best_training and of_training_with_as_many_pairs_a_pass (ratios; the last None where
    there is no training batch of that size), peak_memory_mib (None without `memory`).
    """
    threads = threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    model, candidates = build(size)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    speeds = interleaved(candidates, repeats or SIZES[size].repeats)
    training = {c.pairs_per_pass: name for name, c in candidates.items() if name not in ENGINES}
    best = max(training.values(), key=lambda name: statistics.median(speeds[name]))
    rows = []
    for name, candidate in candidates.items():
        alike = training.get(candidate.pairs_per_pass)
        rows.append(
            {
                "size": size,
                "candidate": name,
                "auto": name == choose_engine(parameters, "cpu"),
                "parameters": parameters,
                "images": SIZES[size].images,
                "timesteps": TIMESTEPS,
                "threads": threads,
                "pairs_per_pass": candidate.pairs_per_pass,
                "pairs_per_second": statistics.median(speeds[name]),
                "slowest": min(speeds[name]),
                "fastest": max(speeds[name]),
                "of_vmap": ratio(speeds[name], speeds["vmap"]),
                "of_best_training": ratio(speeds[name], speeds[best]),
                "of_training_with_as_many_pairs_a_pass": alike
                and ratio(speeds[name], speeds[alike]),
                "peak_memory_mib": peak_memory(size, name, threads) if memory else None,
            }
        )
    return rows


def markdown(rows: list[dict]) -> str:
    """The rows as a table."""
    lines = [
        "| model | candidate | pairs a pass | pairs/s (slowest to fastest) "
        "| times vmap | of the best training | of training with as many pairs a pass "
        "| peak memory, MiB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        alike, peak = row["of_training_with_as_many_pairs_a_pass"], row["peak_memory_mib"]
        cells = (
            f"{row['size']}, {row['parameters']:,}",
            row["candidate"] + (" (auto)" if row["auto"] else ""),
            str(row["pairs_per_pass"]),
            f"{row['pairs_per_second']:.4g} ({row['slowest']:.4g} to {row['fastest']:.4g})",
            f"{row['of_vmap']:.2f}",
            f"{row['of_best_training']:.2f}",
            "" if alike is None else f"{alike:.2f}",
            "" if peak is None else f"{peak:.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--repeats", type=int, help="rounds that count (default: by size)")
    parser.add_argument("--threads", type=int, help="torch threads (default: all cores)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # how peak_memory calls itself
    arguments = parser.parse_args()
    if arguments.memory_of:
        torch.set_num_threads(arguments.threads)
        print(added_memory(arguments.size, arguments.memory_of))
        return
    sizes = SIZES if arguments.size == "all" else [arguments.size]
    rows = [row for size in sizes for row in measure(size, arguments.repeats, arguments.threads)]
    print(markdown(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
