"""Kill -9 in the middle, run again: the work goes on, and the arrays are the same bit for bit."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from workflow_copy import (
    TINY_OPTIONS,
    TINY_RESULTS,
    TINY_TARGET,
    arrays,
    clone,
    digests,
    dry_run,
    in_child,
    kill_when,
    stamps,
    succeed,
    write_tiny,
)

MODELS = TINY_RESULTS / "models/subsets/seed-0"
FEATURES = TINY_RESULTS / "features/square/train.zarr"
OUTPUTS = TINY_RESULTS / "outputs/subsets/validation.zarr"
REMOVED = ("models/subsets", "features/square/train.*", "outputs", "kernels", "scores", "tables")


@dataclass(frozen=True)
class Stage:
    """A stage to kill: its target, files to watch, what is whole by then and what is not."""

    target: Path
    folder: Path
    pattern: str
    begun: tuple[Path, ...]
    not_begun: Path


STAGES = {
    "retraining": Stage(
        MODELS / "0-3.json",
        MODELS,
        "*.safetensors",
        (
            MODELS / "subset-0000/manifest.json",
            TINY_RESULTS / "scratch/retrain_subsets/subsets/seed-0-subset-0001.pt",
        ),
        MODELS / "subset-0002/manifest.json",
    ),
    "gradients": Stage(
        FEATURES / "manifest.json",
        FEATURES,
        "c/**/*",
        (FEATURES / "ids/c/0", FEATURES / "ids/c/1"),
        FEATURES / "ids/c/7",
    ),
    "outputs": Stage(
        OUTPUTS / "manifest.json",
        OUTPUTS,
        "outputs/c/**/*",
        (OUTPUTS / "models/c/0/0",),
        OUTPUTS / "models/c/3/0",
    ),
}


@dataclass(frozen=True)
class Interruption:
    """What a killed stage left behind, how the next start ended, and what the one after made."""

    left: dict[str, tuple[int, int]]
    unfinished: bool
    locked: str
    after: dict[str, tuple[int, int]]
    log: str


def without_stages(tiny: Path, target: Path) -> Path:
    """A clone of the finished run without what the stages make, and what stands after them."""
    root = clone(tiny, target)
    for pattern in REMOVED:
        for folder in (root / TINY_RESULTS).glob(pattern):
            shutil.rmtree(folder)
    return root


def interrupt(root: Path, stage: Stage) -> Interruption:
    """Kill a stage in its middle, unlock, and give the same command again; on one core."""
    line = (str(stage.target), *TINY_OPTIONS)
    kill_when(root, lambda: all((root / path).exists() for path in stage.begun), *line, cores=1)
    left = stamps(root / stage.folder, stage.pattern)
    unfinished = not ((root / stage.not_begun).exists() or (root / stage.target).exists())
    locked = in_child(root, "--cores", "1", *line)
    unlocked = in_child(root, "--unlock", *TINY_OPTIONS)
    assert unlocked.code == 0, unlocked.text
    succeed(root, *line, cores=1)
    logs = sorted(
        (root / TINY_RESULTS / "logs").rglob("*.log"), key=lambda log: log.stat().st_mtime
    )
    text = "".join(log.read_text() for log in logs[-2:])
    after = stamps(root / stage.folder, stage.pattern)
    return Interruption(left, unfinished, locked.text if locked.code else "", after, text)


@pytest.fixture(scope="module")
def killed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of which each stage is killed once."""
    yield without_stages(tiny, tmp_path_factory.mktemp("killed") / "copy")


@pytest.fixture(scope="module")
def interruptions(killed: Path) -> dict[str, Interruption]:
    """Each stage killed and continued, one after the other; then the rest of the run."""
    found = {name: interrupt(killed, stage) for name, stage in STAGES.items()}
    succeed(killed, TINY_TARGET, *TINY_OPTIONS)
    return found


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_stage_goes_on(interruptions: dict[str, Interruption], name: str) -> None:
    """What was finished keeps its inode and time; the lock says how to be removed."""
    one = interruptions[name]
    assert one.left and one.unfinished
    assert "--unlock" in one.locked
    assert one.left.items() <= one.after.items()
    assert len(one.after) > len(one.left)


