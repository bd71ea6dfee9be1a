"""ContextEncoder: a timm ViT that drops hidden patches before its first block."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from hjepa.models.positions import sincos_2d
from hjepa.models.recompute import Recomputing


class ContextEncoder(Recomputing):
    """Encodes the visible patches of images; hidden patches never enter a block.

    The network is timm's ``VisionTransformer`` without class token, so ``vit.state_dict()`` loads in
    stock timm. Position embeddings are fixed sine-cosine tables, computed (not resampled) for any grid.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch_size: int,
        channels: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.architecture = {
            "img_size": list(image_size),
            "patch_size": patch_size,
            "in_chans": channels,
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": mlp_ratio,
        }
        self.vit = VisionTransformer(**self.architecture, **TIMM_FIXED, dynamic_img_size=True, weight_init="skip")
        self.width, self.depth, self.patch_size = width, depth, patch_size
        table = sincos_2d(width, self.grid(image_size))
        self.vit.pos_embed.requires_grad_(False).copy_(table[None])

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the patch grid (GH, GW) of images of (H, W) pixels."""
        return image_size[0] // self.patch_size, image_size[1] // self.patch_size

    def forward(
        self, images: Tensor, visible: Tensor | None = None, depths: Sequence[int] | None = None
    ) -> Tensor | list[Tensor]:
        """Encode normalised images [B, C, H, W] to tokens [B, V, D].

        ``visible`` [B, V] holds row-major patch indices; without it, all N patches are encoded. It may have several
        adjacent rows per image; B then counts rows. With ``depths`` (from 1), returns a list of the tokens after each
        of these blocks; those of the last block pass through the final norm.
        """
        tokens, taken = self.embed(images, visible), {}
        for depth, block in enumerate(self.vit.blocks, start=1):
            tokens = self.run_block(block, tokens)
            if depths and depth in depths:
                taken[depth] = tokens
        taken[self.depth] = self.vit.norm(tokens)
        return taken[self.depth] if depths is None else [taken[depth] for depth in depths]

    def block_tokens(self, images: Tensor, last: int) -> list[Tensor]:
        """Return the tokens [B, N, D] after each of the last ``last`` blocks, final norm applied."""
        tokens, outputs = self.embed(images), []
        for block in self.vit.blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        return [self.vit.norm(tokens) for tokens in outputs[-last:]]

    def embed(self, images: Tensor, visible: Tensor | None = None) -> Tensor:
        """Embed the visible patches (all by default) and add position embeddings: [B, V, D], B rows of ``visible``."""
        if visible is not None and len(visible) * visible.shape[1] < len(images) * self._patches(images):
            return self._embed_visible(images, visible)
        patches = self.vit.patch_embed(images)  # [B, GH, GW, D]
        table = self._position_table((patches.shape[1], patches.shape[2]))
        # Under autocast the patches are 16-bit, but the table is not: the sum, and with it the residual stream,
        # stays in float32. In bfloat16, positions of size 1 would swallow what a block adds (docs/decisions/0007).
        tokens = patches.flatten(1, 2) + table  # [B, N, D]
        if visible is not None:
            # Several rows of an image see more patches than it has: each is embedded once.
            of_images = visible.reshape(len(images), -1)  # [images, rows * V]
            tokens = tokens.gather(1, of_images[..., None].expand(-1, -1, tokens.shape[-1]))
            tokens = tokens.reshape(*visible.shape, -1)
        return tokens

    def _embed_visible(self, images: Tensor, visible: Tensor) -> Tensor:
        """Embed the visible patches alone: the same sums as the convolution's, without those of hidden patches."""
        side, projection = self.patch_size, self.vit.patch_embed.proj
        grid = self.grid((images.shape[-2], images.shape[-1]))
        cut = images.unflatten(3, (grid[1], side)).unflatten(2, (grid[0], side))  # [images, C, GH, side, GW, side]
        pixels = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [images, N, C * side**2]
        of_images = visible.reshape(len(images), -1)  # [images, rows * V]
        seen = pixels.gather(1, of_images[..., None].expand(-1, -1, pixels.shape[-1]))
        patches = F.linear(seen, projection.weight.flatten(1), projection.bias)
        return patches.reshape(*visible.shape, -1) + self._position_table(grid)[0][visible]

    def _patches(self, images: Tensor) -> int:
        """Return N, the number of patches of an image."""
        height, width = self.grid((images.shape[-2], images.shape[-1]))
        return height * width

    def _position_table(self, grid: tuple[int, int]) -> Tensor:
        """Return [1, N, D] for a grid: the stored table, or one computed for another image size."""
        stored: Tensor = self.vit.pos_embed
        # An exported program for any size has symbols for numbers here: a comparison would fix them.
        symbolic = not all(isinstance(side, int) for side in grid)
        if not symbolic and grid == tuple(self.vit.patch_embed.grid_size):
            return stored
        return sincos_2d(self.width, grid)[None].to(stored)


def normalise_pixels(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (images - mean) / std for uint8 images or floats in 0..1; mean and std are [C, 1, 1]."""
    scaled = images.to(mean.dtype) / 255.0 if images.dtype == torch.uint8 else images.to(mean.dtype)
    return (scaled - mean) / std


def build_encoder(**sizes: Any) -> ContextEncoder:
    """Build an encoder without touching the global random state; its weights are not initialised yet."""
    with torch.random.fork_rng(devices=[]):  # PyTorch initialises layers when they are built
        return ContextEncoder(**sizes)


# Arguments with which a stock `timm.models.vision_transformer.VisionTransformer` is the same network.
TIMM_FIXED: dict[str, object] = {
    "num_classes": 0,
    "class_token": False,
    "global_pool": "avg",
    "fc_norm": False,
}


def set_attention(module: nn.Module, kind: str) -> None:
    """Select timm's ``fused`` (scaled_dot_product_attention) or ``plain`` attention in all blocks.

    Same mathematics, different kernels: plain is about twice as fast in bfloat16 on some CPUs.
    """
    for part in module.modules():
        if isinstance(part, Attention):
            part.fused_attn = kind == "fused"
