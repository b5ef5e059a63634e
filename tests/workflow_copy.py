"""A copy of the workflow in a temporary folder, to run, to kill, to edit, and to ask what it plans.

Long runs start `python -m snakemake` as a user does. Dry runs and plans start from a process that
has imported Snakemake once (`forkserver`), in a fresh child each, so that no module of another copy
and no cached digest is seen.
"""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import yaml
import zarr

ROOT = Path(__file__).resolve().parent.parent
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", ".snakemake", "results", "__pycache__", ".*_cache", "*.egg-info", "build"
)  # fmt: skip
TARGETS = ("all",)  # what a finished run has made
PATIENCE = 900  # seconds after which a run counts as hung

Edits = Mapping[str, str | Callable[[str], str]]


class Outcome(NamedTuple):
    """How a command ended, and what a user saw in the terminal."""

    code: int
    text: str


def copy_workflow(target: Path) -> Path:
    """Copy the working tree, without results and environments, to `target`."""
    shutil.copytree(ROOT, target, ignore=NOT_COPIED)
    return target


def command(*arguments: str, cores: int = 2) -> list[str]:
    """The command line of a user; targets come first, because some options take several values."""
    return [sys.executable, "-m", "snakemake", "--cores", str(cores), *arguments]


def environment() -> dict[str, str]:
    """The variables of a user's terminal: without those by which pytest's own process differs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}


def snakemake(root: Path, *arguments: str, cores: int = 2) -> Outcome:
    """Run Snakemake in `root` and wait for its end."""
    return execute(root, command(*arguments, cores=cores))


def execute(root: Path, line: Sequence[str] | str) -> Outcome:
    """Run a command line (a string: through the shell, with this Python's programs first)."""
    variables = environment()
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    ended = subprocess.run(
        line,
        cwd=root,
        env=variables,
        shell=isinstance(line, str),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    return Outcome(ended.returncode, ended.stdout)


def succeed(root: Path, *arguments: str, cores: int = 2) -> str:
    """Run Snakemake in `root`; a failure shows what the user saw."""
    ended = snakemake(root, *arguments, cores=cores)
    assert ended.code == 0, ended.text
    return ended.text


def kill_when(root: Path, reached: Callable[[], bool], *arguments: str, cores: int = 2) -> None:
    """Start Snakemake and kill -9 its whole process group as soon as `reached()`."""
    with tempfile.TemporaryFile("w+") as terminal:
        process = psutil.Popen(
            command(*arguments, cores=cores),
            cwd=root,
            env=environment(),
            stdout=terminal,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while not reached():
                assert process.poll() is None, _written(terminal)
                assert time.monotonic() < deadline, f"never reached\n{_written(terminal)}"
                time.sleep(0.002)
        finally:
            running = process.poll() is None
            jobs = process.children(recursive=True) if running else []
            if running:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        psutil.wait_procs(jobs, timeout=30)
        assert not [job for job in jobs if job.is_running()], "a job survived its group"
        assert running, "Snakemake ended before it could be killed"


def _written(terminal: Any) -> str:
    terminal.seek(0)
    return terminal.read()


# --- dry runs -------------------------------------------------------------------------------------

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["snakemake.cli", "snakemake.api", "jsonschema", "pandas"])


def in_child(root: Path, *arguments: str) -> Outcome:
    """A short `snakemake` command, in `root`: its exit code and what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        terminal = Path(folder, "terminal")
        child = _FORKS.Process(target=_command_line, args=(root, terminal, list(arguments)))
        child.start()
        child.join(PATIENCE)
        assert child.exitcode is not None
        return Outcome(child.exitcode, terminal.read_text())


def dry_run(root: Path, *arguments: str) -> Outcome:
    """`snakemake -n` with these arguments, in `root`."""
    return in_child(root, "-n", *arguments)


def planned(
    root: Path,
    targets: Sequence[str] = (),
    edits: Edits | None = None,
    config: Mapping[str, Any] | None = None,
) -> Counter[str]:
    """How many jobs of each rule would run for `targets` in `root`; collectors are not counted.

    Args:
        targets: rules or files; without any, `all`.
        edits: files of the tree to their new text, or to a function of their text.
        config: what `--config` says.
    """
    with edited(root, edits or {}), tempfile.TemporaryDirectory() as folder:
        terminal, answer = Path(folder, "terminal"), Path(folder, "answer")
        child = _FORKS.Process(
            target=_plan, args=(root, terminal, answer, list(targets), dict(config or {}))
        )
        child.start()
        child.join(PATIENCE)
        assert child.exitcode == 0, terminal.read_text()
        return Counter(json.loads(answer.read_text()))


@contextmanager
def edited(root: Path, edits: Edits) -> Iterator[None]:
    """Files of the tree with another text for a while; times of modification come back too."""
    before = {root / name: ((root / name).read_text(), (root / name).stat()) for name in edits}
    try:
        for name, new in edits.items():
            old, _ = before[root / name]
            text = new(old) if callable(new) else new
            assert text != old, f"the edit of {name} changes nothing"
            (root / name).write_text(text)
        yield
    finally:
        for path, (text, stat) in before.items():
            path.write_text(text)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _enter(root: Path, terminal: Path) -> None:
    """Make this child's folder, output and import path those of a command in `root`."""
    os.chdir(root)
    with terminal.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    assert not any(name.partition(".")[0] == "attribution" for name in sys.modules)
    sys.path[:] = [path for path in sys.path if Path(path).resolve() not in (ROOT, ROOT / "tests")]


def _command_line(root: Path, terminal: Path, arguments: list[str]) -> None:
    _enter(root, terminal)
    from snakemake.cli import main

    main(arguments)


def _plan(
    root: Path, terminal: Path, answer: Path, targets: list[str], config: dict[str, Any]
) -> None:
    _enter(root, terminal)
    from snakemake.api import SnakemakeApi
    from snakemake.settings.enums import Quietness, RerunTrigger
    from snakemake.settings.types import (
        ConfigSettings,
        DAGSettings,
        OutputSettings,
        ResourceSettings,
    )

    profile = yaml.safe_load((root / "profiles/default/config.yaml").read_text())
    triggers = {RerunTrigger.parse_choice(name) for name in profile["rerun-triggers"]}
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            snakefile=root / "Snakefile",
            workdir=root,
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(config=config),
        )
        dag = workflow.dag(DAGSettings(targets=frozenset(targets), rerun_triggers=triggers))
        dag.execute_workflow(executor="dryrun")
        jobs = workflow._workflow.dag.needrun_jobs(exclude_finished=False)
        counts = Counter(job.rule.name for job in jobs if job.rule.output)
    answer.write_text(json.dumps(counts))


# --- configurations -------------------------------------------------------------------------------


def configuration(root: Path) -> dict[str, Any]:
    """config.yaml of the copy, as a mapping."""
    return yaml.safe_load((root / "config.yaml").read_text())


def change(*path_and_value: Any) -> Callable[[str], str]:
    """An edit of config.yaml: the value (last argument) at a path of keys, the others before it."""
    *parents, last, value = path_and_value

    def edit(text: str) -> str:
        content = yaml.safe_load(text)
        place = content
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
        return dump(content)

    return edit


def dump(content: Any) -> str:
    """YAML without anchors, which keeps the order of keys."""
    return yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False)


