"""Bad input: one clear sentence with the place and the remedy, and nothing half-written."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from workflow_copy import (
    TINY_FILE,
    TINY_OPTIONS,
    TINY_RESULTS,
    Outcome,
    clone,
    command,
    copy_workflow,
    digests,
    dry_run,
    dump,
    execute,
    sentences,
    snakemake,
    stamps,
    succeed,
    write_tiny,
)


def smoke(**sections: Any) -> dict[str, Any]:
    """A user's file that changes sections of the experiment `smoke`."""
    return {"experiments": {"smoke": sections}}


FEATURE = "experiments.smoke.features.simple_10"
METHOD = "experiments.smoke.methods.trak_10"
SETTINGS = {
    "top level": (
        {"experimnts": {}},
        "the top level: unknown key 'experimnts'; did you mean 'experiments'?",
    ),
    "section": (
        smoke(trainning={}),
        "experiments.smoke: unknown key 'trainning'; did you mean 'training'?",
    ),
    "key": (
        smoke(training={"epoch": 1}),
        "experiments.smoke.training: unknown key 'epoch'; did you mean 'epochs'?",
    ),
    "nested key": (
        smoke(evaluation={"bootstrap": {"resample": 1}}),
        "experiments.smoke.evaluation.bootstrap: unknown key 'resample'; did you mean 'resamples'?",
    ),
    "key of the defaults": (
        {"defaults": {"kernel": {"lambda": [1]}}},
        "defaults.kernel: unknown key 'lambda'; did you mean 'lambdas'?",
    ),
    "key of a feature set": (
        smoke(features={"simple_10": {"projction": {}}}),
        f"{FEATURE}: unknown key 'projction'; did you mean 'projection'?",
    ),
    "output function": (
        smoke(outputs={"function": "sqare"}),
        "experiments.smoke.outputs.function: unknown value 'sqare'; did you mean 'square'?",
    ),
    "function of a feature set": (
        smoke(features={"simple_10": {"function": "sqare"}}),
        f"{FEATURE}.function: unknown value 'sqare'; did you mean 'square'?",
    ),
    "function of a method": (
        smoke(methods={"trak_10": {"function": "kernl"}}),
        f"{METHOD}.function: unknown function 'kernl'; did you mean 'kernel'?",
    ),
    "dataset": (
        smoke(data={"source": "digit"}),
        "experiments.smoke.data.source: unknown value 'digit'; did you mean 'digits'?",
    ),
    "projection": (
        smoke(features={"simple_10": {"projection": {"kind": "norml"}}}),
        f"{FEATURE}.projection.kind: unknown value 'norml'; did you mean 'normal'?",
    ),
    "too many timesteps": (
        smoke(features={"simple_10": {"timesteps": 2000}}),
        f"{FEATURE}.timesteps: 2000 do not fit the schedule of 1000 timesteps",
    ),
    "timesteps that are no divisor": (
        smoke(features={"simple_10": {"timesteps": 7, "strategy": "uniform"}}),
        f"{FEATURE}.timesteps: uniform needs a divisor of the schedule's 1000 timesteps",
    ),
    "timesteps of the outputs": (
        smoke(outputs={"timesteps": 2000}),
        "experiments.smoke.outputs.timesteps: 2000 do not fit the schedule of 1000 timesteps",
    ),
    "checkpoint": (
        smoke(features={"simple_10": {"checkpoint": 9}}),
        f"{FEATURE}.checkpoint: there is no checkpoint 9",
    ),
    "subsets as large as the training set": (
        smoke(subsets={"fraction": 1.0}),
        "experiments.smoke.subsets.fraction: 1.0 is greater than or equal to the maximum of 1",
    ),
    "subsets larger than the training set": (
        smoke(subsets={"fraction": 1.5}),
        "experiments.smoke.subsets.fraction: 1.5 is greater than or equal to the maximum of 1",
    ),
    "more images than there are": (
        smoke(data={"train": 1790}),
        "experiments.smoke.data: digits has 1797 images",
    ),
    "type": (
        smoke(training={"epochs": "many"}),
        "experiments.smoke.training.epochs: 'many' is not of type 'integer'",
    ),
    "feature set of a method": (
        smoke(methods={"trak_10": {"features": "simple_11"}}),
        f"{METHOD}.features: unknown set 'simple_11'; did you mean 'simple_10'?",
    ),
    "method without features": (
        smoke(methods={"new": {"function": "kernel"}}),
        "experiments.smoke.methods.new: kernel needs `features`",
    ),
    "method of a gallery": (
        smoke(galleries={"methods": ["dtrk_10"]}),
        "experiments.smoke.galleries.methods: unknown method 'dtrk_10'; did you mean 'dtrak_10'?",
    ),
    "experiment": (
        {"run": ["smke"]},
        "run: unknown experiment 'smke'; did you mean 'smoke'?",
    ),
    "run that is no list": ({"run": "smoke"}, "run: 'smoke' is not of type 'array'"),
    "folder that does not exist": (
        smoke(data={"source": "image_folder", "path": "nowhere"}),
        "experiments.smoke.data.path: nowhere is not a folder",
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_bad_setting_stops_before_any_job(workflow: Path, tmp_path: Path, name: str) -> None:
    content, sentence = SETTINGS[name]
    file = tmp_path / "mine.yaml"
    file.write_text(dump(content))
    seen = dry_run(workflow, "--configfile", str(file))
    assert seen.code != 0
    said = [line for line in seen.text.splitlines() if line.startswith("config: ")]
    assert len(said) == 1, seen.text
    assert said[0].startswith(f"config: {sentence}")
    assert "Traceback" not in seen.text


def test_a_bad_name_on_the_command_line(workflow: Path) -> None:
    seen = dry_run(workflow, "--config", "run=[smke]")
    assert seen.code != 0
    assert "config: run: unknown experiment 'smke'; did you mean 'smoke'?" in seen.text


# --- jobs that stop ------------------------------------------------------------------------------


def stopped(root: Path, target: Path | str, error: str, rule: str, *options: str) -> str:
    """Run to a target that cannot be made; the one sentence in the terminal, also in the log."""
    seen = snakemake(root, str(target), *TINY_OPTIONS, *options)
    assert seen.code != 0
    assert not (root / target).exists()
    return said(root, seen.text, error, rule)


def said(root: Path, text: str, error: str, rule: str) -> str:
    found = sentences(text)
    assert len(found) == 1, text
    assert found[0].startswith(f"{error} in {rule}: ")
    assert "Traceback" not in text
    logs = [*root.glob(f"results/*/logs/{rule}.log"), *root.glob(f"results/*/logs/{rule}/**/*.log")]
    assert any(found[0] in log.read_text() for log in logs)
    return found[0]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An image folder as users have it: 12 training and 12 validation images of two labels."""
    pixels = np.random.default_rng(0).integers(256, size=(2, 2, 6, 8, 8), dtype=np.uint8)
    for split, of_split in zip(("train", "validation"), pixels, strict=True):
        for label, of_label in zip(("cat", "dog"), of_split, strict=True):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number, one in enumerate(of_label):
                Image.fromarray(one).save(folder / f"{number}.png")
    return tmp_path / "images"


def unreadable(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


def of_another_size(file: Path) -> None:
    Image.new("L", (9, 7)).save(file)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (unreadable, "cannot be read as an image"),
        (of_another_size, "is 9x7, but the model takes 8x8; set data.resize to true"),
    ],
)
def test_a_bad_image(
    tmp_path: Path, images: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    root = copy_workflow(tmp_path / "copy")
    file = images / "train/dog/3.png"
    spoil(file)
    folder = {"source": "image_folder", "path": str(images), "train": 12, "validation": 12}
    write_tiny(root, data=folder)
    target = TINY_RESULTS / "data/train.zarr/manifest.json"
    line = stopped(root, target, "DataError", "prepare_data")
    assert f"{file} {sentence}" in line
    assert not list((root / TINY_RESULTS / "data").rglob("manifest.json"))


def test_a_training_that_diverges(tiny: Path, tmp_path: Path) -> None:
    root = clone(tiny, tmp_path / "copy")
    shutil.rmtree(root / TINY_RESULTS / "models/base")
    write_tiny(root, training={"learning_rate": 1.0e30})
    target = TINY_RESULTS / "models/base/manifest.json"
    line = stopped(root, target, "NumericalError", "train_base")
    assert re.search(r"the training loss is (nan|inf) in epoch 1 \(seed 42\); lower", line)
    assert "training.learning_rate" in line
    assert not list((root / TINY_RESULTS / "models/base").rglob("*.safetensors"))


def run_on_small_disk(root: Path, folder: Path, size: str, target: Path) -> tuple[Outcome, str]:
    """Run with a file system of that size in the place of `folder`; also the names of its files.

    It is mounted in a name space of the command's own, so it needs no rights and goes with it.
    """
    within = ["unshare", "--user", "--map-root-user", "--mount"]
    shutil.rmtree(root / folder)
    (root / folder).mkdir()
    mount = f"mount -t tmpfs -o size={size} tmpfs {folder}"
    if subprocess.run([*within, "sh", "-c", mount], cwd=root, capture_output=True).returncode:
        pytest.skip("this system lets no user mount a small disk to fill")
    run = shlex.join(command(str(target), *TINY_OPTIONS))
    script = f"{mount} && {run}; code=$?; find {folder} -type f > found; exit $code"
    seen = execute(root, [*within, "sh", "-c", script])
    assert seen.code != 0
    return seen, (root / "found").read_text()


def test_a_disk_that_is_full_of_features(tiny: Path, tmp_path: Path) -> None:
    """Nothing half-written counts as made."""
    root = clone(tiny, tmp_path / "copy")
    write_tiny(root, features={"square": {"function": "square", "projection": {"dim": 4096}}})
    folder = TINY_RESULTS / "features"
    seen, found = run_on_small_disk(root, folder, "64k", folder / "square/train.zarr/manifest.json")
    line = said(root, seen.text, "OSError", "extract_gradients")
    assert "no space left on the disk" in line and "run the same command again" in line
    assert "zarr.json" in found
    assert "manifest.json" not in found and "0-of-1.json" not in found


def test_a_disk_that_is_full_of_everything(tiny: Path, tmp_path: Path) -> None:
    """Where the log has no space either, the terminal still says why; torch has its own error."""
    root = clone(tiny, tmp_path / "copy")
    base = TINY_RESULTS / "models/base/manifest.json"
    seen, found = run_on_small_disk(root, TINY_RESULTS, "300k", base)
    assert len(sentences(seen.text)) == 1, seen.text
    assert re.search(r"^\w+Error in train_base: no space left on the disk", seen.text, re.MULTILINE)
    assert "data/train.zarr/manifest.json" in found
    assert "models/base/manifest.json" not in found


@pytest.mark.parametrize(
    ("store", "other"),
    [
        ("features/square/validation.zarr", "features/square/train.zarr"),
        ("kernels/square.zarr", "features/square/train.zarr"),
    ],
)
def test_features_of_another_projection_are_refused(
    tiny: Path, tmp_path: Path, store: str, other: str
) -> None:
    """A store that was made with another seed of the projection, put in the place of ours."""
    root = clone(tiny, tmp_path / "copy")
    manifest = root / TINY_RESULTS / store / "manifest.json"
    content = json.loads(manifest.read_text())
    content["projection"]["seed"] += 1
    manifest.write_text(json.dumps(content))
    target = TINY_RESULTS / "scores/dtrak/validation.zarr/manifest.json"
    line = stopped(root, target, "StoreError", "score_method")
    assert str(TINY_RESULTS / store) in line and str(TINY_RESULTS / other) in line
    assert "seed" in line


# --- damaged artifacts ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """A file of an artifact to damage, and the rule and artifact of the later stage to find it."""

    artifact: str
    file: str
    rule: str
    found_by: str


DAMAGES = {
    "a chunk of images": Damage(
        "data/train.zarr", "images/c/0/0/0/0", "draw_subsets", "data/subsets.zarr"
    ),
    "the weights of a model": Damage(
        "models/subsets/seed-0/subset-0002",
        "diffusion_pytorch_model.safetensors",
        "evaluate_outputs",
        "outputs/subsets/validation.zarr",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_found_and_repaired(tiny: Path, tmp_path: Path, name: str) -> None:
    """The stage names file and repair; that very command makes the same bytes again."""
    damage = DAMAGES[name]
    root = clone(tiny, tmp_path / "copy")
    expected = digests(root / TINY_RESULTS)
    flip_a_bit(root / TINY_RESULTS / damage.artifact / damage.file)
    line = stopped(root, unmake(root, damage.found_by), "StoreError", damage.rule)
    repair(root, line, f"{damage.file} is damaged")
    assert digests(root / TINY_RESULTS)[damage.artifact] == expected[damage.artifact]


def test_only_missing_and_damaged_chunks_are_made_again(tiny: Path, tmp_path: Path) -> None:
    root = clone(tiny, tmp_path / "copy")
    store = root / TINY_RESULTS / "features/square/train.zarr"
    expected, before = digests(root / TINY_RESULTS), stamps(store, "c/*/*")
    missing, damaged = "features/c/3/0", "features/c/6/0"
    (store / missing).unlink()
    flip_a_bit(store / damaged)
    target = unmake(root, "kernels/square.zarr")
    line = stopped(root, target, "StoreError", "decompose_kernel")
    repair(root, line, f"{missing} is missing")
    after = stamps(store, "c/*/*")
    assert {file for file in before if before[file] != after[file]} == {missing, damaged}
    succeed(root, str(target), *TINY_OPTIONS)
    assert digests(root / TINY_RESULTS) == expected


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def unmake(root: Path, artifact: str) -> Path:
    """Remove an artifact and the parts it is made of; returns the manifest that makes it again."""
    folder = TINY_RESULTS / artifact
    for made in (folder, folder.with_suffix(".parts")):
        shutil.rmtree(root / made, ignore_errors=True)
    return folder / "manifest.json"


def repair(root: Path, sentence: str, fault: str) -> None:
    """Run the command that the sentence names, as it stands there."""
    assert f"{fault}; repair it with: " in sentence
    line = sentence.partition("repair it with: ")[2]
    assert line.endswith(f" --configfile {TINY_FILE}")
    repaired = execute(root, line)
    assert repaired.code == 0, repaired.text
