"""Predictor: from visible tokens to the tokens of target blocks, as published."""

from collections.abc import Sequence

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from hjepa.models.positions import sincos_2d


class Predictor(nn.Module):
    """Predicts each target block in a sequence of its own: ``[context ; mask tokens]``.

    One learned mask token plus the position of the patch it stands for is the query; attention is
    joint over context and queries. Each level has a head of its own on the answer
    (docs/decisions/0008). Parameter names are those of the released I-JEPA checkpoints.
    """

    def __init__(
        self,
        *,
        grid: tuple[int, int],
        encoder_width: int,
        target_widths: Sequence[int],
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.predictor_embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        table = sincos_2d(width, grid).to(torch.get_default_dtype())
        self.predictor_pos_embed = nn.Parameter(table[None], requires_grad=False)
        self.predictor_blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio=mlp_ratio, qkv_bias=True) for _ in range(depth)
        )
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        # A head for each level: the rows of one matrix.
        self.target_widths = list(target_widths)
        self.predictor_proj = nn.Linear(width, sum(target_widths))

    def forward(self, context: Tensor, context_index: Tensor, target_index: Tensor) -> list[Tensor]:
        """Predict the targets [B, K, T, D] of each level from context tokens [B, V, D].

        ``context_index`` [B, V] and ``target_index`` [B, K, T] are row-major patch indices.
        """
        images, blocks, size = target_index.shape
        table = self.predictor_pos_embed[0]  # [N, P]
        # Positions stay in float32, also under autocast, as in the encoder (docs/decisions/0007).
        seen = self.predictor_embed(context) + table[context_index]  # [B, V, P]
        queries = self.mask_token + table[target_index.flatten(0, 1)]  # [B*K, T, P]
        tokens = torch.cat([seen.repeat_interleave(blocks, dim=0), queries], dim=1)  # [B*K, V+T, P]
        for block in self.predictor_blocks:
            tokens = block(tokens)
        predicted = self.predictor_proj(self.predictor_norm(tokens[:, -size:]))  # [B*K, T, sum of D]
        return list(predicted.unflatten(0, (images, blocks)).split(self.target_widths, dim=-1))
