"""The device, precision and thread count that a stage computes with."""

from typing import Any

import torch

from attribution.errors import ConfigurationError


def set_up(compute: dict[str, Any]) -> torch.device:
    """Apply `compute` (device, threads, tf32) to this process and return the device.

    The number of threads comes from the settings and not from the job, because it changes the last
    bits of sums. `auto` is CUDA where there is one, and the CPU otherwise.
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
    return torch.device(name)
