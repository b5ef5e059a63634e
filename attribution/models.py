"""Denoising networks: built from settings, saved as folders that diffusers loads."""

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from attribution.errors import ConfigurationError, StoreError
from attribution.provenance import (
    MANIFEST,
    Stopwatch,
    combined_digest,
    file_digest,
    manifest,
    read_manifest,
    write_json,
)
from attribution.randomness import seed as seed_of


def build(settings: dict[str, Any], dropout: float, seed: int) -> UNet2DModel:
    """A freshly initialised UNet; its weights depend on `settings` and `seed` alone.

    Every dropout layer gets probability `dropout`, as the paper's training does; the probability is
    not part of a saved model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("initialisation", seed))
        try:
            model = UNet2DModel(**settings)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"model: diffusers cannot build this UNet: {error}") from None
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return model


def build_lora(pretrained: dict[str, Any], dropout: float, seed: int) -> torch.nn.Module:
    """The network of a `pretrained` section with LoRA freshly drawn from `seed`.

    A process has one such network: another call gives the same object with other matrices.
    """
    from attribution.stable_diffusion import network, reset_lora  # which import transformers

    unet = network(pretrained["model"], pretrained["lora"]["rank"])
    reset_lora(unet, dropout, seed)
    return unet


def trained_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The values that training changes: LoRA's, or else all of them."""
    state = model.state_dict()
    lora = {name: value for name, value in state.items() if "lora_" in name}
    return lora or state


def save(
    model: UNet2DModel,
    folder: Path,
    spec: dict[str, Any],
    stopwatch: Stopwatch,
    repair: str,
    **content: Any,
) -> dict[str, Any]:
    """Write a model folder (config, safetensors, manifest) beside its place, then move it there."""
    scratch = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    if is_lora(model):
        from attribution.stable_diffusion import save_lora

        save_lora(model, scratch)
    else:
        model.save_pretrained(scratch, safe_serialization=True)
    parameters = sum(one.numel() for one in trained_state(model).values())
    return publish(folder, scratch, spec, stopwatch, repair, parameters=parameters, **content)


def publish(
    folder: Path,
    scratch: Path,
    spec: dict[str, Any],
    stopwatch: Stopwatch,
    repair: str,
    **content: Any,
) -> dict[str, Any]:
    """Write the manifest of a model's files, then move all from `scratch` to their place."""
    digests = {file.name: file_digest(file) for file in sorted(scratch.iterdir())}
    record = manifest(
        "model",
        spec,
        stopwatch,
        **content,
        repair=repair,
        files=digests,
        sha256=combined_digest(digests),
    )
    write_json(scratch / MANIFEST, record)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for file in sorted(scratch.iterdir(), key=lambda file: file.name == MANIFEST):
        file.replace(folder / file.name)
    scratch.rmdir()
    return record


def is_lora(model: torch.nn.Module) -> bool:
    """Whether LoRA is trained instead of the network itself."""
    return any("lora_" in name for name, _ in model.named_parameters())


def is_saved(folder: Path, spec: dict[str, Any]) -> bool:
    """Whether the folder holds a whole, undamaged model of this spec."""
    try:
        if read_manifest(folder)["spec"] != spec:
            return False
        check(folder)
    except (StoreError, KeyError):
        return False
    return True


def check(folder: Path) -> dict[str, Any]:
    """The manifest of a model folder; StoreError names the first missing or damaged file."""
    record = read_manifest(folder)
    for name, digest in record["files"].items():
        fault = None
        if not (folder / name).is_file():
            fault = "missing"
        elif file_digest(folder / name) != digest:
            fault = "damaged"
        if fault:
            raise StoreError(f"{folder}: {name} is {fault}; repair it with: {record['repair']}")
    return record


def load(folder: Path, device: torch.device) -> UNet2DModel:
    """A saved model on `device`, in evaluation mode, checked against its manifest.

    LoRA is put into the process's one network: see `build_lora`.
    """
    record = check(folder)
    pretrained = record["spec"].get("settings", {}).get("pretrained")
    if record.get("model_kind") == "stable_diffusion":
        from attribution.stable_diffusion import ADAPTER, finished

        adapter = folder / ADAPTER
        return finished(record["source"], adapter if adapter.is_file() else None).to(device)
    if pretrained and "lora" in pretrained:
        from attribution.stable_diffusion import load_lora, network

        unet = network(pretrained["model"], pretrained["lora"]["rank"])
        load_lora(unet, folder)
        return unet.to(device).eval()
    model = UNet2DModel.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    return model.to(device).eval()


def adopt(folder: Path) -> UNet2DModel:
    """The network of someone's finished model, float32 on the CPU.

    Raises:
        ConfigurationError: diffusers cannot load it, or weights are missing.
    """
    try:
        model, info = UNet2DModel.from_pretrained(
            folder, low_cpu_mem_usage=False, torch_dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # diffusers and what it reads with raise errors of many kinds
        reason = str(error).strip().split("\n")[0]
        raise ConfigurationError(
            f"pretrained.model: diffusers cannot load {folder} ({type(error).__name__}: {reason})"
        ) from None
    if info["missing_keys"]:
        raise ConfigurationError(
            f"pretrained.model: the weights of {folder} lack {sorted(info['missing_keys'])[0]!r} "
            f"and {len(info['missing_keys'])} in all; they are not whole"
        )
    return model.eval()