def test_a_killed_training_goes_on_at_its_last_state(
    interruptions: dict[str, Interruption],
) -> None:
    log = interruptions["retraining"].log
    assert "subset 0, seed 0" not in log
    assert "subset 1, seed 0" in log
    assert "going on at step" in log


def test_the_killed_run_ends_in_the_same_bytes(
    tiny: Path, killed: Path, interruptions: dict[str, Interruption]
) -> None:
    """Models, outputs, features, kernel and scores, by their sha256, and the table.

    The killed stages ran on one core and the undisturbed run on two.
    """
    expected = digests(tiny / TINY_RESULTS)
    assert {"models/subsets/seed-0/subset-0003", "scores/dtrak/generation.zarr"} <= set(expected)
    assert digests(killed / TINY_RESULTS) == expected
    assert (killed / TINY_TARGET).read_bytes() == (tiny / TINY_TARGET).read_bytes()


def test_the_killed_run_leaves_nothing_behind(
    killed: Path, interruptions: dict[str, Interruption]
) -> None:
    again = dry_run(killed, TINY_TARGET, *TINY_OPTIONS)
    assert "Nothing to be done" in again.text
    assert not list((killed / TINY_RESULTS / "scratch").rglob("*.pt"))


@pytest.fixture(scope="module")
def cut_otherwise(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, features and outputs made by other jobs, several at once, that save more often."""
    root = without_stages(tiny, tmp_path_factory.mktemp("cut") / "copy")
    write_tiny(root, execution={"models_per_job": 3, "feature_shards": 2, "save_seconds": 0.05})
    targets = [str(STAGES[name].target) for name in ("gradients", "outputs")]
    succeed(root, *targets, *TINY_OPTIONS)
    return root


def test_other_jobs_shards_and_saves_do_not_change_a_bit(tiny: Path, cut_otherwise: Path) -> None:
    made = digests(cut_otherwise / TINY_RESULTS)
    expected = digests(tiny / TINY_RESULTS)
    assert {str((MODELS / f"subset-{k:04d}").relative_to(TINY_RESULTS)) for k in range(4)} <= set(
        made
    )
    assert {str(store.relative_to(TINY_RESULTS)) for store in (FEATURES, OUTPUTS)} <= set(made)
    assert made == {name: expected[name] for name in made}
    assert (cut_otherwise / FEATURES.with_suffix(".parts") / "1-of-2.json").exists()
    assert (cut_otherwise / MODELS / "3-3.json").exists()


def test_jobs_of_another_cut_compute_nothing_again(cut_otherwise: Path) -> None:
    """They collect the models and the chunks that are there."""
    stages = STAGES.values()
    before = [stamps(cut_otherwise / stage.folder, stage.pattern) for stage in stages]
    write_tiny(cut_otherwise)
    targets = [str(STAGES[name].target) for name in ("retraining", "gradients")]
    text = succeed(cut_otherwise, *targets, *TINY_OPTIONS)
    assert "rule retrain_subsets:" in text and "rule extract_gradients:" in text
    assert [stamps(cut_otherwise / stage.folder, stage.pattern) for stage in stages] == before


def test_other_batch_sizes_agree_to_rounding(tiny: Path, tmp_path: Path) -> None:
    root = clone(tiny, tmp_path / "copy")
    for folder in (FEATURES, OUTPUTS):
        shutil.rmtree(root / folder)
        shutil.rmtree(root / folder.with_suffix(".parts"))
    write_tiny(root, execution={"batch": {"outputs": 37, "features": 3}})
    targets = [str(STAGES[name].target) for name in ("gradients", "outputs")]
    succeed(root, *targets, *TINY_OPTIONS)
    features, expected = (arrays(where / FEATURES)["features"] for where in (root, tiny))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    outputs, expected = (arrays(where / OUTPUTS)["outputs"] for where in (root, tiny))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5)
