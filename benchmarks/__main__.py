"""Run every benchmark, print its tables, and record them in docs/benchmarks.md.

    python -m benchmarks [--threads N] [--only gradients projection kernels intervals workflow]

Each benchmark runs both sides in one process; nothing else should run on the machine meanwhile.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pandas as pd

from attribution.provenance import environment

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "benchmarks.md"
TITLES = {
    "gradients": "Gradients: (image, timestep) pairs a second",
    "projection": "Random projection",
    "kernels": "Scores for 27 lambdas",
    "intervals": "Intervals of the LDS: do they hold the truth?",
    "workflow": "The digits workflow: seconds a stage",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="+", choices=TITLES, default=list(TITLES))
    options = parser.parse_args()
    sections = previous_sections()
    for name in options.only:
        print(f"\n## {TITLES[name]}\n", flush=True)
        sections[name] = workflow() if name == "workflow" else script(name, options.threads)
        record(sections)
    print(f"\nrecorded in {RECORD.relative_to(ROOT)}")


def script(name: str, threads: int) -> str:
    """Run one benchmark script; returns what it printed, with when, where and how."""
    command = ["benchmarks/" + name + ".py", "--threads", str(threads)]
    started = time.time()
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    print(result.stdout, flush=True)
    return (
        f"`python {' '.join(command)}`: {time.strftime('%Y-%m-%d')}, {machine()}; "
        f"{time.time() - started:.0f} s in all.\n\n{result.stdout.strip()}"
    )


def machine() -> str:
    """Processor, cores, and the versions and commit that the figures belong to."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines()
                 if line.startswith("model name")]  # fmt: skip
        processor = names[0] if names else processor
    made = environment()
    libraries = ", ".join(f"{name} {made['libraries'][name]}" for name in ("torch", "diffusers"))
    commit = (made["commit"] or "unknown")[:12]
    traker = made["libraries"]["traker"]
    return f"{os.cpu_count()} cores of {processor}, {libraries}, traker {traker}, commit {commit}"


def workflow() -> str:
    """Seconds of the digits experiment by rule, from the benchmark files of its last run."""
    folder = ROOT / "results" / "digits" / "benchmarks"
    if not folder.is_dir():
        return "Not run yet: `make` runs it."
    seconds: dict[str, list[float]] = defaultdict(list)
    for file in folder.rglob("*.tsv"):
        rule = file.relative_to(folder).parts[0].removesuffix(".tsv")
        seconds[rule].append(float(pd.read_csv(file, sep="\t")["s"].iloc[0]))
    lines = ["| rule | jobs | seconds, all jobs | longest |", "|---|---|---|---|"]
    for rule, values in sorted(seconds.items(), key=lambda item: -sum(item[1])):
        lines.append(f"| {rule} | {len(values)} | {sum(values):.0f} | {max(values):.0f} |")
    total = sum(map(sum, seconds.values()))
    lines.append(f"| all | {sum(map(len, seconds.values()))} | {total:.0f} | |")
    table = "\n".join(lines)
    print(table)
    studies = (ROOT / "results" / "digits" / "studies").is_dir()
    targets = "`make` and `make studies`" if studies else "the last `make`"
    return f"Job seconds of {targets}, two jobs side by side; {machine()}.\n\n{table}"


def previous_sections() -> dict[str, str]:
    """The recorded sections by name, so that one can be measured again alone."""
    if not RECORD.is_file():
        return {}
    parts = RECORD.read_text(encoding="utf-8").split("\n## ")[1:]
    bodies = dict(part.split("\n", 1) for part in parts)
    return {name: bodies[title].strip() for name, title in TITLES.items() if title in bodies}


def record(sections: dict[str, str]) -> None:
    """Write docs/benchmarks.md from the sections that there are."""
    head = (
        "# Benchmarks\n\n"
        "Made by `make bench`; both sides of each comparison run in one process, in turn.\n"
        "Absolute figures belong to the machine that each section names; ratios travel better.\n"
    )
    known = [name for name in TITLES if name in sections]
    body = "".join(f"\n## {TITLES[name]}\n\n{sections[name]}\n" for name in known)
    RECORD.write_text(head + body, encoding="utf-8")


if __name__ == "__main__":
    main()
