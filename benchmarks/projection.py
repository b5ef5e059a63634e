"""Count-sketch against traker's BasicProjector: seconds, error of the Gram matrix, peak memory.

    python benchmarks/projection.py --threads 2 --json projection.json

Both project the same gradients [vectors, p] to k numbers in one process, one after the other,
several times. BasicProjector takes minutes to hours for a batch, so only a few of its blocks of 100
columns are timed and the seconds multiplied by k / columns timed (every block is the same work; a
single block it would draw once and keep, so at least two are timed). Where its block does not fit
in memory its time is carried over, in proportion to p, from the largest p that was timed. The error
||G' - G||_F / ||G||_F of the Gram matrix G of the gradients is measured with all k columns, over
several seeds (one says little: vectors of one batch share it), at a p that BasicProjector can do.
Peak memory is that of a process of its own (VmHWM) for each side.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, median

import torch

from attribution import randomness
from attribution.errors import ConfigurationError
from attribution.projection import Projector, build_projector

BAR = 100  # times faster than BasicProjector


def make_gradients(vectors: int, source_dim: int) -> torch.Tensor:
    """Correlated gradients [vectors, p], float32, whose coordinates differ much in size."""
    generator = torch.Generator().manual_seed(randomness.seed("benchmark gradients", source_dim))
    scale = torch.randn(source_dim, generator=generator).exp_()  # [p]
    shared = torch.randn(source_dim, generator=generator)  # [p]
    gradients = torch.empty(vectors, source_dim)
    for row in gradients:
        row.normal_(generator=generator).add_(shared).mul_(scale)
    return gradients


def seconds_of(projector: Projector, gradients: torch.Tensor) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    projector.project(gradients)
    return time.perf_counter() - start


def gram_error(kind: str, gradients: torch.Tensor, dim: int, seeds: int) -> float:
    """Relative Frobenius error of the Gram matrix of the features, root mean square over seeds."""
    exact = gradients.double()
    truth = exact @ exact.T  # [vectors, vectors]
    squares = []
    for number in range(seeds):
        # Far apart: BasicProjector seeds its blocks 1000 apart, and near seeds would share them.
        projector = build_projector(kind, gradients.shape[1], dim, 10_000_000 * number)
        features = projector.project(gradients).double()
        squares.append(((features @ features.T - truth).norm() / truth.norm()).item() ** 2)
    return mean(squares) ** 0.5


def resident_bytes(name: str) -> int:
    """VmRSS (now) or VmHWM (largest) of this process; getrusage would count the parent's too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"this system does not tell {name}")


