"""Manifests: the JSON file beside every artifact that says what made it, written last.

An artifact without its manifest is unfinished; one with it is whole, and every file in it can be
checked against the digests that the manifest holds.
"""

import hashlib
import json
import platform
import subprocess
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from attribution.errors import StoreError

MANIFEST = "manifest.json"
LIBRARIES = ("torch", "diffusers", "numpy", "zarr", "scipy", "scikit-learn", "traker", "snakemake")


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_digest(value: Any) -> str:
    """The sha256 of a JSON-able value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def combined_digest(digests: dict[str, str]) -> str:
    """One sha256 for a set of named digests: the digest of an artifact's data."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON under another name, then rename it: the file is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    try:
        scratch.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact; StoreError where it is missing or not JSON."""
    path = folder / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(
            f"{folder} has no {MANIFEST}: it is unfinished or was never made; "
            f"make it with: snakemake --cores all {path}"
        ) from None
    except json.JSONDecodeError as error:
        raise StoreError(
            f"{path} is not JSON ({error}); delete it and make it again with: "
            f"snakemake --cores all {path}"
        ) from None


@cache
def environment() -> dict[str, Any]:
    """Versions, machine and git commit: recorded in manifests, never compared."""
    installed = {}
    for library in LIBRARIES:
        try:
            installed[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            installed[library] = None
    return {
        "python": platform.python_version(),
        "libraries": installed,
        "machine": platform.machine(),
        "commit": _commit(),
    }


@cache
def _commit() -> str | None:
    """The git commit of the code, with `+changes` where the tree differs from it."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
        )
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


class Stopwatch:
    """Seconds since it was made, and the time it was made, for manifests."""

    def __init__(self) -> None:
        self.started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return round(time.perf_counter() - self._start, 3)


def manifest(
    kind: str, spec: dict[str, Any], stopwatch: Stopwatch, **content: Any
) -> dict[str, Any]:
    """A manifest: what the artifact is, what made it, and `content` (shapes, digests, …).

    Args:
        kind: what the artifact is, e.g. `features`.
        spec: code digest and settings that decide the content; equal specs give equal data.
        stopwatch: started when the work began.
    """
    return {
        "kind": kind,
        "spec": spec,
        "made": {"started": stopwatch.started, "seconds": stopwatch.seconds, **environment()},
        **content,
    }
