"""A person's own finished model: found, understood, and refused with the reason if it does not fit.

Accepted are diffusers pipelines whose network is an unconditional UNet2DModel that predicts the
noise (DDPMPipeline, DDIMPipeline, …), as a folder or by hub id, and folders of such a UNet alone;
and Stable Diffusion 1.x, with LoRA or without.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attribution.errors import ConfigurationError

SETTING = "pretrained.model"
SCHEDULE_KEYS = {
    "num_train_timesteps": "timesteps",
    "beta_schedule": "beta_schedule",
    "beta_start": "beta_start",
    "beta_end": "beta_end",
    "clip_sample": "clip_sample",
}
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
WANTED = (
    "name a diffusers pipeline with an unconditional UNet2DModel that predicts the noise, or "
    "Stable Diffusion 1.x"
)
UNCONDITIONAL = "unconditional"
STABLE_DIFFUSION = "stable_diffusion"
NEEDED = ("*.json", "*.txt", "*.safetensors", "diffusion_pytorch_model.bin")


@dataclass(frozen=True)
class Described:
    """What attribution needs to know of a model.

    kind: UNCONDITIONAL or STABLE_DIFFUSION; unet: folder of the network; diffusion: the settings of
    its schedule, without those that no file says; image_size, channels: of its images; shape: of
    what is noised; states: tokens and width of captions, or None; pipeline: the class that
    diffusers names.
    """

    kind: str
    unet: Path
    diffusion: dict[str, Any]
    image_size: int
    channels: int
    shape: tuple[int, int, int]
    states: tuple[int, int] | None
    pipeline: str


def fetch(source: str) -> Path:
    """The folder of a model: a local one, or a hub id's after its download.

    Raises:
        ConfigurationError: there is no such folder, or the hub does not give it.
    """
    place = Path(source).expanduser()
    if place.is_dir():
        return place
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ConfigurationError(f"{SETTING}: {source} is neither a folder nor a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(NEEDED)))
    except Exception as error:  # the hub's client raises errors of many kinds
        reason = str(error).strip().split("\n")[0]
        raise ConfigurationError(
            f"{SETTING}: {source} is no folder here, and the hub does not give it "
            f"({type(error).__name__}: {reason})"
        ) from None


def fingerprint(source: str) -> str:
    """What tells a local model from the same after a change (sizes, times); a hub id itself."""
    place = Path(source).expanduser()
    if not place.is_dir():
        return source
    digest = hashlib.sha256()
    parts = ("unet", "scheduler", "vae", "text_encoder", "tokenizer")
    for folder in (place, *(place / part for part in parts)):
        for file in sorted(folder.glob("*")):
            if file.is_file():
                stat = file.stat()
                name = file.relative_to(place).as_posix()
                digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def describe(folder: Path) -> Described:
    """Read a model's configuration; no weights are loaded.

    Raises:
        ConfigurationError: it is none that can be attributed; the message says what it is.
    """
    index = folder / "model_index.json"
    pipeline = str(_read(index).get("_class_name")) if index.is_file() else ""
    unet = folder / "unet" if (folder / "unet" / "config.json").is_file() else folder
    if not (unet / "config.json").is_file():
        named = f"holds a {pipeline}, which has no UNet" if pipeline else "holds no diffusers model"
        raise ConfigurationError(f"{SETTING}: {folder} {named}; {WANTED}")
    config = _read(unet / "config.json")
    latent = pipeline == "StableDiffusionPipeline"
    (_check_conditional if latent else _check_network)(folder, config, pipeline)
    schedule = folder / "scheduler" / "scheduler_config.json"
    size, channels = config["sample_size"], config["in_channels"]
    return Described(
        kind=STABLE_DIFFUSION if latent else UNCONDITIONAL,
        unet=unet,
        diffusion=_diffusion(folder, _read(schedule)) if schedule.is_file() else {},
        image_size=size * _reduction(folder) if latent else size,
        channels=3 if latent else channels,
        shape=(channels, size, size),
        states=_states(folder, config) if latent else None,
        pipeline=pipeline or "UNet2DModel",
    )


def _reduction(folder: Path) -> int:
    """By how much the autoencoder reduces the sides of images."""
    return 2 ** (len(_part(folder, "vae")["block_out_channels"]) - 1)


def _states(folder: Path, config: dict[str, Any]) -> tuple[int, int]:
    tokens = _part(folder, "text_encoder")["max_position_embeddings"]
    return tokens, config["cross_attention_dim"]


def _part(folder: Path, name: str) -> dict[str, Any]:
    file = folder / name / "config.json"
    if not file.is_file():
        raise ConfigurationError(f"{SETTING}: {folder} has no {name}; {WANTED}")
    return _read(file)


def _check_conditional(folder: Path, config: dict[str, Any], pipeline: str) -> None:
    """Refuse what is like Stable Diffusion and is not its first version."""
    faults = {
        f"is a {config.get('_class_name')}": config.get("_class_name") != "UNet2DConditionModel",
        "takes more than latents (inpainting, depth)": config.get("in_channels") != 4,
        "is that of Stable Diffusion XL": config.get("addition_embed_type") is not None,
        "is that of Stable Diffusion 2": config.get("cross_attention_dim") == 1024,
        "takes images that are not square": not isinstance(config.get("sample_size"), int),
    }
    for fault, there in faults.items():
        if there:
            raise ConfigurationError(f"{SETTING}: the network of {folder} {fault}; {WANTED}")


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{SETTING}: {file} is not JSON ({error})") from None


def _check_network(folder: Path, config: dict[str, Any], pipeline: str) -> None:
    kind = config.get("_class_name")
    size = config.get("sample_size")
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        config["sample_size"] = size = size[0]
    faults = {
        f"is a {kind or 'model of an unknown class'}{f' of a {pipeline}' if pipeline else ''}": (
            kind != "UNet2DModel"
        ),
        "is conditioned on classes": bool(
            config.get("class_embed_type") or config.get("num_class_embeds")
        ),
        "predicts variances or something else beside the noise": (
            config.get("in_channels") != config.get("out_channels")
        ),
        f"takes images of {config.get('in_channels')} channels": (
            config.get("in_channels") not in (1, 3)
        ),
        f"takes images that are not square (sample_size {size})": not isinstance(size, int),
    }
    for fault, there in faults.items():
        if there:
            raise ConfigurationError(f"{SETTING}: the network of {folder} {fault}; {WANTED}")


def _diffusion(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The `diffusion` settings that a scheduler's configuration says."""
    schedule = config.get("beta_schedule")
    predicts = config.get("prediction_type", "epsilon")
    faults = {
        f"has the schedule {schedule or config.get('_class_name')}": schedule not in SCHEDULES,
        f"predicts {predicts}": predicts != "epsilon",
        "has betas of its own (trained_betas)": config.get("trained_betas") is not None,
        "rescales its betas to zero signal": bool(config.get("rescale_betas_zero_snr")),
    }
    for fault, there in faults.items():
        if there:
            raise ConfigurationError(f"{SETTING}: the scheduler of {folder} {fault}; {WANTED}")
    return {ours: config[theirs] for theirs, ours in SCHEDULE_KEYS.items() if theirs in config}