def peak_of_side(kind: str, source_dim: int, dim: int, vectors: int) -> int | None:
    """Bytes that building and using a projector adds to a process that holds the gradients."""
    arguments = [kind, source_dim, dim, vectors]
    threads = ["--threads", str(torch.get_num_threads())]
    command = [sys.executable, __file__, *threads, "--side", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def run_side(kind: str, source_dim: int, dim: int, vectors: int) -> int | None:
    """In the process of one side: bytes added, or None where the projector does not fit."""
    build_projector(kind, 10, 10, 0)  # imports are not memory of the projection
    gradients = make_gradients(vectors, source_dim)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before = resident_bytes("VmRSS")
    try:
        build_projector(kind, source_dim, dim, 0).project(gradients)
    except ConfigurationError:
        return None
    return resident_bytes("VmHWM") - before


def measure_time(
    kind: str, source_dim: int, dim: int, vectors: int, blocks: int, repeats: int
) -> dict:
    """Median seconds for a batch of both sides, interleaved; BasicProjector's by some blocks."""
    if blocks < 2:
        raise ConfigurationError("Time at least two blocks: BasicProjector keeps a single one.")
    gradients = make_gradients(vectors, source_dim)
    sketch = build_projector("count_sketch", source_dim, dim, 0)
    timed_columns = min(dim, 100 * blocks)
    try:
        dense = build_projector(kind, source_dim, timed_columns, 0)
    except ConfigurationError:
        dense = None
    sketch_seconds, dense_seconds = [], []
    for _ in range(repeats):
        sketch_seconds.append(seconds_of(sketch, gradients))
        if dense:
            dense_seconds.append(seconds_of(dense, gradients) * dim / timed_columns)
    return {
        "p": source_dim,
        "k": dim,
        "vectors": vectors,
        "count_sketch_seconds": median(sketch_seconds),
        "dense": kind,
        "dense_seconds": median(dense_seconds) if dense_seconds else None,
        "dense_seconds_from": f"{timed_columns} of {dim} columns" if dense else None,
    }


def fill_from_largest(rows: list[dict]) -> None:
    """Dense seconds of rows where its block did not fit, in proportion to p, and all ratios."""
    timed = [row for row in rows if row["dense_seconds"] is not None]
    largest = max(timed, key=lambda row: row["p"], default=None)
    for row in rows:
        if row["dense_seconds"] is None and largest:
            row["dense_seconds"] = largest["dense_seconds"] * row["p"] / largest["p"]
            row["dense_seconds_from"] = f"does not fit; p = {largest['p']:,} in proportion"
        if row["dense_seconds"] is not None:
            row["ratio"] = row["dense_seconds"] / row["count_sketch_seconds"]
            row["bar"] = BAR
            row["passed"] = row["ratio"] >= BAR


def measure(
    source_dims: tuple[int, ...] = (1_000_000, 35_700_000),
    dim: int = 4096,
    vectors: int = 32,
    kind: str = "rademacher",
    blocks: int = 3,
    repeats: int = 3,
    error_source_dim: int = 50_000,
    error_seeds: int = 8,
) -> list[dict]:
    """One row a source dimension: seconds of both sides, ratio, peak memory, error of both."""
    small = make_gradients(vectors, error_source_dim)
    errors = {side: gram_error(side, small, dim, error_seeds) for side in ("count_sketch", kind)}
    rows = []
    for source_dim in source_dims:
        row = measure_time(kind, source_dim, dim, vectors, blocks, repeats)
        for name, side in (("count_sketch", "count_sketch"), ("dense", kind)):
            # One block is BasicProjector's peak, whatever the number of columns.
            columns = dim if side == "count_sketch" else min(dim, 200)
            row[f"{name}_added_bytes"] = peak_of_side(side, source_dim, columns, vectors)
            row[f"{name}_gram_error"] = errors[side]
        row["gram_error_p"] = error_source_dim
        row["gram_error_seeds"] = error_seeds
        row["threads"] = torch.get_num_threads()
        rows.append(row)
    fill_from_largest(rows)
    return rows


def table(rows: list[dict]) -> str:
    """The rows as a markdown table."""

    def gib(size: int | None) -> str:
        return "does not fit" if size is None else f"{size / 2**30:.2f}"

    def ratio(row: dict) -> str:
        if "ratio" not in row:
            return ""
        return f"{row['ratio']:,.0f} ({'passes' if row['passed'] else 'misses'} {BAR})"

    head = (
        "| p | k | vectors | count-sketch, s | BasicProjector, s (from) | ratio (bar) "
        "| added memory, GiB: count-sketch / Basic | Gram error: count-sketch / Basic (p) |"
    )
    lines = [head, "|" + "---|" * 8]
    for row in rows:
        dense = row["dense_seconds"]
        shown = "not measured" if dense is None else f"{dense:.1f} ({row['dense_seconds_from']})"
        lines.append(
            f"| {row['p']:,} | {row['k']:,} | {row['vectors']} | {row['count_sketch_seconds']:.3f} "
            f"| {shown} | {ratio(row)} "
            f"| {gib(row['count_sketch_added_bytes'])} / {gib(row['dense_added_bytes'])} "
            f"| {row['count_sketch_gram_error']:.4f} / {row['dense_gram_error']:.4f} "
            f"({row['gram_error_p']:,}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--source-dims", type=int, nargs="+", default=[1_000_000, 35_700_000])
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--vectors", type=int, default=32)
    parser.add_argument("--kind", choices=["normal", "rademacher"], default="rademacher")
    parser.add_argument("--blocks", type=int, default=3, help="blocks of BasicProjector to time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--error-source-dim", type=int, default=50_000)
    parser.add_argument("--error-seeds", type=int, default=8)
    parser.add_argument("--side", nargs=4, metavar=("KIND", "P", "K", "VECTORS"), help="internal")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.side:
        kind, *sizes = arguments.side
        print(json.dumps(run_side(kind, *map(int, sizes))))
        return
    rows = measure(
        tuple(arguments.source_dims),
        arguments.dim,
        arguments.vectors,
        arguments.kind,
        arguments.blocks,
        arguments.repeats,
        arguments.error_source_dim,
        arguments.error_seeds,
    )
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