def write_experiment(path: Path, name: str, settings: dict[str, Any]) -> Path:
    """A user's own configuration file with one experiment, which is also the one to run."""
    path.write_text(dump({"run": [name], "experiments": {name: settings}}))
    return path


# --- results --------------------------------------------------------------------------------------


def manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifests below a folder by their artifact's path."""
    return {
        str(path.parent.relative_to(folder)): json.loads(path.read_text())
        for path in sorted(folder.rglob("manifest.json"))
    }


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every artifact's data below a folder."""
    return {name: manifest["sha256"] for name, manifest in manifests(folder).items()}


def arrays(store: Path) -> dict[str, np.ndarray]:
    """The arrays of a store by name."""
    group = zarr.open_group(store, mode="r")
    return {name: np.asarray(array[:]) for name, array in group.arrays()}


def stamps(folder: Path, pattern: str) -> dict[str, tuple[int, int]]:
    """(inode, time of modification) of the files that match: a file written anew has others."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    }


def clone(root: Path, target: Path) -> Path:
    """A copy of a workflow with its results and Snakemake's records, times of modification kept."""
    shutil.copytree(root, target, symlinks=True)
    return target


def sentences(text: str) -> list[str]:
    """The lines in which a stage says why it stopped: `ErrorClass in rule: sentence`."""
    return re.findall(r"^\w+(?:Error)? in \w+: .*$", text, flags=re.MULTILINE)


# The smallest experiment with every stage; each is slow enough to be killed in its middle.
TINY: dict[str, Any] = {
    "compute": {"device": "cpu"},
    "data": {"train": 40, "validation": 12},
    "subsets": {"count": 4},
    "model": {"block_out_channels": [8, 8], "norm_num_groups": 4},
    "training": {"epochs": 20, "batch_size": 5, "learning_rate": 0.002, "checkpoints": 1},
    "generation": {"images": 4, "steps": 3},
    "retraining": {"seeds": 1},
    "outputs": {"timesteps": 100, "strategy": "midpoints", "noises": 2, "groups": 5},
    "features": {"square": {"function": "square", "timesteps": 80, "projection": {"dim": 256}}},
    "methods": {"dtrak": {"function": "kernel", "features": "square"}},
    "evaluation": {"bootstrap": {"interval_resamples": 10}, "heldout": {"splits": 2}},
    "execution": {
        "models_per_job": 4,
        "output_models_per_job": 4,
        "rows_per_chunk": 5,
        "save_seconds": 0.2,
        "batch": {"outputs": 100, "features": 5},
    },
}
TINY_FILE = "mine.yaml"  # a user's own configuration, beside the Snakefile
TINY_RESULTS = Path("results/tiny")
TINY_OPTIONS = ("--configfile", TINY_FILE)
TINY_TARGET = str(TINY_RESULTS / "tables/lds.csv")


def write_tiny(root: Path, **sections: dict[str, Any]) -> None:
    """Write the user's configuration with the tiny experiment, some of its settings changed."""
    settings = json.loads(json.dumps(TINY))
    for name, section in sections.items():
        settings.setdefault(name, {}).update(section)
    write_experiment(root / TINY_FILE, "tiny", settings)
