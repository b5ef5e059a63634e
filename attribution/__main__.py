"""`python -m attribution`: look at results without opening a Python session.

python -m attribution inspect PATH [--verify]   what a store or model folder is and what made it
python -m attribution summary [EXPERIMENT …]    the LDS table, and where everything lies
python -m attribution plan EXPERIMENT           what it will cost, before anything runs
python -m attribution attribute --model … --images … --queries …
                                                which training images made these, by your model
python -m attribution export EXPERIMENT FOLDER  a trained model and its images as files, as if yours
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from attribution.errors import AttributionError, StoreError
from attribution.provenance import MANIFEST, read_manifest

RESULTS = Path("results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m attribution",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="what a store or model folder is")
    inspect.add_argument("path", type=Path)
    inspect.add_argument("--verify", action="store_true", help="recompute all checksums")
    summary = commands.add_parser("summary", help="the LDS table of finished experiments")
    summary.add_argument("experiments", nargs="*")
    attribute = commands.add_parser("attribute", help="attribute images of a model of your own")
    attribute.add_argument("--model", required=True, help="diffusers folder or hub id")
    attribute.add_argument("--images", required=True, help="folder of its training images")
    attribute.add_argument("--queries", required=True, help="folder of the images to attribute")
    attribute.add_argument("--adapter", help="LoRA weights of a Stable Diffusion, file or folder")
    attribute.add_argument("--prompts", help="table (csv) with columns file and prompt")
    attribute.add_argument(
        "--name", help="of the folder in results/; from the model's if not given"
    )
    attribute.add_argument("--cores", default="all", help="jobs side by side")
    attribute.add_argument("--only-cost", action="store_true", help="tell the cost and stop")
    export = commands.add_parser("export", help="a trained model and its images as files")
    export.add_argument("experiment")
    export.add_argument("folder", type=Path)
    export.add_argument(
        "--queries", type=int, help="how many of the generated images; all if not given"
    )
    plan = commands.add_parser("plan", help="what an experiment costs, before anything runs")
    plan.add_argument("experiment")
    plan.add_argument(
        "--device", default="measured", help="a GPU's name, or measured (on this machine)"
    )
    plan.add_argument("--gpus", type=int, default=1, help="GPUs (or jobs) side by side")
    plan.add_argument("--configfile", nargs="*", default=[], help="your own configuration files")
    plan.add_argument("--csv", type=Path, help="write the table there as well")
    options = parser.parse_args(arguments)
    try:
        if options.command == "inspect":
            _inspect(options.path, options.verify)
        elif options.command == "attribute":
            from attribution.asking import Question, ask

            asked = {one.name: getattr(options, one.name) for one in fields(Question)}
            return ask(Question(**asked), options.cores, options.only_cost)
        elif options.command == "plan":
            _plan(options)
        elif options.command == "export":
            from attribution.asking import export_experiment

            export_experiment(RESULTS / options.experiment, options.folder, options.queries)
        else:
            _summary(options.experiments)
    except AttributionError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `… | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _plan(options: argparse.Namespace) -> None:
    """Print what an experiment costs, and write it where a file is named."""
    import yaml

    from attribution.configuration import load_experiments, unknown
    from attribution.errors import ConfigurationError
    from attribution.workflow import merged

    config: dict[str, Any] = {}
    for file in ["config.yaml", *options.configfile]:
        config = merged(config, yaml.safe_load(Path(file).read_text(encoding="utf-8")))
    experiments = load_experiments(config)
    if options.experiment not in experiments:
        raise ConfigurationError(unknown("experiment", options.experiment, experiments))
    from attribution.plan import make_plan

    table, text = make_plan(
        options.experiment,
        experiments[options.experiment],
        options.device.lower(),
        options.gpus,
        options.configfile,
    )
    print(text)
    if options.csv:
        table.to_csv(options.csv, index=False)


def _inspect(path: Path, verify: bool) -> None:
    folder = path.parent if path.name == MANIFEST else path
    if not folder.is_dir():
        raise StoreError(f"{path} is not a folder; give a .zarr store or a model folder")
    record = read_manifest(folder)
    print(f"{folder}: {record['kind']}")
    _print_origin(record)
    if "chunks" in record:
        _inspect_store(folder, record, verify)
    else:
        _inspect_model(folder, record, verify)


def _print_origin(record: dict[str, Any]) -> None:
    made = record["made"]
    libraries = ", ".join(f"{name} {version}" for name, version in made["libraries"].items())
    print(f"  made      {made['started']} in {made['seconds']} s, commit {made['commit']}")
    print(f"  with      python {made['python']}, {libraries}")
    print(f"  code      {record['spec'].get('code')}")
    print(f"  settings  {json.dumps(record['spec'].get('settings'), sort_keys=True)}")
    shown = {"kind", "spec", "made", "arrays", "chunks", "files", "sha256", "repair", "losses"}
    for key in sorted(set(record) - shown):
        print(f"  {key:9} {_short(json.dumps(record[key]))}")
    print(f"  sha256    {record['sha256']}")
    print(f"  repair    {record['repair']}")


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}…"


def _inspect_store(folder: Path, record: dict[str, Any], verify: bool) -> None:
    from attribution.stores import Reader

    store = Reader(folder)
    for name, array in record["arrays"].items():
        files = [folder / chunk for chunk in record["chunks"] if chunk.startswith(f"{name}/")]
        size = sum(file.stat().st_size for file in files if file.is_file())
        shape, chunks = (" x ".join(map(str, array[key])) for key in ("shape", "chunks"))
        parts = f"{len(files)} chunks of {chunks}"
        print(f"  {name}: {shape} {array['dtype']}, {parts}, {_bytes(size)}")
    if verify:
        store.check_all()
        print(f"  verified  {len(record['chunks'])} chunks are whole")
    for name in ("features", "scores"):
        if name in record["arrays"]:
            _print_norms(store, name)


def _print_norms(store: Any, name: str) -> None:
    """Smallest, median and largest row norm of a feature or score array, read chunk by chunk."""
    import numpy as np

    array = store.array(name)
    rows = store.manifest["arrays"][name]["chunks"][0]
    blocks = [array[start : start + rows] for start in range(0, len(array), rows)]
    norms = np.concatenate([
        np.linalg.norm(block.reshape(-1, block.shape[-1]).astype(np.float64), axis=1)
        for block in blocks
    ])  # fmt: skip
    print(
        f"  {name}: row norms from {norms.min():.4g} to {norms.max():.4g}, median "
        f"{np.median(norms):.4g}"
    )


def _inspect_model(folder: Path, record: dict[str, Any], verify: bool) -> None:
    for name in record["files"]:
        file = folder / name
        print(f"  {name}: {_bytes(file.stat().st_size) if file.is_file() else 'missing'}")
    if verify:
        from attribution.models import check

        check(folder)
        print(f"  verified  {len(record['files'])} files are whole")
    weights = folder / "diffusion_pytorch_model.safetensors"
    if weights.is_file():
        from safetensors.numpy import load_file

        tensors = load_file(weights).values()
        squares = sum(float((tensor.astype("f8") ** 2).sum()) for tensor in tensors)
        print(f"  norm of the weights: {squares**0.5:.6g}")


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def _summary(experiments: Sequence[str]) -> None:
    """Print the LDS table of each experiment, those of config.yaml's `run` unless named."""
    import pandas as pd
    import yaml

    from attribution.tables import terminal_table

    if not experiments:
        experiments = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))["run"]
    for experiment in experiments:
        place = RESULTS / experiment
        table = place / "tables" / "lds.csv"
        if not table.is_file():
            raise StoreError(
                f"{table} does not exist; make it with: "
                f"snakemake --cores all --config 'run=[{experiment}]'"
            )
        print(f"\n{experiment}\n{terminal_table(pd.read_csv(table))}\n")
        for what, where in (
            ("report", place / "report.html"),
            ("tables", place / "tables"),
            ("figures and galleries", place / "figures"),
        ):
            if where.exists():
                print(f"{what:22} {where}")


if __name__ == "__main__":
    sys.exit(main())
