"""Stable Diffusion 1.x with LoRA on all attention projections (paper section 4.2, ArtBench).

Only the matrices of LoRA are trained, saved and differentiated; UNet, autoencoder and text encoder
stay as they were published. Networks work on latents of the autoencoder, conditioned on captions.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from attribution.errors import ConfigurationError, StoreError
from attribution.own_model import fetch
from attribution.randomness import seed as seed_of

WEIGHTS = "pytorch_lora_weights.safetensors"
ADAPTER = "adapter.safetensors"  # the name of a copy of someone's LoRA
# Of the published Stable Diffusion v1 at 256 x 256, for counting without its weights.
SD_V1_UNET: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}


def part_of(folder: Path, name: str) -> Path:
    """A part of a Stable Diffusion pipeline; ConfigurationError if it has none of that name."""
    if not (folder / name).is_dir():
        raise ConfigurationError(
            f"pretrained.model: {folder} has no {name}; name a Stable Diffusion 1.x pipeline"
        )
    return folder / name


def latent_shape(model: str, image_size: int) -> tuple[int, int, int]:
    """Channels, height and width of the latents of square images.

    Raises:
        ConfigurationError: the autoencoder does not divide that size.
    """
    config = json.loads((part_of(fetch(model), "vae") / "config.json").read_text("utf-8"))
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    if image_size % factor:
        raise ConfigurationError(
            f"data.image_size: {image_size} is no multiple of {factor}, by which the autoencoder "
            f"of {model} reduces images"
        )
    return config["latent_channels"], image_size // factor, image_size // factor


def add_lora(unet: UNet2DConditionModel, rank: int) -> None:
    """Put LoRA of this rank, scale 1, on q, k, v and output of every attention.

    Everything else of the network is frozen; the new matrices are float32.
    """
    unet.requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, bias="none"))


def reset_lora(unet: UNet2DConditionModel, dropout: float, seed: int) -> None:
    """Draw the matrices anew: down from N(0, 1/rank^2), up 0, so that training begins at the
    published network. Dropout acts on the outputs of the attentions only, as in the paper's code.
    """
    generator = torch.Generator().manual_seed(seed_of("initialisation", seed))
    for name, parameter in sorted(unet.named_parameters()):
        if "lora_A" in name:
            drawn = torch.randn(parameter.shape, generator=generator) / parameter.shape[0]
            parameter.data.copy_(drawn)
        elif "lora_B" in name:
            parameter.data.zero_()
    for name, module in unet.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout if name.endswith("to_out.1") else 0.0


@lru_cache(maxsize=1)
def network(model: str, rank: int) -> UNet2DConditionModel:
    """The published network with LoRA, in evaluation mode: one a process, whose LoRA is exchanged.

    Raises:
        ConfigurationError: it cannot be loaded, or predicts something other than the noise.
    """
    folder = part_of(fetch(model), "unet")
    schedule = folder.parent / "scheduler" / "scheduler_config.json"
    config = json.loads(schedule.read_text("utf-8")) if schedule.is_file() else {}
    if config.get("prediction_type", "epsilon") != "epsilon":
        raise ConfigurationError(
            f"pretrained.model: {model} predicts {config['prediction_type']}, not the noise"
        )
    try:
        unet = UNet2DConditionModel.from_pretrained(
            folder, torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
    except Exception as error:  # diffusers and what it reads with raise errors of many kinds
        reason = str(error).strip().split("\n")[0]
        raise ConfigurationError(
            f"pretrained.model: diffusers cannot load {folder} ({type(error).__name__}: {reason})"
        ) from None
    add_lora(unet, rank)
    return unet.eval()


def lora_state(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """A copy of the matrices by their names in peft's format, on the CPU."""
    state = get_peft_model_state_dict(unet)
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def save_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the matrices as a file that StableDiffusionPipeline.load_lora_weights reads."""
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=lora_state(unet))


def load_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """Put saved matrices in the place of those of the network.

    Raises:
        StoreError: they do not fit.
    """
    saved, _ = StableDiffusionPipeline.lora_state_dict(folder / WEIGHTS)
    saved = {name.removeprefix("unet."): value for name, value in saved.items()}
    wanted = {name: one.shape for name, one in get_peft_model_state_dict(unet).items()}
    if {name: one.shape for name, one in saved.items()} != wanted:
        raise StoreError(f"{folder}: {WEIGHTS} does not fit the network; train it again")
    set_peft_model_state_dict(unet, saved)


def adapter_state(adapter: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Someone's LoRA in diffusers' form, whatever the format it was saved in, and its alphas.

    Raises:
        ConfigurationError: diffusers cannot read it, or it holds nothing for the UNet.
    """
    try:
        state, alphas = StableDiffusionPipeline.lora_state_dict(adapter)
    except Exception as error:  # diffusers and what it reads with raise errors of many kinds
        reason = str(error).strip().split("\n")[0]
        raise ConfigurationError(
            f"pretrained.adapter: diffusers cannot read {adapter} as LoRA weights "
            f"({type(error).__name__}: {reason})"
        ) from None
    if not any(name.startswith("unet.") for name in state):
        raise ConfigurationError(f"pretrained.adapter: {adapter} holds no LoRA for the UNet")
    return state, alphas


def finished(model: str, adapter: Path | None) -> UNet2DConditionModel:
    """Someone's finished network, in evaluation mode; gradients are over its LoRA, if it has one,
    and over all of it otherwise."""
    folder = part_of(fetch(model), "unet")
    unet = UNet2DConditionModel.from_pretrained(
        folder, torch_dtype=torch.float32, low_cpu_mem_usage=False
    )
    if adapter is not None:
        state, alphas = adapter_state(adapter)
        unet.requires_grad_(False)
        StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet)
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_("lora_" in name)
    return unet.eval()


class Autoencoder:
    """The published autoencoder, float32; latents are scaled as the network expects them."""

    def __init__(self, model: str, device: torch.device):
        folder = part_of(fetch(model), "vae")
        self._vae = AutoencoderKL.from_pretrained(
            folder, torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
        self._vae = self._vae.to(device).eval().requires_grad_(False)
        self._scale, self.device = self._vae.config.scaling_factor, device

    @torch.inference_mode()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of images [images, 3, height, width] in
        [-1, 1]: [images, channels, height, width] each, scaled."""
        found = self._vae.encode(images.to(self.device)).latent_dist
        return found.mean * self._scale, found.std * self._scale

    def unscaled(self, images: Tensor) -> Tensor:
        """The mean of the latents as the autoencoder itself gives it."""
        return self.encode(images)[0] / self._scale

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Images in about [-1, 1] of scaled latents."""
        return self._vae.decode(latents.to(self.device) / self._scale).sample


class TextEncoder:
    """The published text encoder, float32; with LoRA where an adapter holds some for it."""

    def __init__(self, model: str, device: torch.device, adapter: Path | None = None):
        folder = fetch(model)
        self._tokenizer = CLIPTokenizer.from_pretrained(part_of(folder, "tokenizer"))
        text = CLIPTextModel.from_pretrained(part_of(folder, "text_encoder"), dtype=torch.float32)
        if adapter is not None:
            state, alphas = adapter_state(adapter)
            if any(name.startswith("text_encoder.") for name in state):
                StableDiffusionPipeline.load_lora_into_text_encoder(state, alphas, text)
        self._text, self.device = text.to(device).eval(), device

    @torch.inference_mode()
    def embed(self, captions: list[str]) -> Tensor:
        """The last hidden states of captions, padded or cut to the encoder's length:
        [captions, tokens, width]."""
        tokens = self._tokenizer(
            captions,
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self._text(tokens.to(self.device))[0]
