"""Fixtures of the workflow tests: finished runs in copies of the tree, each made once."""

from pathlib import Path

import pytest
import workflow_copy


@pytest.fixture(scope="session")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree without results; tests put back what they edit."""
    return workflow_copy.copy_workflow(tmp_path_factory.mktemp("workflow") / "copy")


@pytest.fixture(scope="session")
def smoke(workflow: Path) -> Path:
    """The copy after a finished run of the experiment `smoke`, made as a user would make it."""
    workflow_copy.succeed(workflow, *workflow_copy.TARGETS, "--config", "run=[smoke]")
    return workflow


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with a finished, undisturbed run of the tiny experiment; to be cloned."""
    root = workflow_copy.copy_workflow(tmp_path_factory.mktemp("tiny") / "copy")
    workflow_copy.write_tiny(root)
    workflow_copy.succeed(root, workflow_copy.TINY_TARGET, *workflow_copy.TINY_OPTIONS)
    return root
