"""The small network, and the noise schedule, that several test files share."""

import functools
from typing import Any

import torch
from diffusers import UNet2DModel

DIFFUSION: dict[str, Any] = {
    "timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "clip_sample": True,
}


def network_settings(channels: int) -> dict[str, Any]:
    """The `model` section of a UNet for 8x8 grey images, half as many groups as channels."""
    return {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": [channels, channels],
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "add_attention": False,
        "norm_num_groups": channels // 2,
    }


@functools.cache
def network(channels: int) -> UNet2DModel:
    """That UNet with weights of a fixed seed, in evaluation mode; made once for each size."""
    torch.manual_seed(1)
    return UNet2DModel(**network_settings(channels)).eval()
