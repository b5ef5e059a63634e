"""Runs a stage's script as Snakemake would, without Snakemake: for tests of single stages."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SCRIPTS = Path(__file__).resolve().parent.parent / "workflow_scripts"
EXECUTION: dict[str, Any] = {
    "rows_per_chunk": 2,
    "gradient_engine": "auto",
    "save_seconds": 60,
    "batch": {"features": 2, "generation": 2, "outputs": 5},
}


def run_script(
    name: str,
    settings: dict[str, Any],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    params: dict[str, Any] | None = None,
    **wildcards: str,
) -> None:
    """Call `main` of workflow_scripts/{name}.py with these settings, files and wildcards.

    Args:
        params: those of the rule beside `settings` and `code`.
    """
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    compute = {"device": "cpu", "threads": 1, "tf32": False, "precision": "fp32"}
    texts = {
        key: [*map(str, value)] if isinstance(value, list) else str(value)
        for key, value in outputs.items()
    }
    module.main(
        SimpleNamespace(
            rule=name,
            wildcards=SimpleNamespace(experiment="x", **wildcards),
            input=SimpleNamespace(**inputs),
            output=SimpleNamespace(**texts),
            params=SimpleNamespace(
                settings=json.dumps({"compute": compute, **settings}), code="1", **(params or {})
            ),
            config={"defaults": {"execution": EXECUTION}, "experiments": {"x": {}}},
        )
    )


def save_network(folder: Path, network: Any) -> Path:
    """Save a network as training does; returns its manifest."""
    from attribution.models import save
    from attribution.provenance import Stopwatch

    save(network, folder, {}, Stopwatch(), "train it")
    return folder / "manifest.json"


def save_images(folder: Path, images: Any, ids: Any) -> Path:
    """Store images [images, channels, height, width] uint8; returns the manifest."""
    from attribution.images import Split, write_split

    split = Split(images, 0 * ids, ids, [str(i) for i in ids], ["any"])
    write_split(folder, split, {}, "make it")
    return folder / "manifest.json"


def assembled(part: Path, store: Path) -> dict[str, Any]:
    """Finish a store whose part is there, as the workflow does; returns the part."""
    manifest = store / "manifest.json"
    run_script("assemble_store", {}, {"parts": [str(part)]}, {"manifest": manifest})
    return json.loads(part.read_text())
