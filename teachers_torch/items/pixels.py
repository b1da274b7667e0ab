"""A small vision encoder for small raw images, trained with a teacher's pre-training."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor, nn

WIDTH = 64
AT_ONCE = 4096


class PixelEncoder(nn.Module):
    """Three convolutions, each halving the image, then the mean over positions, normalised.

    A vector has norm 8 (the root of its width), so frozen it needs no scaling.
    """

    width = WIDTH

    def __init__(self, image_shape: tuple[int, int, int]):
        super().__init__()
        self.image_shape = image_shape
        sizes = (image_shape[2], 16, 32, WIDTH)
        self.layers = nn.ModuleList(
            nn.Conv2d(fan_in, fan_out, kernel_size=3, stride=2, padding=1)
            for fan_in, fan_out in itertools.pairwise(sizes)
        )
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, pixels: Float[Tensor, "images pixels"]) -> Float[Tensor, "images width"]:
        """Encodes flattened rows × columns × colours in [0, 1]."""
        x = pixels.unflatten(-1, self.image_shape).permute(0, 3, 1, 2) - 0.5
        for layer in self.layers:
            x = F.gelu(layer(x))
        return self.norm(x.mean(dim=(2, 3)))


@torch.inference_mode()
def encode_pixels(
    encoder: PixelEncoder, pixels: Float32[np.ndarray, "items pixels"]
) -> Float32[np.ndarray, "items width"]:
    """The encoder's vectors of all rows, in eval mode."""
    encoder.eval()
    parts = [
        encoder(torch.from_numpy(pixels[start : start + AT_ONCE])).numpy()
        for start in range(0, len(pixels), AT_ONCE)
    ]
    return np.concatenate(parts)
