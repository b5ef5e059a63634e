"""Fixtures of the workflow tests: finished runs in copies of the tree, each made once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import workflow_copy
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A clone of what `make` makes in an empty folder: by one of the workers of pytest-xdist, while
    the others wait, and once for all of them."""
    base = factory.getbasetemp()
    whole = base.parent if base.name.startswith("popen-") else base
    original, done = whole / f"{name}-original", whole / f"{name}-done"
    with FileLock(whole / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(original, ignore_errors=True)
            make(original)
            done.touch()
    return workflow_copy.clone(original, factory.mktemp(name) / "copy")


@pytest.fixture(scope="session")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree without results; tests put back what they edit."""
    return workflow_copy.copy_workflow(tmp_path_factory.mktemp("workflow") / "copy")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with a finished run of the experiment `smoke`, made as a user would make it."""

    def make(root: Path) -> None:
        workflow_copy.copy_workflow(root)
        workflow_copy.succeed(root, *workflow_copy.TARGETS, "--config", "run=[smoke]")

    return made_once(tmp_path_factory, "smoke", make)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with a finished, undisturbed run of the tiny experiment; to be cloned."""

    def make(root: Path) -> None:
        workflow_copy.copy_workflow(root)
        workflow_copy.write_tiny(root)
        workflow_copy.succeed(root, workflow_copy.TINY_TARGET, *workflow_copy.TINY_OPTIONS)

    return made_once(tmp_path_factory, "tiny", make)
