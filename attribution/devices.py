"""The device, precision and thread count that a stage computes with."""

import fcntl
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

import torch

from attribution.errors import ConfigurationError

_claims: list[TextIO] = []  # held until the process ends, however it ends


def set_up(compute: dict[str, Any]) -> torch.device:
    """Apply `compute` (device, threads, tf32) to this process and return the device.

    The number of threads comes from the settings and not from the job, because it changes the last
    bits of sums. `auto` is CUDA where there is one, and the CPU otherwise. Of several GPUs, a job
    takes one that no other job on this machine holds.
    """
    torch.set_num_threads(compute["threads"])
    name = compute["device"]
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "compute.device is cuda, but torch sees no CUDA device; set it to auto or cpu"
        )
    torch.backends.cuda.matmul.allow_tf32 = compute["tf32"]
    torch.backends.cudnn.allow_tf32 = compute["tf32"]
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if name == "cuda":
        return torch.device(name, claim(torch.cuda.device_count()))
    return torch.device(name)


def claim(count: int, folder: Path | None = None, patience: float = 600.0) -> int:
    """The number of a GPU that no other process of this workflow holds, from now to its own end.

    Snakemake counts GPUs but does not say which is whose, so processes agree through locks on
    files, which the system frees when a process ends.

    Args:
        count: GPUs that this process sees.
        folder: where the locks lie; the machine's folder of temporary files if not given.
        patience: seconds to wait for one; then GPU 0 is shared, as when more jobs are admitted
            (`--resources gpu=…`) than there are GPUs.
    """
    if count < 2:
        return 0
    folder = folder or Path(tempfile.gettempdir())
    end = time.monotonic() + patience
    while True:
        for number in range(count):
            lock = (folder / f"attribution-gpu-{number}.lock").open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            _claims.append(lock)
            return number
        if time.monotonic() >= end:
            return 0
        time.sleep(1.0)
