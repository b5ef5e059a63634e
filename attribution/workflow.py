"""What every job does around its work: log, threads, and one sentence when it cannot go on."""

import errno
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from attribution.errors import AttributionError


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Send all output, C libraries' too, to the job's log; explain failures in a line."""
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.fdopen(os.dup(2), "w")
    with log.open("w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr
        )
        logging.captureWarnings(True)
        threads = json.loads(snakemake.params.settings).get("compute", {}).get("threads", 1)
        try:
            with threadpool_limits(threads):
                yield
        except Exception as error:
            sentence = _sentence(error, snakemake.rule)
            if sentence is None:
                raise
            line = f"\n{type(error).__name__} in {snakemake.rule}: {sentence}"
            print(line, file=terminal, flush=True)
            with suppress(OSError):  # the log may lie on the disk that is full
                logging.getLogger("attribution").exception("stopped")
                print(line, file=sys.stderr)
            sys.exit(1)


# What decides how much memory a rule's job takes.
MEMORY_SETTINGS = {
    "train_base": "training.batch_size",
    "retrain_subsets": "training.batch_size",
    "retrain_cases": "training.batch_size",
    "encode_latents": "execution.batch.generation",
    "generate_images": "execution.batch.generation",
    "record_trajectories": "execution.batch.generation",
    "evaluate_outputs": "execution.batch.outputs",
    "extract_gradients": "execution.batch.features",
}


def _sentence(error: Exception, rule: str) -> str | None:
    if isinstance(error, AttributionError):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is slow to import
        setting = MEMORY_SETTINGS.get(rule)
        lower = f"lower {setting} and " if setting else "free some, or use a larger GPU, and "
        return (
            f"the GPU's memory is full ({str(error).split('. ')[0]}); {lower}run the same command "
            "again: what was finished is kept."
        )
    if _is_full_disk(error):
        name = getattr(error, "filename", None)
        place = f" for {name}" if name else ""
        return (
            f"no space left on the disk{place}; free some and run the same command again: "
            "what was finished is kept."
        )
    return None


def _is_full_disk(error: Exception) -> bool:
    """Whether a write found no space; safetensors and torch raise errors of their own for it."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    known = (os.strerror(errno.ENOSPC), "iostream error", "unexpected pos")
    return any(text in str(error) for text in known)


def read_settings(snakemake: Any) -> dict[str, Any]:
    """The settings that the rule handed over, by section."""
    return json.loads(snakemake.params.settings)


def merged(base: Any, over: Any) -> Any:
    """`over` laid on `base`: mappings merge key by key, everything else is replaced."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    common = {key: merged(base[key], over[key]) for key in base if key in over}
    return {**base, **over, **common}


def execution(snakemake: Any) -> dict[str, Any]:
    """The experiment's `execution` section: how the work is cut up.

    It is read from the configuration and not from `params`, because it must not make anything
    rerun.
    """
    own = snakemake.config["experiments"][snakemake.wildcards.experiment]
    return merged(snakemake.config["defaults"]["execution"], own.get("execution", {}))


CONFIGFILES = "ATTRIBUTION_CONFIGFILES"


def remember_configfiles(files: Iterable[Any]) -> None:
    """Let the jobs know which configuration files the user gave, for the commands they print."""
    os.environ[CONFIGFILES] = shlex.join(os.path.relpath(file) for file in files)


def repair(target: Any, *parts: Any) -> str:
    """The command that makes a tracked file again, and with it what is missing or damaged.

    Args:
        target: the file; without it as a target, Snakemake would make all of `run` as well.
        parts: the files it is made of, where those jobs and not its own write the data.
    """
    again = " ".join(map(str, parts or (target,)))
    own = os.environ.get(CONFIGFILES, "")
    return f"snakemake --cores all {target} --forcerun {again}" + (own and f" --configfile {own}")


def specification(snakemake: Any, **more: Any) -> dict[str, Any]:
    """What decides the bytes of the job's artifact: code, settings, and `more` (input digests)."""
    return {"code": snakemake.params.code, "settings": read_settings(snakemake), **more}
